// Composes the canvas of a view from whole grids of other views: each cell from all sources that
// saw the front surface there, by what their sight is worth.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "cpp/memory/view_weight.hpp"

namespace mosaicmem {

enum class Direction {
    forward,   // source cells are splatted
    backward,  // target cells are looked up in the sources
};

struct BlendOptions {
    Direction direction;
    float depth_tolerance;  // relative thickness of a surface
    ViewWeightScales scales;
};

struct BlendCanvas {
    float* latents;          // (rows, columns, channels), zero where uncovered
    std::uint8_t* coverage;  // (rows, columns)
    float* depth;            // (rows, columns) metres, of the front surface; 0 where uncovered
    std::int32_t* source;    // (rows, columns) index of that with the cell that counts most, or -1
    float* weight;           // (rows, columns) total worth; 0 where uncovered
};

// A source cell is a tent over the target grid, as wide as its size there, from one to kMostSpread
// cells. The front surface of a cell is the nearest of those that are over it by a quarter or more
// (a fringe less wide would hide what is behind an edge), or of all where there is none. Holes of
// up to kWidestHole cells between two sides of one surface are given its depth. `forward` averages
// what lands within the tolerance of the front, and looks up the closed holes; `backward` looks up
// all cells, by bilinear interpolation over the source cells that are at the expected depth.
void blend(std::span<const SourceGrid> sources, const TargetGrid& target,
           const BlendOptions& options, std::size_t channels, const BlendCanvas& canvas);

}  // namespace mosaicmem
