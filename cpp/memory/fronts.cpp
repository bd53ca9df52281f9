#include "cpp/memory/fronts.hpp"

#include <algorithm>

#include "cpp/memory/surface.hpp"

namespace mosaicmem {
namespace {

// Depths are compared as bits, as positive floats order like their bits. Those of low tents come
// after all others, as they have the sign bit set, and before kNothing.
constexpr std::uint32_t kLow = 0x80000000u, kNothing = 0xFFFFFFFFu;
using QuadKeys = std::uint32_t __attribute__((vector_size(16)));

// Lowers the keys of the target cells under parts.
template <std::int32_t kReach, bool kHasSkirts = false>
MOSAICMEM_INLINE void lower_windows(const PlacedParts& parts, const PlaneLayout& layout,
                                    std::uint32_t* keys) {
    using Unaligned = std::uint32_t __attribute__((vector_size(16), aligned(4)));
    const ProjectedCells& cells = parts.cells;
    for (const std::int32_t part : parts.with_reach(kReach)) {
        const auto i = static_cast<std::size_t>(part);
        const float x = cells.x[i], y = cells.y[i], per_cell = 1.0f / cells.spread[i];
        const auto z = std::bit_cast<std::uint32_t>(cells.z[i]);
        const std::int32_t left = parts.left[i], top = parts.top[i];
        const Quad across = tent_along(x, left, per_cell), down = tent_along(y, top, per_cell);
        const Quad wide_across = kHasSkirts ? tent_along(x, left, 1.0f) : Quad{};
        const Quad wide_down = kHasSkirts ? tent_along(y, top, 1.0f) : Quad{};
        for (std::int32_t r = 0; r < kReach; ++r) {
            const Quad height = down[r] * across, skirt = wide_down[r] * wide_across;
            const QuadMask is_low = height < kFrontTent;
            const QuadMask is_nothing = (height < kLeastTent) & (skirt < kLeastTent);
            const QuadKeys own =
                z | (std::bit_cast<QuadKeys>(is_low) & kLow) | std::bit_cast<QuadKeys>(is_nothing);
            auto& least = *reinterpret_cast<Unaligned*>(keys + layout.at(top + r, left));
            least = own < least ? own : least;
        }
    }
}

MOSAICMEM_CLONES
void lower(const PlacedParts& parts, const PlaneLayout& layout, bool has_skirts,
           std::uint32_t* keys) {
    if (has_skirts) {
        lower_windows<2, true>(parts, layout, keys);
    } else {
        lower_windows<2>(parts, layout, keys);
    }
    lower_windows<3>(parts, layout, keys);
    lower_windows<4>(parts, layout, keys);
    const ProjectedCells& cells = parts.cells;
    for (const std::int32_t part : parts.with_reach(kNoWindow)) {
        const auto i = static_cast<std::size_t>(part);
        const auto z = std::bit_cast<std::uint32_t>(cells.z[i]);
        for_each_tent(cells.x[i], cells.y[i], cells.worth[i], cells.spread[i], layout.rows,
                      layout.columns,
                      [&](std::int32_t r, std::int32_t c, const Tent& tent) MOSAICMEM_LAMBDA {
                          std::uint32_t& least = keys[layout.at(r, c)];
                          least = std::min(least, tent.is_front ? z : z | kLow);
                      });
    }
}

// Depths for the holes of `front` that lie between two sides of one surface, kNoSurface elsewhere.
std::vector<float> closed_holes(const std::vector<float>& front, const PlaneLayout& layout,
                                float tolerance) {
    std::vector<float> closed(front.size(), kNoSurface);
    const auto depth = [&](std::ptrdiff_t r, std::ptrdiff_t c) {
        return front[layout.at(static_cast<std::int32_t>(r), static_cast<std::int32_t>(c))];
    };
    for (std::int32_t r = 0; r < layout.rows; ++r) {
        for (std::int32_t c = 0; c < layout.columns; ++c) {
            const std::size_t at = layout.at(r, c);
            if (front[at] != kNoSurface) continue;
            closed[at] = close_hole(depth, layout.rows, layout.columns, r, c, tolerance);
        }
    }
    return closed;
}

}  // namespace

Fronts fronts_of(const std::vector<PlacedParts>& sources, bool has_skirts,
                 const PlaneLayout& layout, float tolerance) {
    const std::size_t size = layout.size();
    std::vector<std::uint32_t> keys(size, kNothing);
    for (const PlacedParts& parts : sources) lower(parts, layout, has_skirts, keys.data());
    Fronts fronts{layout,
                  std::vector<float>(size, kNoSurface),
                  std::vector<std::uint8_t>(size),
                  std::vector<std::uint8_t>(size),
                  {}};
    for (std::int32_t r = 0; r < layout.rows; ++r) {
        for (std::int32_t c = 0; c < layout.columns; ++c) {
            const std::size_t at = layout.at(r, c);
            if (keys[at] != kNothing) fronts.depth[at] = std::bit_cast<float>(keys[at] & ~kLow);
            if (keys[at] < kLow) continue;
            fronts.is_fringe[at] = 1;
            if (!has_skirts) continue;
            for (std::int32_t up = 0; up < kWidestWindow; ++up) {
                for (std::int32_t back = 0; back < kWidestWindow; ++back)
                    fronts.meets_fringe[layout.at(r - up, c - back)] = 1;
            }
        }
    }
    fronts.closed = closed_holes(fronts.depth, layout, tolerance);
    return fronts;
}

}  // namespace mosaicmem
