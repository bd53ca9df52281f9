// Composes a view's canvas from the whole grids of other views: each cell averages all sources that
// saw the front surface there, weighted by their worth (see view_weight.hpp).
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
    std::int32_t* source;    // (rows, columns) index of the source that weighs most, or -1
    float* weight;           // (rows, columns) total weight; 0 where uncovered
};

// A source cell, or each of its subcells, is splatted as a tent over the target grid, whose
// half-width is its projected size, clamped to least_spread() to kMostSpread target cells. The
// front surface of a target cell is the nearest source cell whose tent there is at least a quarter
// high (a fainter fringe would hide what lies behind an edge), or the nearest of all if there is
// none. Holes of up to kWidestHole cells between two sides of one surface are closed with its
// depth. `forward` averages the splats within the depth tolerance of the front, and looks up the
// closed holes; `backward` looks up all cells, by bilinear interpolation over the source cells at
// the expected depth.
void blend(std::span<const SourceGrid> sources, const TargetGrid& target,
           const BlendOptions& options, std::size_t channels, const BlendCanvas& canvas);

}  // namespace mosaicmem
