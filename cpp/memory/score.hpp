// The score of a patch in a view, strategy top_k: score = centrality * proximity * footprint *
// recency * weight of its provenance. In double and in the same order on the CPU and the GPU.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>

#include "cpp/base/camera.hpp"
#include "cpp/base/host_device.hpp"
#include "cpp/base/tile.hpp"
#include "cpp/geometry/reproject.hpp"
#include "cpp/geometry/unproject.hpp"

namespace mosaicmem {

// Whether a camera observed a keyframe or a model generated it.
enum class Provenance : std::uint8_t { observed, generated };

struct RetrievalParams {
    std::size_t top_k;
    double time;               // of the query, seconds
    double half_life;          // seconds; 0 = age does not count
    double min_visibility;     // patches with a lower score are dropped
    double diversity_radius;   // pixels; 0 = off
    double diversity_penalty;  // factor for each patch already taken within the radius
    double generated_weight;   // factor for generated keyframes, in [0, 1]; 0 excludes them

    MOSAICMEM_HOST_DEVICE bool is_diverse() const {
        return diversity_radius > 0 && diversity_penalty < 1;
    }
};

// 2^x for x <= 0, to an ulp or two; 0 below 2^-1000. The standard libraries of the CPU and the GPU
// round it differently, which could make them select different patches.
MOSAICMEM_HOST_DEVICE inline double power_of_two(double x) {
    if (!(x > -1000)) return 0;
    const double whole = std::floor(x + 0.5), y = (x - whole) * 0x1.62e42fefa39efp-1;  // ln 2
    // Series of e^y, |y| < 0.35.
    constexpr double kSeries[] = {1.0,
                                  1.0,
                                  1.0 / 2,
                                  1.0 / 6,
                                  1.0 / 24,
                                  1.0 / 120,
                                  1.0 / 720,
                                  1.0 / 5040,
                                  1.0 / 40320,
                                  1.0 / 362880,
                                  1.0 / 3628800,
                                  1.0 / 39916800,
                                  1.0 / 479001600,
                                  1.0 / 6227020800};
    double sum = 0;
    for (int i = 13; i >= 0; --i) sum = kSeries[i] + y * sum;
    return std::ldexp(sum, static_cast<int>(whole));
}

MOSAICMEM_HOST_DEVICE inline double recency_of(double timestamp, double time, double half_life) {
    return half_life > 0 ? power_of_two(-std::max(0.0, time - timestamp) / half_life) : 1.0;
}

MOSAICMEM_HOST_DEVICE inline double weight_of(Provenance provenance, double generated_weight) {
    return provenance == Provenance::generated ? generated_weight : 1.0;
}

// (du, dv) from the principal point, in pixels.
MOSAICMEM_HOST_DEVICE inline double centrality_of(double du, double dv, const View& view) {
    const double x = du / view.width, y = dv / view.height;
    return std::max(0.0, 1.0 - std::sqrt(x * x + y * y));
}

MOSAICMEM_HOST_DEVICE inline double proximity_of(double depth) { return 1.0 / (1.0 + 0.1 * depth); }

MOSAICMEM_HOST_DEVICE inline bool is_inside(double u, double v, const View& view) {
    return u >= 0 && u < view.width && v >= 0 && v < view.height;
}

// A centre projected into a view, with the factors of its score known so far.
struct Projected {
    double score, u, v, depth;  // (u, v) in pixels, depth in metres
};

// Sets u, v and depth, and the score to centrality * proximity; false outside the frustum.
MOSAICMEM_HOST_DEVICE inline bool project_centre(const float* centre,
                                                 const Affine& camera_from_index, const View& view,
                                                 Projected& out) {
    const Vec3 p = camera_from_index({centre[0], centre[1], centre[2]});
    if (!(p.z >= view.near && p.z <= view.far)) return false;
    out.depth = p.z;
    out.u = view.k.fx * p.x / p.z + view.k.cx;
    out.v = view.k.fy * p.y / p.z + view.k.cy;
    if (!is_inside(out.u, out.v, view)) return false;
    out.score = centrality_of(out.u - view.k.cx, out.v - view.k.cy, view) * proximity_of(p.z);
    return true;
}

// The fraction of a patch's tokens inside the view, at least a quarter. depth (rows, columns) has
// `columns` cells of `stride` pixels per row.
MOSAICMEM_HOST_DEVICE inline double footprint_of(const Tile& cells, const float* depth,
                                                 std::size_t columns, double stride,
                                                 const Reprojection& reproject, const View& view) {
    std::size_t visible = 0;
    for (std::size_t r = cells.row; r < cells.row_end; ++r) {
        for (std::size_t c = cells.column; c < cells.column_end; ++c) {
            const float d = depth[r * columns + c];
            float u, v, z;
            visible += is_valid_depth(d) &&
                       reproject((static_cast<double>(c) + 0.5) * stride,
                                 (static_cast<double>(r) + 0.5) * stride, d, u, v, z) &&
                       z <= view.far && is_inside(u, v, view);
        }
    }
    return std::max(0.25, static_cast<double>(visible) / static_cast<double>(cells.cells()));
}

}  // namespace mosaicmem
