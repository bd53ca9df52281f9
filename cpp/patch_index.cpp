#include "patch_index.hpp"

#include <algorithm>
#include <bit>
#include <iterator>
#include <nanoflann.hpp>
#include <new>
#include <numeric>

#include "parallel.hpp"

namespace mosaicmem {
namespace {

constexpr std::size_t kBufferSize = 1024;
constexpr std::size_t kLeafSize = 12;

// A tree is swallowed if it is at most this many times what swallows it: the larger, the fewer
// trees there are to search and the more often a point is built into a new one.
constexpr std::size_t kMergeRatio = 4;

// nanoflann's view of an (n, 3) array.
struct CentresAdaptor {
    const std::vector<float>& centres;
    std::size_t kdtree_get_point_count() const { return centres.size() / 3; }
    float kdtree_get_pt(std::size_t i, std::size_t axis) const { return centres[3 * i + axis]; }
    template <class B>
    bool kdtree_get_bbox(B&) const {
        return false;
    }
};

using KdTree =
    nanoflann::KDTreeSingleIndexAdaptor<nanoflann::L2_Simple_Adaptor<float, CentresAdaptor>,
                                        CentresAdaptor, 3, std::uint32_t>;

float squared_distance(const float* a, const float* b) {
    const float x = a[0] - b[0], y = a[1] - b[1], z = a[2] - b[2];
    return x * x + y * y + z * z;
}

float squared_distance(const float* point, const Box& box) {
    float nearest[3];
    for (int axis = 0; axis < 3; ++axis)
        nearest[axis] = std::clamp(point[axis], box.low[axis], box.high[axis]);
    return squared_distance(point, nearest);
}

// The k best so far, shared by all trees of the forest: a max-heap on (distance, id).
class NearestHeap {
  public:
    NearestHeap(std::size_t k, const PatchIndex::PatchOf& patch_of) : k_(k), patch_of_(patch_of) {
        heap_.reserve(k);
    }

    void offer(float distance, Slot slot) {
        const bool full = heap_.size() == k_;
        if (full && distance > heap_.front().squared_distance) return;
        const Neighbour candidate{distance, patch_of_ ? patch_of_(slot) : slot};
        if (candidate.id == kNoPatch || (full && !(candidate < heap_.front()))) return;
        if (full) {
            std::pop_heap(heap_.begin(), heap_.end());
            heap_.back() = candidate;
        } else {
            heap_.push_back(candidate);
        }
        std::push_heap(heap_.begin(), heap_.end());
    }

    // A point further than this cannot enter; one at this distance still may, by its id.
    float worst() const {
        return heap_.size() == k_ ? heap_.front().squared_distance
                                  : std::numeric_limits<float>::max();
    }

    std::vector<Neighbour> sorted() && {
        std::sort_heap(heap_.begin(), heap_.end());
        return std::move(heap_);
    }

  private:
    std::size_t k_;
    const PatchIndex::PatchOf& patch_of_;  // empty: slots are ids, and all live
    std::vector<Neighbour> heap_;
};

// nanoflann's result-set interface over the shared heap, for one tree.
struct TreeResults {
    using DistanceType = float;
    using IndexType = std::uint32_t;

    NearestHeap& heap;
    const Slot* slots;

    bool full() const { return true; }
    bool addPoint(float distance, std::uint32_t index) {
        heap.offer(distance, slots[index]);
        return true;
    }
    // nanoflann offers only points strictly closer than this; the next float up (distances are not
    // negative) lets ties through to be decided by id.
    float worstDist() const {
        return std::bit_cast<float>(std::bit_cast<std::uint32_t>(heap.worst()) + 1);
    }
    void sort() {}
};

// nanoflann's result-set interface for all points within a radius.
struct RadiusResults {
    using DistanceType = float;
    using IndexType = std::uint32_t;

    std::vector<Neighbour>& found;
    const Slot* slots;
    const PatchIndex::PatchOf& patch_of;
    float squared_radius;

    bool full() const { return true; }
    bool addPoint(float distance, std::uint32_t index) {
        const PatchId id = patch_of(slots[index]);
        if (id != kNoPatch) found.push_back({distance, id});
        return true;
    }
    float worstDist() const {
        return std::bit_cast<float>(std::bit_cast<std::uint32_t>(squared_radius) + 1);
    }
    void sort() {}
};

}  // namespace

struct PatchIndex::Tree {
    explicit Tree(Points&& p)
        : points(std::move(p)),
          first_slot(*std::min_element(points.slots.begin(), points.slots.end())),
          adaptor{points.centres},
          index(3, adaptor, {kLeafSize}) {
        sort_by_leaf();
        nbytes = points.nbytes() + index.usedMemory(index);
    }

    Box box() const {
        Box box;
        for (int axis = 0; axis < 3; ++axis) {
            box.low[axis] = index.root_bbox_[axis].low;
            box.high[axis] = index.root_bbox_[axis].high;
        }
        return box;
    }

    // Lays the points of each leaf side by side, in the order in which nanoflann refers to them.
    void sort_by_leaf() {
        Points sorted;
        sorted.slots.reserve(points.size());
        sorted.centres.reserve(3 * points.size());
        for (const std::uint32_t i : index.vAcc_) {
            sorted.slots.push_back(points.slots[i]);
            sorted.centres.insert(sorted.centres.end(), &points.centres[3 * i],
                                  &points.centres[3 * i] + 3);
        }
        points.slots.swap(sorted.slots);
        points.centres.swap(sorted.centres);
        std::iota(index.vAcc_.begin(), index.vAcc_.end(), 0u);
    }

    Points points;
    Slot first_slot;
    CentresAdaptor adaptor;
    KdTree index;
    std::size_t nbytes;
};

PatchIndex::Planted PatchIndex::plant(Points&& points) {
    return {std::make_shared<const Tree>(std::move(points))};
}

void PatchIndex::Points::append(std::span<const Slot> more, const float* more_centres,
                                double time) {
    const auto grow = [](auto& vector, std::size_t count) {
        if (vector.capacity() - vector.size() < count)
            vector.reserve(std::max(2 * vector.size(), vector.size() + count));
    };
    grow(slots, more.size());
    grow(centres, 3 * more.size());  // the last that may fail
    slots.insert(slots.end(), more.begin(), more.end());
    centres.insert(centres.end(), more_centres, more_centres + 3 * more.size());
    newest_time = std::max(newest_time, time);
}

void PatchIndex::Points::append_living(const Points& other, const PatchOf& patch_of) {
    for (std::size_t i = 0; i < other.size(); ++i) {
        if (patch_of(other.slots[i]) == kNoPatch) continue;
        slots.push_back(other.slots[i]);
        centres.insert(centres.end(), &other.centres[3 * i], &other.centres[3 * i] + 3);
    }
    newest_time = std::max(newest_time, other.newest_time);
}

std::size_t PatchIndex::Points::nbytes() const {
    return slots.capacity() * sizeof(Slot) + centres.capacity() * sizeof(float);
}

void PatchIndex::insert(const Points& points) {
    buffer_.append(points.slots, points.centres.data(), points.newest_time);
}

void PatchIndex::insert_trees(std::vector<Points>& parts, const PatchOf& patch_of,
                              int num_threads) {
    Points waiting;  // their slots come before
    waiting.append_living(buffer_, patch_of);
    const std::size_t dead = buffer_.size() - waiting.size();
    if (waiting.size() > 0) parts.insert(parts.begin(), std::move(waiting));
    std::vector<Planted> planted(parts.size());
    parallel_for(parts.size(), 1, num_threads, [&](std::size_t begin, std::size_t end) {
        for (std::size_t i = begin; i < end; ++i) planted[i] = plant(std::move(parts[i]));
    });
    trees_.reserve(trees_.size() + planted.size());  // the last that may fail
    std::move(planted.begin(), planted.end(), std::back_inserter(trees_));
    buffer_ = {};
    buffer_dead_ = 0;
    dead_ -= dead;
}

void PatchIndex::merge(const PatchOf& patch_of) noexcept {
    try {
        if (buffer_.size() >= kBufferSize) absorb_buffer(patch_of);
    } catch (const std::bad_alloc&) {
        // Put off; nothing has changed.
    }
}

void PatchIndex::absorb_buffer(const PatchOf& patch_of) {
    std::size_t total = buffer_.size();
    std::size_t first = trees_.size();
    while (first > 0 && trees_[first - 1].tree->points.size() <= kMergeRatio * total &&
           trees_[first - 1].tree->points.size() + total <= kLargestTree) {
        total += trees_[--first].tree->points.size();
    }
    Points merged;
    merged.slots.reserve(total);
    merged.centres.reserve(3 * total);
    for (std::size_t i = first; i < trees_.size(); ++i)
        merged.append_living(trees_[i].tree->points, patch_of);
    merged.append_living(buffer_, patch_of);
    const std::size_t left = merged.size();
    Planted planted = left > 0 ? plant(std::move(merged)) : Planted{};
    trees_.reserve(trees_.size() + 1);  // the last that may fail
    dead_ -= total - left;
    trees_.resize(first);
    if (left > 0) trees_.push_back(std::move(planted));
    buffer_ = {};
    buffer_dead_ = 0;
}

void PatchIndex::note_dead(Slot slot) {
    ++dead_;
    if (!buffer_.slots.empty() && slot >= buffer_.slots.front()) {
        ++buffer_dead_;
        return;
    }
    const auto after = std::upper_bound(
        trees_.begin(), trees_.end(), slot,
        [](Slot value, const Planted& planted) { return value < planted.tree->first_slot; });
    if (after != trees_.begin()) ++std::prev(after)->dead;
}

void PatchIndex::rebuild(const PatchOf& patch_of) noexcept {
    if (dead_ == size()) {
        *this = {};
        return;
    }
    try {
        for (std::size_t i = trees_.size(); i-- > 0;) {
            if (2 * trees_[i].dead > trees_[i].tree->points.size()) rebuild_tree(i, patch_of);
        }
        if (2 * buffer_dead_ > buffer_.size()) {
            Points alive;
            alive.append_living(buffer_, patch_of);
            buffer_ = std::move(alive);
            dead_ -= buffer_dead_;
            buffer_dead_ = 0;
        }
    } catch (const std::bad_alloc&) {
        // Put off; each tree is either the old one or the new one.
    }
}

// A small rest joins the tree after it, so that the number of trees stays in proportion to the
// points.
void PatchIndex::rebuild_tree(std::size_t i, const PatchOf& patch_of) {
    std::size_t replaced = trees_[i].tree->points.size();
    const std::size_t rest = replaced - trees_[i].dead;
    const bool joins = rest > 0 && i + 1 < trees_.size() &&
                       rest + trees_[i + 1].tree->points.size() <= kLargestTree;
    Points alive;
    if (rest > 0) alive.append_living(trees_[i].tree->points, patch_of);
    if (joins) {
        alive.append_living(trees_[i + 1].tree->points, patch_of);
        replaced += trees_[i + 1].tree->points.size();
    }
    const std::size_t left = alive.size();
    Planted planted = left > 0 ? plant(std::move(alive)) : Planted{};  // the last that may fail
    const auto at = trees_.begin() + static_cast<std::ptrdiff_t>(i);
    if (joins) trees_.erase(at + 1);
    if (left > 0) {
        *at = std::move(planted);
    } else {
        trees_.erase(at);
    }
    dead_ -= replaced - left;
}

std::vector<Neighbour> PatchIndex::nearest(const float query[3], std::size_t k,
                                           const PatchOf& patch_of) const {
    if (k == 0 || size() == 0) return {};
    NearestHeap heap(std::min(k, size()), patch_of);
    std::vector<std::pair<float, const Tree*>> order;
    order.reserve(trees_.size());
    for (const Planted& planted : trees_)
        order.emplace_back(squared_distance(query, planted.tree->box()), planted.tree.get());
    std::sort(order.begin(), order.end());
    for (const auto& [distance, tree] : order) {
        // The box distance is rounded; a relative margin keeps it a lower bound.
        if (distance * (1 - 1e-6f) > heap.worst()) break;
        TreeResults results{heap, tree->points.slots.data()};
        tree->index.findNeighbors(results, query, {});
    }
    for (std::size_t i = 0; i < buffer_.size(); ++i) {
        heap.offer(squared_distance(query, &buffer_.centres[3 * i]), buffer_.slots[i]);
    }
    return std::move(heap).sorted();
}

std::vector<Neighbour> PatchIndex::within(const float query[3], float radius,
                                          const PatchOf& patch_of) const {
    std::vector<Neighbour> found;
    const float squared_radius = radius * radius;
    for (const Planted& planted : trees_) {
        const Tree& tree = *planted.tree;
        if (squared_distance(query, tree.box()) * (1 - 1e-6f) > squared_radius) continue;
        RadiusResults results{found, tree.points.slots.data(), patch_of, squared_radius};
        tree.index.findNeighbors(results, query, {});
    }
    for (std::size_t i = 0; i < buffer_.size(); ++i) {
        const float distance = squared_distance(query, &buffer_.centres[3 * i]);
        if (distance > squared_radius) continue;
        const PatchId id = patch_of(buffer_.slots[i]);
        if (id != kNoPatch) found.push_back({distance, id});
    }
    std::sort(found.begin(), found.end());
    return found;
}

// Nodes. The buffer is a leaf of its own, with a handle of null.

std::vector<PatchIndex::Node> PatchIndex::roots() const {
    std::vector<Node> nodes;
    nodes.reserve(trees_.size() + 1);
    for (std::size_t i = 0; i < trees_.size(); ++i) {
        const Tree& tree = *trees_[i].tree;
        nodes.push_back({tree.box(), tree.points.newest_time, static_cast<std::uint32_t>(i),
                         tree.index.root_node_});
    }
    if (buffer_.size() > 0) {
        Box box;
        for (int axis = 0; axis < 3; ++axis) box.low[axis] = box.high[axis] = buffer_.centres[axis];
        for (std::size_t i = 0; i < buffer_.centres.size(); ++i) {
            box.low[i % 3] = std::min(box.low[i % 3], buffer_.centres[i]);
            box.high[i % 3] = std::max(box.high[i % 3], buffer_.centres[i]);
        }
        nodes.push_back({box, buffer_.newest_time, 0, nullptr});
    }
    return nodes;
}

bool PatchIndex::is_leaf(const Node& node) const {
    return !node.handle || !static_cast<KdTree::NodeConstPtr>(node.handle)->child1;
}

PatchIndex::Leaf PatchIndex::leaf(const Node& node) const {
    if (!node.handle) return {buffer_.slots.data(), buffer_.centres.data(), buffer_.size()};
    const auto& range = static_cast<KdTree::NodeConstPtr>(node.handle)->node_type.lr;
    const Points& points = trees_[node.tree].tree->points;
    return {points.slots.data() + range.left, points.centres.data() + 3 * range.left,
            range.right - range.left};
}

void PatchIndex::children(const Node& node, Node& left, Node& right) const {
    const auto* parent = static_cast<KdTree::NodeConstPtr>(node.handle);
    const auto& split = parent->node_type.sub;
    left = right = node;
    left.handle = parent->child1;
    left.box.high[split.divfeat] = split.divlow;
    right.handle = parent->child2;
    right.box.low[split.divfeat] = split.divhigh;
}

std::size_t PatchIndex::size() const {
    std::size_t total = buffer_.size();
    for (const Planted& planted : trees_) total += planted.tree->points.size();
    return total;
}

std::size_t PatchIndex::nbytes() const {
    std::size_t total = buffer_.nbytes();
    for (const Planted& planted : trees_) total += planted.tree->nbytes;
    return total;
}

}  // namespace mosaicmem
