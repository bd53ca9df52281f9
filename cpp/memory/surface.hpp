// What blending shares between the CPU and the GPU: tents, hole closing, and looking a point up in
// a source. See blend.hpp for their use.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>

#include "cpp/geometry/unproject.hpp"
#include "cpp/memory/view_weight.hpp"

namespace mosaicmem {

constexpr float kLeastTent = 1.0f / 64;
constexpr float kSkirt = 1.0f / 64;
constexpr float kFrontTent = 0.25f;
constexpr std::size_t kWidestHole = 2;
constexpr float kNoSurface = std::numeric_limits<float>::infinity();

// The target cells that a projected cell may touch; none if left > right or top > bottom.
struct TentCells {
    std::int32_t left, right, top, bottom;

    MOSAICMEM_HOST_DEVICE bool contains(std::int32_t r, std::int32_t c) const {
        return left <= c && c <= right && top <= r && r <= bottom;
    }
};

MOSAICMEM_HOST_DEVICE MOSAICMEM_INLINE TentCells tent_cells(float x, float y, float worth,
                                                            float spread, std::int32_t rows,
                                                            std::int32_t columns) {
    const float wide = std::max(spread, 1.0f);
    if (!(worth != 0 && x > -wide && y > -wide && x < static_cast<float>(columns) + wide &&
          y < static_cast<float>(rows) + wide)) {
        return {0, -1, 0, -1};
    }
    return {std::max(floor_of(x - wide) + 1, 0), std::min(floor_of(x + wide), columns - 1),
            std::max(floor_of(y - wide) + 1, 0), std::min(floor_of(y + wide), rows - 1)};
}

// How a projected cell, or a part of one, lies over a target cell.
struct Tent {
    float height;   // 0: not at all
    bool is_front;  // high enough to hide what lies behind
    bool is_skirt;  // counts only where no front is
};

// A tent narrower than a target cell has a skirt, as wide as the tent of a whole cell and as low as
// can be, so that what lies beside an edge stays covered. All of a doubtful cell's tent is skirt.
// dx and dy: distances to the target cell's centre; per_cell is 1 / spread.
MOSAICMEM_HOST_DEVICE MOSAICMEM_INLINE Tent tent_at(float dx, float dy, float per_cell,
                                                    bool is_doubtful) {
    const float height =
        std::max(1.0f - dy * per_cell, 0.0f) * std::max(1.0f - dx * per_cell, 0.0f);
    if (height >= kLeastTent) return {height, height >= kFrontTent && !is_doubtful, is_doubtful};
    const float wide = per_cell > 1.0f ? (1.0f - dy) * (1.0f - dx) : 0.0f;
    return {wide >= kLeastTent ? kSkirt * wide : 0.0f, false, true};
}

MOSAICMEM_HOST_DEVICE MOSAICMEM_INLINE Tent tent_over(float x, float y, float per_cell,
                                                      bool is_doubtful, std::int32_t r,
                                                      std::int32_t c) {
    return tent_at(std::abs(x - static_cast<float>(c)), std::abs(y - static_cast<float>(r)),
                   per_cell, is_doubtful);
}

// Calls visit(row, column, tent) for the target cells that a projected cell or part lies over.
template <class Visit>
MOSAICMEM_INLINE void for_each_tent(float x, float y, float worth, float spread, std::int32_t rows,
                                    std::int32_t columns, const Visit& visit) {
    const TentCells over = tent_cells(x, y, worth, spread, rows, columns);
    const float per_cell = 1.0f / spread;
    for (std::int32_t r = over.top; r <= over.bottom; ++r) {
        const float dy = std::abs(y - static_cast<float>(r));
        for (std::int32_t c = over.left; c <= over.right; ++c) {
            const Tent tent = tent_at(std::abs(x - static_cast<float>(c)), dy, per_cell, worth < 0);
            if (tent.height > 0) visit(r, c, tent);
        }
    }
}

// The depth of a hole between two sides of one surface, kNoSurface for other holes. front(row,
// column) is the depth of a cell, kNoSurface if it is empty.
template <class Front>
MOSAICMEM_HOST_DEVICE inline float close_hole(const Front& front, std::ptrdiff_t rows,
                                              std::ptrdiff_t columns, std::ptrdiff_t r,
                                              std::ptrdiff_t c, float tolerance) {
    struct Side {
        float depth;
        std::size_t away;
    };
    // The nearest filled cell in one direction, and its distance.
    const auto look = [&](std::ptrdiff_t dr, std::ptrdiff_t dc) -> Side {
        for (std::size_t away = 1; away <= kWidestHole; ++away) {
            const std::ptrdiff_t y = r + dr * static_cast<std::ptrdiff_t>(away),
                                 x = c + dc * static_cast<std::ptrdiff_t>(away);
            if (y < 0 || x < 0 || y >= rows || x >= columns) break;
            const float depth = front(y, x);
            if (depth != kNoSurface) return {depth, away};
        }
        return {kNoSurface, 0};
    };
    for (int vertical = 0; vertical <= 1; ++vertical) {
        const Side a = look(-vertical, vertical - 1), b = look(vertical, 1 - vertical);
        if (a.depth == kNoSurface || b.depth == kNoSurface || a.away + b.away > kWidestHole + 1 ||
            std::abs(a.depth - b.depth) > tolerance * std::min(a.depth, b.depth)) {
            continue;
        }
        // Over a plane, 1 / depth is linear in the image.
        const float t = static_cast<float>(a.away) / static_cast<float>(a.away + b.away);
        return 1.0f / ((1.0f - t) / a.depth + t / b.depth);
    }
    return kNoSurface;
}

// Looks points on a target's surface up in one source.
class Lookup {
  public:
    MOSAICMEM_HOST_DEVICE Lookup(const SourceGrid& source, const TargetGrid& target,
                                 const ViewWeightScales& scales, float depth_tolerance)
        : source_(source), scales_(scales), tolerance_(depth_tolerance) {
        const Affine target_from_source = target.view.camera_from_world * source.world_from_camera;
        source_from_target_ = inverse(target_from_source);
        centre_ = target_from_source({0, 0, 0});
        cell_ratio_ = scale_of(target_from_source) * source.stride / source.k.fx *
                      target.view.k.fx / target.stride;
        standing_ = scales.standing(source.provenance, source.timestamp, target.time);
        is_excluded_ = scales.excludes(source.provenance);
    }

    // Calls visit(cell, weight) for the source cells around the point (in the target's frame) that
    // are at its depth; at most four.
    template <class Visit>
    MOSAICMEM_HOST_DEVICE void operator()(const Vec3& point, const Visit& visit) const {
        const Vec3 p = source_from_target_(point);
        if (is_excluded_ || source_.rows == 0 || source_.columns == 0 || !(p.z > 0)) return;
        const double u = p.x / p.z, v = p.y / p.z;
        const double last_x = static_cast<double>(source_.columns) - 1;
        const double last_y = static_cast<double>(source_.rows) - 1;
        double x = (source_.k.fx * u + source_.k.cx) / source_.stride - 0.5;
        double y = (source_.k.fy * v + source_.k.cy) / source_.stride - 0.5;
        if (!(x >= -0.5 && x <= last_x + 0.5 && y >= -0.5 && y <= last_y + 0.5)) return;
        x = std::clamp(x, 0.0, last_x);
        y = std::clamp(y, 0.0, last_y);
        const auto left = static_cast<std::size_t>(x), top = static_cast<std::size_t>(y);
        const double worth =
            worth_of(point, centre_, {u, v, cell_ratio_ * p.z / point.z, standing_}, scales_);
        for (std::size_t r = top; r <= std::min(top + 1, source_.rows - 1); ++r) {
            for (std::size_t c = left; c <= std::min(left + 1, source_.columns - 1); ++c) {
                const std::size_t cell = r * source_.columns + c;
                const float depth = depth_at(r, c, x, y, p.z);
                const double tent = (1 - std::abs(x - static_cast<double>(c))) *
                                    (1 - std::abs(y - static_cast<double>(r)));
                const float trust = source_.confidence ? source_.confidence[cell] : 1.0f;
                if (!is_valid_depth(depth) || !(trust > 0) || tent < kLeastTent ||
                    std::abs(static_cast<double>(depth) - p.z) > tolerance_ * p.z) {
                    continue;
                }
                visit(cell, static_cast<float>(tent * std::max(worth * trust, 1e-9)));
            }
        }
    }

  private:
    // The depth of a cell, or of its subcell nearest to (x, y): the one closer to z.
    MOSAICMEM_HOST_DEVICE float depth_at(std::size_t r, std::size_t c, double x, double y,
                                         double z) const {
        const float depth = source_.depth[r * source_.columns + c];
        if (!source_.subcell_depth) return depth;
        const std::size_t n = source_.subcells;
        const auto part = [&](double offset) {
            const double at = (offset + 0.5) * static_cast<double>(n);
            return at <= 0 ? 0 : std::min(static_cast<std::size_t>(at), n - 1);
        };
        const std::size_t row = r * n + part(y - static_cast<double>(r)),
                          column = c * n + part(x - static_cast<double>(c));
        const float own = source_.subcell_depth[row * n * source_.columns + column];
        const bool is_closer = is_valid_depth(own) && std::abs(static_cast<double>(own) - z) <
                                                          std::abs(static_cast<double>(depth) - z);
        return is_closer ? own : depth;
    }

    SourceGrid source_;
    ViewWeightScales scales_;
    double tolerance_;
    Affine source_from_target_;
    Vec3 centre_;
    double cell_ratio_, standing_;
    bool is_excluded_;
};

// The surface point at a target cell's centre, in the target's frame.
MOSAICMEM_HOST_DEVICE inline Vec3 surface_point(const TargetGrid& target, std::size_t cell,
                                                float depth) {
    const PixelRay ray(target.view.k, {{1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0}});
    return ray((static_cast<double>(cell % target.columns) + 0.5) * target.stride,
               (static_cast<double>(cell / target.columns) + 0.5) * target.stride, depth);
}

}  // namespace mosaicmem
