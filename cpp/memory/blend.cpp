#include "cpp/memory/blend.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

#include "cpp/base/clones.hpp"
#include "cpp/memory/surface.hpp"

namespace mosaicmem {
namespace {

constexpr std::size_t kUsualVisits = 5;  // per projected cell

// What a source cell contributes to a target cell if its surface is in front there.
struct Visit {
    std::int32_t cell, token;  // of the target and of the source
    float z, weight;           // metres; tent times worth
    bool is_fringe;
};

// Appends the visits of all projected cells.
MOSAICMEM_CLONES
void find_visits(const ProjectedCells& projected, std::int32_t rows, std::int32_t columns,
                 std::vector<Visit>& visits) {
    for (std::size_t i = 0; i < projected.size(); ++i) {
        const float x = projected.x[i], y = projected.y[i], per_cell = 1.0f / projected.spread[i];
        const TentCells over =
            tent_cells(x, y, projected.worth[i], projected.spread[i], rows, columns);
        for (std::int32_t r = over.top; r <= over.bottom; ++r) {
            for (std::int32_t c = over.left; c <= over.right; ++c) {
                const float tent = tent_over(x, y, per_cell, r, c);
                if (tent < kLeastTent) continue;
                visits.push_back({r * columns + c, static_cast<std::int32_t>(i), projected.z[i],
                                  tent * projected.worth[i], tent < kFrontTent});
            }
        }
    }
}

// The depth of each target cell's front surface, kNoSurface where there is none.
std::vector<float> front_of(const std::vector<std::vector<Visit>>& visits, std::size_t cells) {
    std::vector<float> front(cells, kNoSurface), fringe(cells, kNoSurface);
    for (const std::vector<Visit>& of_source : visits) {
        for (const Visit& visit : of_source) {
            std::vector<float>& depth = visit.is_fringe ? fringe : front;
            float& nearest = depth[static_cast<std::size_t>(visit.cell)];
            nearest = std::min(nearest, visit.z);
        }
    }
    for (std::size_t cell = 0; cell < cells; ++cell) {
        if (front[cell] == kNoSurface) front[cell] = fringe[cell];
    }
    return front;
}

// Depths for the holes of `front` that lie between two sides of one surface, kNoSurface elsewhere.
std::vector<float> closed_holes(const std::vector<float>& front, const TargetGrid& target,
                                float tolerance) {
    std::vector<float> closed(front.size(), kNoSurface);
    const auto at = [&](std::ptrdiff_t r, std::ptrdiff_t c) {
        return front[static_cast<std::size_t>(r) * target.columns + static_cast<std::size_t>(c)];
    };
    for (std::size_t cell = 0; cell < front.size(); ++cell) {
        if (front[cell] != kNoSurface) continue;
        closed[cell] = close_hole(at, static_cast<std::ptrdiff_t>(target.rows),
                                  static_cast<std::ptrdiff_t>(target.columns),
                                  static_cast<std::ptrdiff_t>(cell / target.columns),
                                  static_cast<std::ptrdiff_t>(cell % target.columns), tolerance);
    }
    return closed;
}

// Appends the source's visits to the target cells of known `depth`, for the surface at that depth.
void look_up(const SourceGrid& source, const TargetGrid& target, const BlendOptions& options,
             const std::vector<float>& depth, std::vector<Visit>& visits) {
    const Lookup lookup(source, target, options.scales, options.depth_tolerance);
    for (std::size_t cell = 0; cell < depth.size(); ++cell) {
        if (depth[cell] == kNoSurface) continue;
        const Vec3 point = surface_point(target, cell, depth[cell]);
        lookup(point, [&](std::size_t token, float weight) {
            visits.push_back({static_cast<std::int32_t>(cell), static_cast<std::int32_t>(token),
                              static_cast<float>(point.z), weight, false});
        });
    }
}

// The running sums of a target cell.
struct CellState {
    float front;      // metres
    float total = 0;  // weight
    float most = 0;   // largest weight of a single visit
    std::int32_t source = -1;
};

// Adds the visits that lie on the front surface to the canvas.
MOSAICMEM_CLONES
void add_visits(std::span<const Visit> visits, const float* latents, std::size_t channels,
                std::int32_t source, float tolerance, CellState* cells, float* canvas) {
    for (const Visit& visit : visits) {
        CellState& state = cells[visit.cell];
        if (std::abs(visit.z - state.front) > tolerance * state.front) continue;
        const float* __restrict latent = latents + static_cast<std::size_t>(visit.token) * channels;
        float* __restrict out = canvas + static_cast<std::size_t>(visit.cell) * channels;
        for (std::size_t k = 0; k < channels; ++k) out[k] += visit.weight * latent[k];
        state.total += visit.weight;
        if (visit.weight > state.most) {
            state.most = visit.weight;
            state.source = source;
        }
    }
}

void finish(const std::vector<CellState>& cells, std::size_t channels, const BlendCanvas& canvas) {
    for (std::size_t cell = 0; cell < cells.size(); ++cell) {
        const CellState& state = cells[cell];
        const bool covered = state.total > 0;
        canvas.coverage[cell] = covered;
        canvas.depth[cell] = covered ? state.front : 0.0f;
        canvas.source[cell] = state.source;
        canvas.weight[cell] = state.total;
        if (!covered) continue;
        float* out = canvas.latents + cell * channels;
        for (std::size_t k = 0; k < channels; ++k) out[k] /= state.total;
    }
}

}  // namespace

void blend(std::span<const SourceGrid> sources, const TargetGrid& target,
           const BlendOptions& options, std::size_t channels, const BlendCanvas& canvas) {
    const std::size_t count = target.rows * target.columns;
    std::vector<std::vector<Visit>> visits(sources.size());
    ProjectedCells projected;
    for (std::size_t s = 0; s < sources.size(); ++s) {
        project_cells(sources[s], target, options.scales, 1, projected);
        visits[s].reserve(kUsualVisits * projected.size());
        find_visits(projected, static_cast<std::int32_t>(target.rows),
                    static_cast<std::int32_t>(target.columns), visits[s]);
    }
    std::vector<float> front = front_of(visits, count);
    const std::vector<float> closed = closed_holes(front, target, options.depth_tolerance);
    for (std::size_t cell = 0; cell < count; ++cell)
        front[cell] = std::min(front[cell], closed[cell]);

    std::vector<CellState> cells(count);
    for (std::size_t cell = 0; cell < count; ++cell) cells[cell].front = front[cell];
    std::fill_n(canvas.latents, count * channels, 0.0f);
    const bool is_backward = options.direction == Direction::backward;
    for (std::size_t s = 0; s < sources.size(); ++s) {
        if (is_backward) visits[s].clear();
        look_up(sources[s], target, options, is_backward ? front : closed, visits[s]);
        add_visits(visits[s], sources[s].latents, channels, static_cast<std::int32_t>(s),
                   options.depth_tolerance, cells.data(), canvas.latents);
    }
    finish(cells, channels, canvas);
}

}  // namespace mosaicmem
