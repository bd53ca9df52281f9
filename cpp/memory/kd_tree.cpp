#include "cpp/memory/kd_tree.hpp"

#include <algorithm>
#include <cstring>
#include <iterator>
#include <limits>
#include <memory>
#include <numeric>

namespace mosaicmem {
namespace {

constexpr std::size_t kLeafSize = 16;

struct Item {
    float x[3];
    std::uint32_t label;
};

Box box_of(const Item* items, std::size_t n) {
    Box box;
    std::memcpy(&box.low, items, sizeof(Item));
    box.high = box.low;
    for (std::size_t i = 1; i < n; ++i) {
        Lanes x;  // the last lane is a label, whose comparison is meaningless
        std::memcpy(&x, items + i, sizeof x);
        box.low = x < box.low ? x : box.low;
        box.high = x > box.high ? x : box.high;
    }
    box.low[3] = box.high[3] = 0;
    return box;
}

// Moves the items with x[axis] <= cut to the front and returns their number. `spare` has room for
// n. Branch-free, since the side of the next item is unpredictable.
std::size_t partition(Item* items, std::size_t n, int axis, float cut, Item* spare) {
    std::size_t left = 0, right = 0;
    for (std::size_t i = 0; i < n; ++i) {
        const Item item = items[i];
        const bool goes_left = item.x[axis] <= cut;
        items[left] = item;
        spare[right] = item;
        left += goes_left;
        right += !goes_left;
    }
    std::memcpy(items + left, spare, right * sizeof(Item));
    return left;
}

}  // namespace

template <class TimeOf>
class KdTree::Builder {
  public:
    // TimeOf: returns the time at which an item was seen.
    Builder(KdTree& tree, Item* items, std::size_t n, const TimeOf& time_of)
        : tree_(tree),
          items_(items),
          spare_(std::make_unique_for_overwrite<Item[]>(n)),
          time_of_(time_of) {}

    void build(BoxedNode* node, std::size_t begin, std::size_t end) {
        Item* const items = items_ + begin;
        const std::size_t n = end - begin;
        const Box& box = node->box = box_of(items, n);
        node->child1 = node->child2 = nullptr;
        if (n <= kLeafSize) {
            node->node_type.lr.left = begin;
            node->node_type.lr.right = end;
            node->newest_time = time_of_(items[0]);
            for (std::size_t i = 1; i < n; ++i)
                node->newest_time = std::max(node->newest_time, time_of_(items[i]));
            return;
        }
        int axis = 0;
        for (int other = 1; other < 3; ++other) {
            if (box.high[other] - box.low[other] > box.high[axis] - box.low[axis]) axis = other;
        }
        const float low = box.low[axis], high = box.high[axis];
        float cut = low + 0.5f * (high - low);
        if (!(cut < high)) cut = low;
        const std::size_t left = low < high ? partition(items, n, axis, cut, spare_.get()) : n / 2;
        BoxedNode* const children = allocate(2);  // adjacent, since a search reads both
        build(children, begin, begin + left);
        build(children + 1, begin + left, end);
        node->child1 = children;
        node->child2 = children + 1;
        node->node_type.sub.divfeat = axis;
        node->node_type.sub.divlow = node->left().box.high[axis];
        node->node_type.sub.divhigh = node->right().box.low[axis];
        node->newest_time = std::max(node->left().newest_time, node->right().newest_time);
    }

    BoxedNode* allocate(std::size_t count) { return tree_.pool_.allocate<BoxedNode>(count); }

  private:
    KdTree& tree_;
    Item* items_;
    std::unique_ptr<Item[]> spare_;
    const TimeOf& time_of_;
};

KdTree::KdTree(const CentresAdaptor& adaptor, std::vector<std::uint64_t>& labels,
               std::vector<float>& centres, std::vector<Seen>& seen)
    : NanoflannTree(3, adaptor,
                    {kLeafSize, nanoflann::KDTreeSingleIndexAdaptorFlags::SkipInitialBuildIndex}) {
    // Items carry labels as offsets from the smallest if those fit, else as positions in a copy.
    const std::size_t n = labels.size();
    const auto [least, most] = std::minmax_element(labels.begin(), labels.end());
    const std::uint64_t first = *least;
    const bool far_apart = *most - first > std::numeric_limits<std::uint32_t>::max();
    const std::vector<std::uint64_t> copy = far_apart ? labels : std::vector<std::uint64_t>();
    const auto items = std::make_unique_for_overwrite<Item[]>(n);
    for (std::size_t i = 0; i < n; ++i) {
        items[i] = {{centres[3 * i], centres[3 * i + 1], centres[3 * i + 2]},
                    static_cast<std::uint32_t>(far_apart ? i : labels[i] - first)};
    }
    std::vector<bool> is_used(seen.size());
    const auto time_of = [&](const Item& item) {
        const std::uint64_t label = far_apart ? copy[item.label] : first + item.label;
        const auto after = std::upper_bound(
            seen.begin(), seen.end(), label,
            [](std::uint64_t value, const Seen& entry) { return value < entry.first_label; });
        is_used[static_cast<std::size_t>(after - seen.begin()) - 1] = true;
        return std::prev(after)->time;
    };
    Builder builder(*this, items.get(), n, time_of);
    BoxedNode* const root_node = builder.allocate(1);
    builder.build(root_node, 0, n);
    root_node_ = root_node;
    for (std::size_t axis = 0; axis < 3; ++axis)
        root_bbox_[axis] = {root().box.low[axis], root().box.high[axis]};

    for (std::size_t i = 0; i < n; ++i) {
        labels[i] = far_apart ? copy[items[i].label] : first + items[i].label;
        std::memcpy(&centres[3 * i], items[i].x, sizeof items[i].x);
    }
    std::size_t position = 0;
    std::erase_if(seen, [&](const Seen&) { return !is_used[position++]; });
    seen.shrink_to_fit();
    size_ = size_at_index_build_ = n;
    vAcc_.resize(n);
    std::iota(vAcc_.begin(), vAcc_.end(), 0u);
    nbytes_ = usedMemory(*this);
}

}  // namespace mosaicmem
