#include "cpp/memory/placed_parts.hpp"

#include <algorithm>

#include "cpp/memory/surface.hpp"

namespace mosaicmem {
namespace {

// The reach of n parts, and the corners of their windows.
MOSAICMEM_CLONES
void place(std::size_t n, float rows, float columns, const float* __restrict x,
           const float* __restrict y, const float* __restrict worth, const float* __restrict spread,
           std::int32_t* __restrict reach, std::int32_t* __restrict left,
           std::int32_t* __restrict top) {
    for (std::size_t i = 0; i < n; ++i) {
        const float s = spread[i], wide = std::max(s, 1.0f);  // that of a skirt is 1
        const bool reaches = (worth[i] != 0) & (x[i] > -wide) & (y[i] > -wide) &
                             (x[i] < columns - 1 + wide) & (y[i] < rows - 1 + wide);
        const float last_x = reaches ? x[i] - wide : 0.0f, last_y = reaches ? y[i] - wide : 0.0f;
        left[i] = floor_of(last_x) + 1;
        top[i] = floor_of(last_y) + 1;
        const std::int32_t window = 2 + (s > 1.0f) + (s > 1.5f);
        const bool has_window = (worth[i] > 0) & (s <= 2.0f);
        reach[i] =
            reaches ? (has_window ? window : std::int32_t{kNoWindow}) : std::int32_t{kNowhere};
    }
}

// How many of n parts have a reach.
MOSAICMEM_CLONES
std::size_t count_of(const std::int32_t* reach, std::size_t n, std::int32_t each) {
    std::int32_t count = 0;
    for (std::size_t i = 0; i < n; ++i) count += reach[i] == each;
    return static_cast<std::size_t>(count);
}

}  // namespace

void place_parts(const SourceGrid& source, const TargetGrid& target, const ViewWeightScales& scales,
                 PlacedParts& parts) {
    ProjectedCells& cells = parts.cells;
    project_parts(source, target, scales, cells);
    const std::size_t n = cells.size();
    for (auto* field : {&parts.reach, &parts.left, &parts.top}) field->resize(n);
    place(n, static_cast<float>(target.rows), static_cast<float>(target.columns), cells.x.data(),
          cells.y.data(), cells.worth.data(), cells.spread.data(), parts.reach.data(),
          parts.left.data(), parts.top.data());
    parts.first[kNowhere] = parts.first[kNoWindow] = 0;
    for (std::int32_t each = kNoWindow; each <= kWidestWindow; ++each) {
        const auto i = static_cast<std::size_t>(each);
        parts.first[i + 1] = parts.first[i] + count_of(parts.reach.data(), n, each);
    }
    parts.sorted.resize(parts.first[kWidestWindow + 1] + 1);
    // Without branches, which would be taken at random: parts that lie nowhere all go to the end.
    std::array<std::size_t, kWidestWindow + 1> next;
    std::copy_n(parts.first.begin(), next.size(), next.begin());
    next[kNowhere] = parts.sorted.size() - 1;
    for (std::size_t i = 0; i < n; ++i) {
        const auto reach = static_cast<std::size_t>(parts.reach[i]);
        parts.sorted[next[reach]] = static_cast<std::int32_t>(i);
        next[reach] += reach != kNowhere;
    }
}

}  // namespace mosaicmem
