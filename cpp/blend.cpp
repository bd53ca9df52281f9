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

// Calls visit(target cell, tent) on the cells that landed cell i is over.
template <class Visit>
MOSAICMEM_INLINE void for_each_under(const LandedCells& cells, std::size_t i, std::int32_t rows,
                                     std::int32_t columns, const Visit& visit) {
    const float x = cells.x[i], y = cells.y[i], spread = cells.spread[i];
    if (!(cells.worth[i] > 0 && x > -spread && y > -spread &&
          x < static_cast<float>(columns) + spread && y < static_cast<float>(rows) + spread)) {
        return;
    }
    const float per_cell = 1.0f / spread;
    const std::int32_t left = std::max(floor_of(x - spread) + 1, 0);
    const std::int32_t right = std::min(floor_of(x + spread), columns - 1);
    const std::int32_t bottom = std::min(floor_of(y + spread), rows - 1);
    for (std::int32_t r = std::max(floor_of(y - spread) + 1, 0); r <= bottom; ++r) {
        const float wy = 1.0f - std::abs(y - static_cast<float>(r)) * per_cell;
        for (std::int32_t c = left; c <= right; ++c) {
            const float tent = wy * (1.0f - std::abs(x - static_cast<float>(c)) * per_cell);
            if (tent >= kLeastTent) visit(static_cast<std::size_t>(r * columns + c), tent);
        }
    }
}

// Sums of weighted latents in the cells of a canvas.
struct Sums {
    const BlendCanvas& canvas;
    std::size_t channels;
    std::vector<float> most;  // weight of any one source cell

    Sums(const BlendCanvas& to, std::size_t cells, std::size_t width)
        : canvas(to), channels(width), most(cells, 0.0f) {
        std::fill_n(canvas.latents, cells * channels, 0.0f);
        std::fill_n(canvas.weight, cells, 0.0f);
        std::fill_n(canvas.source, cells, -1);
    }

    MOSAICMEM_INLINE void add(std::size_t cell, const float* __restrict latent, float weight,
                              std::size_t source) {
        float* __restrict out = canvas.latents + cell * channels;
        for (std::size_t k = 0; k < channels; ++k) out[k] += weight * latent[k];
        canvas.weight[cell] += weight;
        if (weight > most[cell]) {
            most[cell] = weight;
            canvas.source[cell] = static_cast<std::int32_t>(source);
        }
    }

    void finish(const std::vector<float>& front) {
        for (std::size_t cell = 0; cell < most.size(); ++cell) {
            const float total = canvas.weight[cell];
            canvas.coverage[cell] = total > 0;
            canvas.depth[cell] = total > 0 ? front[cell] : 0.0f;
            if (total == 0) continue;
            float* out = canvas.latents + cell * channels;
            for (std::size_t k = 0; k < channels; ++k) out[k] /= total;
        }
    }
};

// Brings front and fringe, the depths over a tent of kFrontTent or more and of less, down to what
// has landed.
MOSAICMEM_CLONES
void lower_front(const LandedCells& landed, std::int32_t rows, std::int32_t columns, float* front,
                 float* fringe) {
    for (std::size_t i = 0; i < landed.size(); ++i) {
        const float z = landed.z[i];
        for_each_under(landed, i, rows, columns,
                       [&](std::size_t cell, float tent) MOSAICMEM_LAMBDA {
                           float* const depth = tent >= kFrontTent ? front : fringe;
                           depth[cell] = std::min(depth[cell], z);
                       });
    }
}

// The depth of what is in front in each target cell, kNowhere where nothing is.
std::vector<float> front_of(const std::vector<LandedCells>& landed, const TargetGrid& target) {
    const std::size_t cells = target.rows * target.columns;
    std::vector<float> front(cells, kNowhere), fringe(cells, kNowhere);
    for (const LandedCells& from : landed) {
        lower_front(from, static_cast<std::int32_t>(target.rows),
                    static_cast<std::int32_t>(target.columns), front.data(), fringe.data());
    }
    for (std::size_t cell = 0; cell < cells; ++cell) {
        if (front[cell] == kNowhere) front[cell] = fringe[cell];
    }
    return front;
}

// Adds what of source s has landed on the front surface.
MOSAICMEM_CLONES
void add_landed(const LandedCells& landed, const float* latents, std::size_t s,
                const TargetGrid& target, float tolerance, const float* front, Sums& sums) {
    for (std::size_t i = 0; i < landed.size(); ++i) {
        const float z = landed.z[i], worth = landed.worth[i];
        const float* latent = latents + i * sums.channels;
        for_each_under(landed, i, static_cast<std::int32_t>(target.rows),
                       static_cast<std::int32_t>(target.columns),
                       [&](std::size_t cell, float tent) MOSAICMEM_LAMBDA {
                           if (std::abs(z - front[cell]) > tolerance * front[cell]) return;
                           sums.add(cell, latent, tent * worth, s);
                       });
    }
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
    Lookup(const SourceGrid& source, const TargetGrid& target, const BlendOptions& options)
        : source_(source),
          scales_(options.scales),
          tolerance_(options.depth_tolerance),
          source_from_target_(inverse(target.view.camera_from_world * source.world_from_camera)),
          centre_((target.view.camera_from_world * source.world_from_camera)({0, 0, 0})),
          cell_ratio_(source.stride / source.k.fx * target.view.k.fx / target.stride),
          recency_(recency_of(source.timestamp, target.time, options.scales.half_life)) {}

    // Calls add(latent, weight) on the source cells around the point (in the target's frame) that
    // are at its depth.
    template <class Add>
    void operator()(const Vec3& point, const Add& add) const {
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
        const double worth = worth_of(point, centre_, {u, v, cell_ratio_, recency_}, scales_);
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
                add(cell, static_cast<float>(tent * std::max(worth * trust, 1e-9)));
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

// Adds what the sources show where `depth` is known, of the surface at that depth.
void look_up(std::span<const SourceGrid> sources, const TargetGrid& target,
             const BlendOptions& options, std::size_t channels, const std::vector<float>& depth,
             Sums& sums) {
    const PixelRay ray(target.view.k, {{1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0}});
    for (std::size_t s = 0; s < sources.size(); ++s) {
        const Lookup lookup(sources[s], target, options);
        for (std::size_t cell = 0; cell < depth.size(); ++cell) {
            if (depth[cell] == kNowhere) continue;
            const double u = (static_cast<double>(cell % target.columns) + 0.5) * target.stride;
            const double v = (static_cast<double>(cell / target.columns) + 0.5) * target.stride;
            lookup(ray(u, v, depth[cell]), [&](std::size_t from, float weight) {
                sums.add(cell, sources[s].latents + from * channels, weight, s);
            });
        }
    }
}

}  // namespace

void blend(std::span<const SourceGrid> sources, const TargetGrid& target,
           const BlendOptions& options, std::size_t channels, const BlendCanvas& canvas) {
    std::vector<LandedCells> landed(sources.size());
    for (std::size_t s = 0; s < sources.size(); ++s)
        land_cells(sources[s], target, options.scales, 1, landed[s]);
    std::vector<float> front = front_of(landed, target);
    const std::vector<float> closed = closed_holes(front, target, options.depth_tolerance);
    Sums sums(canvas, front.size(), channels);
    const auto close_holes = [&] {
        for (std::size_t cell = 0; cell < front.size(); ++cell)
            front[cell] = std::min(front[cell], closed[cell]);
    };
    if (options.direction == Direction::backward) {
        close_holes();
        look_up(sources, target, options, channels, front, sums);
    } else {
        for (std::size_t s = 0; s < sources.size(); ++s) {
            add_landed(landed[s], sources[s].latents, s, target, options.depth_tolerance,
                       front.data(), sums);
        }
        look_up(sources, target, options, channels, closed, sums);
        close_holes();
    }
    sums.finish(front);
}

}  // namespace mosaicmem
