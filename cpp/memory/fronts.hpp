// The front surface of each target cell.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "cpp/memory/placed_parts.hpp"
#include "cpp/memory/tent_window.hpp"

namespace mosaicmem {

// Planes of a target's cells, laid out by `layout`.
struct Fronts {
    PlaneLayout layout;
    std::vector<float> depth;             // metres; kNoSurface where there is none
    std::vector<std::uint8_t> is_fringe;  // no tent there is high enough to be a front
    // Of windows, by their first cell: whether one of its cells is fringe. Only with skirts.
    std::vector<std::uint8_t> meets_fringe;
    std::vector<float> closed;  // the depth of closed holes, kNoSurface elsewhere

    // The depth of a cell, seen or closed; kNoSurface where there is none.
    float surface(std::size_t at) const { return std::min(depth[at], closed[at]); }
};

// `has_skirts`: whether tents may be narrower than a target cell, as those of subcells are.
// `tolerance` is the relative thickness of a surface.
Fronts fronts_of(const std::vector<PlacedParts>& sources, bool has_skirts,
                 const PlaneLayout& layout, float tolerance);

}  // namespace mosaicmem
