#include "blend.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "simd/clones.hpp"
#include "unproject.hpp"

namespace mosaicmem {
namespace {

constexpr float kNowhere = std::numeric_limits<float>::infinity();
constexpr std::size_t kUsualVisits = 5;  // of a landed cell

// What a source cell contributes to a target cell if its surface is in front there.
struct Visit {
    std::int32_t cell, token;  // of the target and of the source
    float z, weight;           // metres; tent times worth
    bool is_fringe;
};

// Appends the visits of what has landed.
MOSAICMEM_CLONES
void find_visits(const LandedCells& landed, std::int32_t rows, std::int32_t columns,
                 std::vector<Visit>& visits) {
    for (std::size_t i = 0; i < landed.size(); ++i) {
        const float x = landed.x[i], y = landed.y[i], spread = landed.spread[i];
        if (!(landed.worth[i] > 0 && x > -spread && y > -spread &&
              x < static_cast<float>(columns) + spread && y < static_cast<float>(rows) + spread)) {
            continue;
        }
        const float per_cell = 1.0f / spread;
        const std::int32_t left = std::max(floor_of(x - spread) + 1, 0);
        const std::int32_t right = std::min(floor_of(x + spread), columns - 1);
        const std::int32_t bottom = std::min(floor_of(y + spread), rows - 1);
        for (std::int32_t r = std::max(floor_of(y - spread) + 1, 0); r <= bottom; ++r) {
            const float wy = 1.0f - std::abs(y - static_cast<float>(r)) * per_cell;
            for (std::int32_t c = left; c <= right; ++c) {
                const float tent = wy * (1.0f - std::abs(x - static_cast<float>(c)) * per_cell);
                if (tent < kLeastTent) continue;
                visits.push_back({r * columns + c, static_cast<std::int32_t>(i), landed.z[i],
                                  tent * landed.worth[i], tent < kFrontTent});
            }
        }
    }
}

// Sets the depth of what is in front in each target cell, kNowhere where nothing is.
std::vector<float> front_of(const std::vector<std::vector<Visit>>& visits, std::size_t cells) {
    std::vector<float> front(cells, kNowhere), fringe(cells, kNowhere);
    for (const std::vector<Visit>& of_source : visits) {
        for (const Visit& visit : of_source) {
            std::vector<float>& depth = visit.is_fringe ? fringe : front;
            float& nearest = depth[static_cast<std::size_t>(visit.cell)];
            nearest = std::min(nearest, visit.z);
        }
    }
    for (std::size_t cell = 0; cell < cells; ++cell) {
        if (front[cell] == kNowhere) front[cell] = fringe[cell];
    }
    return front;
}

// Depths for the holes of `front` that lie between two sides of one surface, kNowhere elsewhere.
std::vector<float> closed_holes(const std::vector<float>& front, const TargetGrid& target,
                                float tolerance) {
    std::vector<float> closed(front.size(), kNowhere);
    const auto rows = static_cast<std::ptrdiff_t>(target.rows),
               columns = static_cast<std::ptrdiff_t>(target.columns);
    // The nearest filled cell in one direction, and how far it is.
    const auto look = [&](std::ptrdiff_t r, std::ptrdiff_t c, std::ptrdiff_t dr,
                          std::ptrdiff_t dc) -> std::pair<float, std::size_t> {
        for (std::size_t away = 1; away <= kWidestHole; ++away) {
            r += dr;
            c += dc;
            if (r < 0 || c < 0 || r >= rows || c >= columns) break;
            const float depth = front[static_cast<std::size_t>(r * columns + c)];
            if (depth != kNowhere) return {depth, away};
        }
        return {kNowhere, 0};
    };
    for (std::ptrdiff_t r = 0; r < rows; ++r) {
        for (std::ptrdiff_t c = 0; c < columns; ++c) {
            const auto cell = static_cast<std::size_t>(r * columns + c);
            if (front[cell] != kNowhere) continue;
            for (const auto& [dr, dc] : {std::pair{0, 1}, {1, 0}}) {
                const auto [a, to_a] = look(r, c, -dr, -dc);
                const auto [b, to_b] = look(r, c, dr, dc);
                if (a == kNowhere || b == kNowhere || to_a + to_b > kWidestHole + 1 ||
                    std::abs(a - b) > tolerance * std::min(a, b)) {
                    continue;
                }
                // Over a plane, 1 / depth is linear in the image.
                const float t = static_cast<float>(to_a) / static_cast<float>(to_a + to_b);
                closed[cell] = 1.0f / ((1.0f - t) / a + t / b);
                break;
            }
        }
    }
    return closed;
}

// One source, to be looked up from target cells.
class Lookup {
  public:
    Lookup(const SourceGrid& source, const TargetGrid& target, const BlendOptions& options,
           const Affine& target_from_source)
        : source_(source),
          scales_(options.scales),
          tolerance_(options.depth_tolerance),
          source_from_target_(inverse(target_from_source)),
          centre_(target_from_source({0, 0, 0})),
          cell_ratio_(scale_of(target_from_source) * source.stride / source.k.fx *
                      target.view.k.fx / target.stride),
          recency_(recency_of(source.timestamp, target.time, options.scales.half_life)) {}

    // Appends the visits of the source cells around the point (in the target's frame) that are at
    // its depth.
    void operator()(const Vec3& point, std::int32_t target_cell, std::vector<Visit>& visits) const {
        const Vec3 p = source_from_target_(point);
        if (!(p.z > 0)) return;
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
            worth_of(point, centre_, {u, v, cell_ratio_ * p.z / point.z, recency_}, scales_);
        for (std::size_t r = top; r <= std::min(top + 1, source_.rows - 1); ++r) {
            for (std::size_t c = left; c <= std::min(left + 1, source_.columns - 1); ++c) {
                const std::size_t cell = r * source_.columns + c;
                const float depth = source_.depth[cell];
                const double tent = (1 - std::abs(x - static_cast<double>(c))) *
                                    (1 - std::abs(y - static_cast<double>(r)));
                const float trust = source_.confidence ? source_.confidence[cell] : 1.0f;
                if (!is_valid_depth(depth) || !(trust > 0) || tent < kLeastTent ||
                    std::abs(static_cast<double>(depth) - p.z) > tolerance_ * p.z) {
                    continue;
                }
                visits.push_back({target_cell, static_cast<std::int32_t>(cell),
                                  static_cast<float>(point.z),
                                  static_cast<float>(tent * std::max(worth * trust, 1e-9)), false});
            }
        }
    }

  private:
    const SourceGrid& source_;
    SightScales scales_;
    double tolerance_;
    Affine source_from_target_;
    Vec3 centre_;
    double cell_ratio_, recency_;
};

// Appends what the source shows where `depth` is known, of the surface at that depth.
void look_up(const SourceGrid& source, const TargetGrid& target, const BlendOptions& options,
             const std::vector<float>& depth, std::vector<Visit>& visits) {
    const PixelRay ray(target.view.k, {{1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0}});
    const Lookup lookup(source, target, options,
                        target.view.camera_from_world * source.world_from_camera);
    for (std::size_t cell = 0; cell < depth.size(); ++cell) {
        if (depth[cell] == kNowhere) continue;
        const double u = (static_cast<double>(cell % target.columns) + 0.5) * target.stride;
        const double v = (static_cast<double>(cell / target.columns) + 0.5) * target.stride;
        lookup(ray(u, v, depth[cell]), static_cast<std::int32_t>(cell), visits);
    }
}

// What is known of a target cell while it is composed.
struct CellState {
    float front;      // metres
    float total = 0;  // weight
    float most = 0;   // weight of any one visit
    std::int32_t source = -1;
};

// Adds the visits of front surfaces to the canvas.
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
    LandedCells landed;
    for (std::size_t s = 0; s < sources.size(); ++s) {
        land_cells(sources[s], target, options.scales, 1, landed);
        visits[s].reserve(kUsualVisits * landed.size());
        find_visits(landed, static_cast<std::int32_t>(target.rows),
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
