// The parts of a source, projected into a target and sorted by the windows of target cells that
// they lie over, so that each kind of window has a loop of its own without branches.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "cpp/memory/view_weight.hpp"

namespace mosaicmem {

// What a part lies over. From 2 on, a square window of as many target cells along each edge.
enum Reach : std::int32_t {
    kNowhere = 0,   // no cell of the target
    kNoWindow = 1,  // some: wider than any window, or doubtful; see for_each_tent()
    kWidestWindow = 4,
};

struct PlacedParts {
    ProjectedCells cells;
    std::vector<std::int32_t> reach;      // see Reach
    std::vector<std::int32_t> left, top;  // of the window, where there is one
    std::vector<std::int32_t> sorted;     // parts by reach, without those that lie nowhere
    std::array<std::size_t, kWidestWindow + 2> first;  // in `sorted`, of each reach; the end last

    // The parts of one reach, in order.
    std::span<const std::int32_t> with_reach(std::int32_t each) const {
        const auto i = static_cast<std::size_t>(each);
        return {sorted.data() + first[i], first[i + 1] - first[i]};
    }
};

// Projects all subcells of all cells, or all cells if the source has no subcells.
void place_parts(const SourceGrid& source, const TargetGrid& target, const ViewWeightScales& scales,
                 PlacedParts& parts);

}  // namespace mosaicmem
