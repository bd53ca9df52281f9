#include "cpp/memory/kd_tree.hpp"

#include <algorithm>
#include <cstring>
#include <iterator>
#include <limits>
#include <memory>
#include <numeric>

#include "cpp/simd/levels.hpp"

namespace mosaicmem {
namespace {

constexpr std::size_t kLeafSize = 16;

Box box_of(const PointItem* items, std::size_t n, const Kernels& level) {
    Box box;
    level.bounds(items, n, reinterpret_cast<float*>(&box.low), reinterpret_cast<float*>(&box.high));
    box.low[3] = box.high[3] = 0;
    return box;
}

// Finds the entry of `seen` that a label belongs to: a bucket has about half of one where entries
// have similar numbers of labels, as keyframes do.
class SeenTable {
  public:
    SeenTable(const std::vector<Seen>& seen, std::uint64_t first, std::uint64_t last)
        : seen_(seen), first_(first) {
        while ((last - first) >> shift_ > 2 * seen.size()) ++shift_;
        const std::uint64_t buckets = ((last - first) >> shift_) + 1;
        for (std::uint64_t bucket = 0, entry = 0; bucket < buckets; ++bucket) {
            const std::uint64_t label = first + (bucket << shift_);
            while (entry < seen.size() && seen[entry].first_label <= label) ++entry;
            after_.push_back(static_cast<std::uint32_t>(entry));
        }
        after_.push_back(static_cast<std::uint32_t>(seen.size()));
    }

    std::size_t entry_of(std::uint64_t label) {
        if (label - from_ < count_) return latest_;
        const std::uint64_t bucket = (label - first_) >> shift_;
        const auto after = std::upper_bound(
            seen_.begin() + after_[bucket], seen_.begin() + after_[bucket + 1], label,
            [](std::uint64_t value, const Seen& entry) { return value < entry.first_label; });
        latest_ = static_cast<std::size_t>(after - seen_.begin()) - 1;
        from_ = seen_[latest_].first_label;
        count_ = after == seen_.end() ? std::numeric_limits<std::uint64_t>::max() - from_
                                      : after->first_label - from_;
        return latest_;
    }

  private:
    const std::vector<Seen>& seen_;
    std::uint64_t first_;
    int shift_ = 0;
    std::size_t latest_ = 0;  // the entry found last, and its labels
    std::uint64_t from_ = 0, count_ = 0;
    std::vector<std::uint32_t> after_;  // the entry after that of the first label of each bucket
};

}  // namespace

// A node's items lie in one of two arrays, and as many places in the other are free: a partition
// leaves the left ones where they are and moves the right ones over, so nothing is copied back.
template <class Place>
class KdTree::Builder {
  public:
    // Place: takes an item and its position in the tree, and returns the time at which it was seen.
    Builder(KdTree& tree, const Place& place) : tree_(tree), place_(place) {}

    void build(BoxedNode* node, std::size_t begin, std::size_t n, PointItem* items,
               PointItem* spare) {
        const Box& box = node->box = box_of(items, n, level_);
        node->child1 = node->child2 = nullptr;
        if (n <= kLeafSize) {
            node->node_type.lr.left = begin;
            node->node_type.lr.right = begin + n;
            node->newest_time = place_(items[0], begin);
            for (std::size_t i = 1; i < n; ++i)
                node->newest_time = std::max(node->newest_time, place_(items[i], begin + i));
            return;
        }
        int axis = 0;
        for (int other = 1; other < 3; ++other) {
            if (box.high[other] - box.low[other] > box.high[axis] - box.low[axis]) axis = other;
        }
        const float low = box.low[axis], high = box.high[axis];
        float cut = low + 0.5f * (high - low);
        if (!(cut < high)) cut = low;
        BoxedNode* const children = allocate(2);  // adjacent, since a search reads both
        if (low < high) {
            const std::size_t left = level_.partition(items, n, axis, cut, spare);
            build(children + 1, begin + left, n - left, spare, items + left);
            build(children, begin, left, items, spare);
        } else {
            const std::size_t left = n / 2;
            build(children + 1, begin + left, n - left, items + left, spare + left);
            build(children, begin, left, items, spare);
        }
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
    const Place& place_;
    const Kernels& level_ = kernels();
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
    SeenTable table(seen, first, *most);
    const std::vector<std::uint64_t> copy = far_apart ? labels : std::vector<std::uint64_t>();
    const auto items = std::make_unique_for_overwrite<PointItem[]>(n),
               spare = std::make_unique_for_overwrite<PointItem[]>(n);
    for (std::size_t i = 0; i < n; ++i) {
        items[i] = {{centres[3 * i], centres[3 * i + 1], centres[3 * i + 2]},
                    static_cast<std::uint32_t>(far_apart ? i : labels[i] - first)};
    }
    std::vector<std::uint8_t> is_used(seen.size());
    const auto place = [&](const PointItem& item, std::size_t position) {
        const std::uint64_t label = far_apart ? copy[item.label] : first + item.label;
        labels[position] = label;
        std::memcpy(&centres[3 * position], item.x, sizeof item.x);
        const std::size_t entry = table.entry_of(label);
        is_used[entry] = true;
        return seen[entry].time;
    };
    Builder builder(*this, place);
    BoxedNode* const root_node = builder.allocate(1);
    builder.build(root_node, 0, n, items.get(), spare.get());
    root_node_ = root_node;
    for (std::size_t axis = 0; axis < 3; ++axis)
        root_bbox_[axis] = {root().box.low[axis], root().box.high[axis]};
    std::size_t position = 0;
    std::erase_if(seen, [&](const Seen&) { return !is_used[position++]; });
    seen.shrink_to_fit();
    size_ = size_at_index_build_ = n;
    vAcc_.resize(n);
    std::iota(vAcc_.begin(), vAcc_.end(), 0u);
    nbytes_ = usedMemory(*this);
}

}  // namespace mosaicmem
