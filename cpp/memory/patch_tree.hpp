// One tree of the forest with its points; for patch_index.cpp and patch_index_search.cpp.
#pragma once

#include <algorithm>
#include <utility>

#include "cpp/memory/kd_tree.hpp"
#include "cpp/memory/patch_index.hpp"

namespace mosaicmem {

struct PatchIndex::Tree {
    explicit Tree(Points&& p)
        : points(std::move(p)),
          first_slot(*std::min_element(points.slots.begin(), points.slots.end())),
          adaptor{points.centres},
          index(adaptor, points.slots, points.centres, points.seen) {}

    std::size_t nbytes() const { return points.nbytes() + index.nbytes(); }

    Points points;
    Slot first_slot;
    CentresAdaptor adaptor;
    KdTree index;
};

}  // namespace mosaicmem
