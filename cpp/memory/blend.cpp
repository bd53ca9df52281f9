#include "cpp/memory/blend.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

#include "cpp/base/clones.hpp"
#include "cpp/memory/blend_sums.hpp"
#include "cpp/memory/fronts.hpp"
#include "cpp/memory/placed_parts.hpp"
#include "cpp/memory/surface.hpp"

namespace mosaicmem {
namespace {

// What the parts of one source cell weigh in the target cells that they lie over.
class CellWeights {
  public:
    // Visits all so far if there is no room for another cell.
    template <class Visit>
    MOSAICMEM_INLINE void add(std::int32_t cell, float weight, const Visit& visit) {
        for (std::size_t i = 0; i < count_; ++i) {
            if (cell_[i] == cell) {
                weight_[i] += weight;
                return;
            }
        }
        if (count_ == kMost) flush(visit);
        cell_[count_] = cell;
        weight_[count_++] = weight;
    }
    template <class Visit>
    MOSAICMEM_INLINE void flush(const Visit& visit) {
        for (std::size_t i = 0; i < count_; ++i) visit(cell_[i], weight_[i]);
        count_ = 0;
    }

  private:
    static constexpr std::size_t kMost = 256;
    std::size_t count_ = 0;
    std::int32_t cell_[kMost];
    float weight_[kMost];
};

// Adds the parts of a source to the target cells where they lie on the front surface.
class Splatter {
  public:
    MOSAICMEM_INLINE Splatter(const PlacedParts& parts, const Fronts& fronts, float tolerance,
                              const float* latents, BlendSums& sums)
        : parts_(parts), fronts_(fronts), tolerance_(tolerance), latents_(latents), sums_(sums) {}

    // All parts of one reach, each of which is a whole cell.
    template <std::int32_t kReach>
    MOSAICMEM_INLINE void add_windows() const {
        for (const std::int32_t part : parts_.with_reach(kReach)) {
            const auto i = static_cast<std::size_t>(part);
            const std::int32_t left = parts_.left[i], top = parts_.top[i];
            const std::size_t at = fronts_.layout.at(top, left);
            Window<kReach> weights{};
            add_part(i, left, top, front_at<kReach>(at), weights);
            sums_.add_window(at, weights, latents_ + i * sums_.channels());
        }
    }

    MOSAICMEM_INLINE void add_without_window() const {
        for (const std::int32_t part : parts_.with_reach(kNoWindow)) {
            const auto i = static_cast<std::size_t>(part);
            add_each(i, 1, 0, i);
        }
    }

    // A cell's n x n parts: the first of each row lies row_step after that of the row before.
    MOSAICMEM_INLINE void add_cell(std::size_t first, std::size_t n, std::size_t row_step,
                                   std::size_t cell) const {
        std::int32_t left = fronts_.layout.columns + kMargin, right = -kMargin,
                     top = fronts_.layout.rows + kMargin, bottom = -kMargin;
        bool fits = true;
        for (std::size_t r = 0; r < n; ++r) {
            for (std::size_t i = first + r * row_step; i < first + r * row_step + n; ++i) {
                const std::int32_t reach = parts_.reach[i];
                if (reach == kNowhere) continue;
                fits &= reach != kNoWindow;
                left = std::min(left, parts_.left[i]);
                top = std::min(top, parts_.top[i]);
                right = std::max(right, parts_.left[i] + reach);
                bottom = std::max(bottom, parts_.top[i] + reach);
            }
        }
        if (right < left) return;
        const std::int32_t edge = std::max(right - left, bottom - top);
        if (!fits || edge > kWidestWindow || fronts_.meets_fringe[fronts_.layout.at(top, left)])
            return add_each(first, n, row_step, cell);
        if (edge <= 3) {
            add_parts<3>(first, n, row_step, left, top, cell);
        } else {
            add_parts<4>(first, n, row_step, left, top, cell);
        }
    }

  private:
    template <std::int32_t kReach>
    MOSAICMEM_INLINE void add_parts(std::size_t first, std::size_t n, std::size_t row_step,
                                    std::int32_t left, std::int32_t top, std::size_t cell) const {
        const std::size_t at = fronts_.layout.at(top, left);
        const Window<kReach> front = front_at<kReach>(at);
        Window<kReach> weights{};
        for (std::size_t r = 0; r < n; ++r) {
            for (std::size_t i = first + r * row_step; i < first + r * row_step + n; ++i)
                if (parts_.reach[i] != kNowhere) add_part(i, left, top, front, weights);
        }
        sums_.add_window(at, weights, latents_ + cell * sums_.channels());
    }

    // Adds the weights of a part where it lies on the front surface.
    template <std::int32_t kReach>
    MOSAICMEM_INLINE void add_part(std::size_t i, std::int32_t left, std::int32_t top,
                                   const Window<kReach>& front, Window<kReach>& weights) const {
        const ProjectedCells& cells = parts_.cells;
        const float z = cells.z[i], worth = cells.worth[i], per_cell = 1.0f / cells.spread[i];
        const Quad across = tent_along(cells.x[i], left, per_cell);
        const Quad down = tent_along(cells.y[i], top, per_cell);
        for (std::int32_t r = 0; r < kReach; ++r) {
            const Quad height = down[r] * across;
            const QuadMask counts = (height >= kLeastTent) &
                                    (magnitude(z - front.rows[r]) <= tolerance_ * front.rows[r]);
            weights.rows[r] += select(counts, height * worth, Quad{});
        }
    }

    template <std::int32_t kReach>
    MOSAICMEM_INLINE Window<kReach> front_at(std::size_t at) const {
        Window<kReach> front;
        const auto pitch = static_cast<std::size_t>(fronts_.layout.pitch());
        for (std::size_t r = 0; r < kReach; ++r)
            front.rows[r] = load_row(&fronts_.depth[at + r * pitch]);
        return front;
    }

    // Adds the parts of a cell one by one: those that have no window or meet a fringe.
    MOSAICMEM_INLINE void add_each(std::size_t first, std::size_t n, std::size_t row_step,
                                   std::size_t cell) const {
        const ProjectedCells& cells = parts_.cells;
        const auto visit = [&](std::int32_t at, float weight) MOSAICMEM_LAMBDA {
            sums_.add(static_cast<std::size_t>(at), weight, latents_ + cell * sums_.channels());
        };
        CellWeights weights;
        for (std::size_t row = 0; row < n; ++row) {
            for (std::size_t i = first + row * row_step; i < first + row * row_step + n; ++i) {
                const float worth = cells.worth[i], z = cells.z[i];
                for_each_tent(cells.x[i], cells.y[i], worth, cells.spread[i], fronts_.layout.rows,
                              fronts_.layout.columns,
                              [&](std::int32_t r, std::int32_t c, const Tent& tent)
                                  MOSAICMEM_LAMBDA {
                                      const std::size_t at = fronts_.layout.at(r, c);
                                      const float front = fronts_.depth[at];
                                      if (std::abs(z - front) > tolerance_ * front) return;
                                      if (tent.is_skirt && !fronts_.is_fringe[at]) return;
                                      weights.add(static_cast<std::int32_t>(at),
                                                  tent.height * std::abs(worth), visit);
                                  });
            }
        }
        weights.flush(visit);
    }

    const PlacedParts& parts_;
    const Fronts& fronts_;
    float tolerance_;
    const float* latents_;
    BlendSums& sums_;
};

MOSAICMEM_CLONES
void add_splats(const SourceGrid& source, const PlacedParts& parts, const Fronts& fronts,
                float tolerance, BlendSums& sums) {
    const Splatter splatter(parts, fronts, tolerance, source.latents, sums);
    const std::size_t n = source.subcells;
    if (n == 1) {
        splatter.add_windows<2>();
        splatter.add_windows<3>();
        splatter.add_windows<4>();
        splatter.add_without_window();
        return;
    }
    for (std::size_t r = 0; r < source.rows; ++r) {
        for (std::size_t c = 0; c < source.columns; ++c) {
            splatter.add_cell(n * (r * n * source.columns + c), n, n * source.columns,
                              r * source.columns + c);
        }
    }
}

// The target cells whose surface is known but is looked up in the sources, not splatted.
std::vector<std::int32_t> cells_to_look_up(const Fronts& fronts, bool is_backward) {
    std::vector<std::int32_t> cells;
    std::int32_t cell = 0;
    for (std::int32_t r = 0; r < fronts.layout.rows; ++r) {
        for (std::int32_t c = 0; c < fronts.layout.columns; ++c, ++cell) {
            const std::size_t at = fronts.layout.at(r, c);
            const bool is_splatted = !is_backward && fronts.depth[at] != kNoSurface;
            if (!is_splatted && fronts.surface(at) != kNoSurface) cells.push_back(cell);
        }
    }
    return cells;
}

void add_lookups(const SourceGrid& source, const TargetGrid& target, const BlendOptions& options,
                 const Fronts& fronts, const std::vector<std::int32_t>& cells, BlendSums& sums) {
    if (cells.empty()) return;
    const Lookup lookup(source, target, options.scales, options.depth_tolerance);
    for (const std::int32_t cell : cells) {
        const std::size_t at =
            fronts.layout.at(cell / fronts.layout.columns, cell % fronts.layout.columns);
        lookup(surface_point(target, static_cast<std::size_t>(cell), fronts.surface(at)),
               [&](std::size_t token, float weight) {
                   sums.add(at, weight, source.latents + token * sums.channels());
               });
    }
}

void finish(const BlendSums& sums, const Fronts& fronts, const BlendCanvas& canvas) {
    const PlaneLayout& layout = fronts.layout;
    std::size_t cell = 0;
    for (std::int32_t r = 0; r < layout.rows; ++r) {
        for (std::int32_t c = 0; c < layout.columns; ++c, ++cell) {
            const std::size_t at = layout.at(r, c);
            const bool covered = sums.total(at) > 0;
            canvas.coverage[cell] = covered;
            canvas.depth[cell] = covered ? fronts.surface(at) : 0.0f;
            canvas.source[cell] = sums.source(at);
            canvas.weight[cell] = sums.total(at);
            sums.average(at, canvas.latents + cell * sums.channels());
        }
    }
}

}  // namespace

void blend(std::span<const SourceGrid> sources, const TargetGrid& target,
           const BlendOptions& options, std::size_t channels, const BlendCanvas& canvas) {
    const PlaneLayout layout{static_cast<std::int32_t>(target.rows),
                             static_cast<std::int32_t>(target.columns)};
    std::vector<PlacedParts> placed(sources.size());
    bool has_skirts = false;
    for (std::size_t s = 0; s < sources.size(); ++s) {
        place_parts(sources[s], target, options.scales, placed[s]);
        has_skirts |= sources[s].subcells > 1;
    }
    const Fronts fronts = fronts_of(placed, has_skirts, layout, options.depth_tolerance);
    const bool is_backward = options.direction == Direction::backward;
    const std::vector<std::int32_t> looked_up = cells_to_look_up(fronts, is_backward);
    BlendSums sums(layout, channels);
    for (std::size_t s = 0; s < sources.size(); ++s) {
        if (!is_backward) add_splats(sources[s], placed[s], fronts, options.depth_tolerance, sums);
        add_lookups(sources[s], target, options, fronts, looked_up, sums);
        sums.end_source(static_cast<std::int32_t>(s));
    }
    finish(sums, fronts, canvas);
}

}  // namespace mosaicmem
