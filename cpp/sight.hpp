// How well a camera has seen what another is to show: where the cells of a source grid land in a
// target view, and what they are worth there.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "camera.hpp"
#include "score.hpp"
#include "simd/clones.hpp"

namespace mosaicmem {

// One keyframe on its latent grid, placed in the world.
struct SourceGrid {
    const float* latents;     // (rows, columns, channels)
    const float* depth;       // (rows, columns) metres, <= 0 or not finite where there is nothing
    const float* confidence;  // (rows, columns) in [0, 1], or null for 1 everywhere
    std::size_t rows, columns;
    double stride;  // pixels a cell
    Intrinsics k;
    Affine world_from_camera;
    double timestamp;  // seconds
};

// The latent grid of a view.
struct TargetGrid {
    View view;
    std::size_t rows, columns;
    double stride;  // pixels a cell
    double time;    // seconds
};

// A source cell is worth
//   confidence * recency * exp(-viewing / viewing_angle - field / field_angle) * resolution
// where `viewing` is the angle at the surface between the two cameras, `field` the distance between
// the places of the surface in the two images, as tangents (what calibration, lens and vignetting
// get wrong cancels where they are the same), recency is 0.5^(age / half_life), and resolution is
// the ratio of the sizes of source and target cell on the surface, the smaller over the larger.
struct SightScales {
    double viewing_angle;  // radians
    double field_angle;    // radians
    double half_life;      // seconds; 0: age does not count
};

// One entry a cell, row by row.
struct LandedCells {
    std::vector<float> x, y;    // cell coordinates of the target, integers at cell centres
    std::vector<float> z;       // metres
    std::vector<float> worth;   // 0 where nothing lands
    std::vector<float> spread;  // size of the source cell in target cells, at least 1

    void resize(std::size_t n) {
        for (auto* field : {&x, &y, &z, &worth, &spread}) field->resize(n);
    }
    std::size_t size() const { return x.size(); }
};

// Lands every step-th cell of every step-th row, each of which stands for a square of cells.
void land_cells(const SourceGrid& source, const TargetGrid& target, const SightScales& scales,
                std::size_t step, LandedCells& cells);

// What a surface point is worth, seen from a source camera.
struct SightOfPoint {
    double source_x, source_y;  // tangents in the source image
    double size;                // of the source cell in target cells
    double recency;
};

// The worth of a point at `target`, whose source camera is at `centre`, both in the target's frame.
double worth_of(const Vec3& target, const Vec3& centre, const SightOfPoint& sight,
                const SightScales& scales);

// How much larger things are than their source camera saw them: 1 but for edits.
double scale_of(const Affine& target_from_source);

constexpr double kMostSpread = 3;  // cells: a source that is coarser leaves holes

// The largest integer up to x > -8, without the call that floor is below SSE4.1.
MOSAICMEM_INLINE std::int32_t floor_of(float x) { return static_cast<std::int32_t>(x + 8.0f) - 8; }

}  // namespace mosaicmem
