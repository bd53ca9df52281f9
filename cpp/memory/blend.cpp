#include "cpp/memory/blend.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

#include "cpp/base/clones.hpp"
#include "cpp/memory/surface.hpp"
#include "cpp/memory/tent_square.hpp"

namespace mosaicmem {
namespace {

// The front surface of each target cell.
struct Fronts {
    std::vector<float> depth;                  // metres; kNoSurface where there is none
    std::vector<std::uint8_t> is_fringe;       // no tent there is high enough to be a front
    std::vector<std::uint8_t> is_near_fringe;  // of a cell, its right and its lower neighbours
    std::vector<float> closed;                 // the depth of closed holes, kNoSurface elsewhere
};

// Lowers the depths of the target cells under all parts: `front`, and `fringe` for low tents.
MOSAICMEM_CLONES
void find_front(const ProjectedCells& parts, std::int32_t rows, std::int32_t columns, float* front,
                float* fringe) {
    for (std::size_t i = 0; i < parts.size(); ++i) {
        const float x = parts.x[i], y = parts.y[i], z = parts.z[i], spread = parts.spread[i];
        if (parts.worth[i] == 0) continue;
        if (parts.worth[i] > 0 && TentSquare::fits(x, y, spread, rows, columns)) {
            const TentSquare over(x, y, spread);
            const Quad height = over.heights();
            const QuadMask is_front = height >= kFrontTent;
            const QuadMask is_low =
                ~is_front & ((height >= kLeastTent) | (over.skirts() >= kLeastTent));
            const std::ptrdiff_t at = static_cast<std::ptrdiff_t>(over.top) * columns + over.left;
            const Quad near = load_quad(front + at, columns), low = load_quad(fringe + at, columns);
            store_quad(select(is_front & (near > z), z - Quad{}, near), front + at, columns);
            store_quad(select(is_low & (low > z), z - Quad{}, low), fringe + at, columns);
            continue;
        }
        if (parts.worth[i] > 0 && spread > 1 && TentRows::fits(x, y, spread, rows, columns)) {
            const TentRows over(x, y, spread);
            for (std::int32_t r = over.top; r <= over.bottom; ++r) {
                const std::ptrdiff_t at = static_cast<std::ptrdiff_t>(r) * columns + over.left;
                const Quad height = over.heights(r);
                const QuadMask is_front = height >= kFrontTent;
                const QuadMask is_low = ~is_front & (height >= kLeastTent);
                const Quad near = load_row(front + at), low = load_row(fringe + at);
                store_row(select(is_front & (near > z), z - Quad{}, near), front + at);
                store_row(select(is_low & (low > z), z - Quad{}, low), fringe + at);
            }
            continue;
        }
        for_each_tent(x, y, parts.worth[i], spread, rows, columns,
                      [&](std::int32_t cell, const Tent& tent) MOSAICMEM_LAMBDA {
                          float& nearest = (tent.is_front ? front : fringe)[cell];
                          nearest = std::min(nearest, z);
                      });
    }
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

Fronts fronts_of(const std::vector<ProjectedCells>& projected, const TargetGrid& target,
                 float tolerance) {
    const std::size_t count = target.rows * target.columns;
    Fronts fronts{std::vector<float>(count, kNoSurface),
                  std::vector<std::uint8_t>(count),
                  std::vector<std::uint8_t>(count),
                  {}};
    std::vector<float> fringe(count, kNoSurface);
    for (const ProjectedCells& parts : projected) {
        find_front(parts, static_cast<std::int32_t>(target.rows),
                   static_cast<std::int32_t>(target.columns), fronts.depth.data(), fringe.data());
    }
    for (std::size_t cell = 0; cell < count; ++cell) {
        fronts.is_fringe[cell] = fronts.depth[cell] == kNoSurface;
        if (fronts.is_fringe[cell]) fronts.depth[cell] = fringe[cell];
    }
    for (std::size_t cell = 0; cell + target.columns + 1 < count; ++cell) {
        const std::uint8_t* const at = &fronts.is_fringe[cell];
        fronts.is_near_fringe[cell] = at[0] | at[1] | at[target.columns] | at[target.columns + 1];
    }
    fronts.closed = closed_holes(fronts.depth, target, tolerance);
    return fronts;
}

// The running sums of a target cell.
struct CellState {
    float total = 0;  // weight
    float most = 0;   // largest weight of a single source cell
    std::int32_t source = -1;
};

// The sums over all sources.
class Sums {
  public:
    Sums(const BlendCanvas& canvas, std::size_t cells, std::size_t channels)
        : latents_(canvas.latents), channels_(channels), cells_(cells) {
        std::fill_n(latents_, cells * channels, 0.0f);
    }

    MOSAICMEM_INLINE void add(std::int32_t cell, float weight, const float* __restrict latent,
                              std::int32_t source) {
        float* __restrict out = latents_ + static_cast<std::size_t>(cell) * channels_;
        if (channels_ == 3) {  // colours
            for (std::size_t k = 0; k < 3; ++k) out[k] += weight * latent[k];
        } else {
            for (std::size_t k = 0; k < channels_; ++k) out[k] += weight * latent[k];
        }
        CellState& state = cells_[static_cast<std::size_t>(cell)];
        state.total += weight;
        // Without a branch, which would be taken at random.
        const std::int32_t is_more = -static_cast<std::int32_t>(weight > state.most);
        state.most = std::max(state.most, weight);
        state.source = (source & is_more) | (state.source & ~is_more);
    }

    void finish(const Fronts& fronts, const BlendCanvas& canvas) const {
        for (std::size_t cell = 0; cell < cells_.size(); ++cell) {
            const CellState& state = cells_[cell];
            const bool covered = state.total > 0;
            canvas.coverage[cell] = covered;
            canvas.depth[cell] = covered ? std::min(fronts.depth[cell], fronts.closed[cell]) : 0.0f;
            canvas.source[cell] = state.source;
            canvas.weight[cell] = state.total;
            if (!covered) continue;
            float* out = latents_ + cell * channels_;
            for (std::size_t k = 0; k < channels_; ++k) out[k] /= state.total;
        }
    }

  private:
    float* latents_;
    std::size_t channels_;
    std::vector<CellState> cells_;
};

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

// The same for a cell whose parts lie within a small square of target cells.
class WindowWeights {
  public:
    // The square begins a cell above and to the left of the first part.
    MOSAICMEM_INLINE WindowWeights(float x, float y)
        : left_(static_cast<std::int32_t>(x) - 1), top_(static_cast<std::int32_t>(y) - 1) {
        std::fill_n(weight_, kEdge * kEdge, 0.0f);
    }
    MOSAICMEM_INLINE bool contains(const TentSquare& over) const {
        return static_cast<std::uint32_t>(over.left - left_) <= kEdge - 2 &&
               static_cast<std::uint32_t>(over.top - top_) <= kEdge - 2;
    }
    MOSAICMEM_INLINE void add(const TentSquare& over, const Quad& weights) {
        float* const at = weight_ + (over.top - top_) * kEdge + (over.left - left_);
        store_quad(load_quad(at, kEdge) + weights, at, kEdge);
    }
    template <class Visit>
    MOSAICMEM_INLINE void for_each(std::int32_t columns, const Visit& visit) const {
        for (std::int32_t i = 0; i < kEdge * kEdge; ++i) {
            if (weight_[i] > 0) visit((top_ + i / kEdge) * columns + left_ + i % kEdge, weight_[i]);
        }
    }

  private:
    static constexpr std::int32_t kEdge = 4;
    float weight_[kEdge * kEdge];
    std::int32_t left_, top_;
};

// Adds the parts of a source to the target cells where they lie on the front surface.
struct Splatter {
    const ProjectedCells& parts;
    std::size_t n, row_step;  // parts along the edge of a cell; from one row of them to the next
    const Fronts& fronts;
    std::int32_t rows, columns;  // of the target
    float tolerance;

    // False if the parts need add_each(); then some of them may have been visited.
    template <class Visit>
    MOSAICMEM_INLINE bool add_window(std::size_t first, const Visit& visit) const {
        if (!(parts.worth[first] > 0) ||
            !TentSquare::fits(parts.x[first], parts.y[first], parts.spread[first], rows, columns)) {
            return false;
        }
        const float* const front = fronts.depth.data();
        WindowWeights window(parts.x[first], parts.y[first]);
        for (std::size_t r = 0; r < n; ++r) {
            for (std::size_t i = first + r * row_step; i < first + r * row_step + n; ++i) {
                const float worth = parts.worth[i], z = parts.z[i];
                if (!(worth > 0)) return false;
                if (!TentSquare::fits(parts.x[i], parts.y[i], parts.spread[i], rows, columns))
                    return false;
                const TentSquare over(parts.x[i], parts.y[i], parts.spread[i]);
                const std::ptrdiff_t at =
                    static_cast<std::ptrdiff_t>(over.top) * columns + over.left;
                if (fronts.is_near_fringe[static_cast<std::size_t>(at)] || !window.contains(over))
                    return false;
                const Quad height = over.heights(), there = load_quad(front + at, columns);
                const Quad behind = z - there, most = tolerance * there;
                const QuadMask counts =
                    (height >= kLeastTent) & (behind <= most) & (-behind <= most);
                window.add(over, select(counts, height * worth, Quad{}));
            }
        }
        window.for_each(columns, visit);
        return true;
    }

    // The same for a cell without subcells.
    template <class Visit>
    MOSAICMEM_INLINE bool add_square(std::size_t i, const Visit& visit) const {
        const float worth = parts.worth[i], z = parts.z[i];
        if (!(worth > 0 &&
              TentSquare::fits(parts.x[i], parts.y[i], parts.spread[i], rows, columns))) {
            return false;
        }
        const TentSquare over(parts.x[i], parts.y[i], parts.spread[i]);
        const std::int32_t at = over.top * columns + over.left;
        const Quad height = over.heights(), there = load_quad(fronts.depth.data() + at, columns);
        const Quad behind = z - there, most = tolerance * there;
        const QuadMask counts = (height >= kLeastTent) & (behind <= most) & (-behind <= most);
        const Quad weight = select(counts, height * worth, Quad{});
        for (int k = 0; k < 4; ++k) {
            if (weight[k] > 0) visit(at + (k >> 1) * columns + (k & 1), weight[k]);
        }
        return true;
    }

    // The same for a cell without subcells, whose tent is wider than a target cell.
    template <class Visit>
    MOSAICMEM_INLINE bool add_rows(std::size_t i, const Visit& visit) const {
        const float x = parts.x[i], y = parts.y[i], z = parts.z[i], worth = parts.worth[i];
        if (!(worth > 0 && TentRows::fits(x, y, parts.spread[i], rows, columns))) return false;
        const TentRows over(x, y, parts.spread[i]);
        for (std::int32_t r = over.top; r <= over.bottom; ++r) {
            const std::ptrdiff_t at = static_cast<std::ptrdiff_t>(r) * columns + over.left;
            const Quad height = over.heights(r), there = load_row(fronts.depth.data() + at);
            const Quad behind = z - there, most = tolerance * there;
            const QuadMask counts = (height >= kLeastTent) & (behind <= most) & (-behind <= most);
            const Quad weight = select(counts, height * worth, Quad{});
            for (int k = 0; k < 4; ++k) {
                if (weight[k] > 0) visit(static_cast<std::int32_t>(at) + k, weight[k]);
            }
        }
        return true;
    }

    template <class Visit>
    MOSAICMEM_INLINE void add_each(std::size_t first, const Visit& visit) const {
        CellWeights weights;
        for (std::size_t r = 0; r < n; ++r) {
            for (std::size_t i = first + r * row_step; i < first + r * row_step + n; ++i) {
                const float worth = parts.worth[i], z = parts.z[i];
                for_each_tent(parts.x[i], parts.y[i], worth, parts.spread[i], rows, columns,
                              [&](std::int32_t cell, const Tent& tent) MOSAICMEM_LAMBDA {
                                  const auto at = static_cast<std::size_t>(cell);
                                  const float front = fronts.depth[at];
                                  if (std::abs(z - front) > tolerance * front) return;
                                  if (tent.is_skirt && !fronts.is_fringe[at]) return;
                                  weights.add(cell, tent.height * std::abs(worth), visit);
                              });
            }
        }
        weights.flush(visit);
    }
};

MOSAICMEM_CLONES
void add_splats(const SourceGrid& source, const ProjectedCells& parts, const TargetGrid& target,
                const Fronts& fronts, std::size_t channels, std::int32_t number, float tolerance,
                Sums& sums) {
    const std::size_t n = source.subcells;
    const Splatter splatter{parts,
                            n,
                            n * source.columns,
                            fronts,
                            static_cast<std::int32_t>(target.rows),
                            static_cast<std::int32_t>(target.columns),
                            tolerance};
    const float* latent = source.latents;
    for (std::size_t r = 0; r < source.rows; ++r) {
        for (std::size_t c = 0; c < source.columns; ++c, latent += channels) {
            const std::size_t first = n * (r * n * source.columns + c);
            const auto visit = [&](std::int32_t cell, float weight)
                                   MOSAICMEM_LAMBDA { sums.add(cell, weight, latent, number); };
            if (n == 1 && (parts.spread[first] > 1 ? splatter.add_rows(first, visit)
                                                   : splatter.add_square(first, visit))) {
                continue;
            }
            if (!splatter.add_window(first, visit)) splatter.add_each(first, visit);
        }
    }
}

// Adds what a source shows of the surfaces at the target cells' `depth`.
void add_lookups(const SourceGrid& source, const TargetGrid& target, const BlendOptions& options,
                 const std::vector<float>& depth, std::size_t channels, std::int32_t number,
                 Sums& sums) {
    const Lookup lookup(source, target, options.scales, options.depth_tolerance);
    for (std::size_t cell = 0; cell < depth.size(); ++cell) {
        if (depth[cell] == kNoSurface) continue;
        lookup(surface_point(target, cell, depth[cell]), [&](std::size_t token, float weight) {
            sums.add(static_cast<std::int32_t>(cell), weight, source.latents + token * channels,
                     number);
        });
    }
}

}  // namespace

void blend(std::span<const SourceGrid> sources, const TargetGrid& target,
           const BlendOptions& options, std::size_t channels, const BlendCanvas& canvas) {
    std::vector<ProjectedCells> projected(sources.size());
    for (std::size_t s = 0; s < sources.size(); ++s)
        project_parts(sources[s], target, options.scales, projected[s]);
    Fronts fronts = fronts_of(projected, target, options.depth_tolerance);
    std::vector<float> looked_up = fronts.closed;
    const bool is_backward = options.direction == Direction::backward;
    if (is_backward) {
        for (std::size_t cell = 0; cell < looked_up.size(); ++cell)
            looked_up[cell] = std::min(looked_up[cell], fronts.depth[cell]);
    }
    Sums sums(canvas, target.rows * target.columns, channels);
    for (std::size_t s = 0; s < sources.size(); ++s) {
        const auto number = static_cast<std::int32_t>(s);
        if (!is_backward) {
            add_splats(sources[s], projected[s], target, fronts, channels, number,
                       options.depth_tolerance, sums);
        }
        add_lookups(sources[s], target, options, looked_up, channels, number, sums);
    }
    sums.finish(fronts, canvas);
}

}  // namespace mosaicmem
