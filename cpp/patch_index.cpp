#include "patch_index.hpp"

#include <algorithm>
#include <bit>
#include <nanoflann.hpp>
#include <new>
#include <numeric>

namespace mosaicmem {
namespace {

constexpr std::size_t kBufferSize = 1024;
constexpr std::size_t kLargestTree = 1 << 17;  // built in about 30 ms
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
    NearestHeap(std::size_t k, const PatchIndex::IsAlive& is_alive) : k_(k), is_alive_(is_alive) {
        heap_.reserve(k);
    }

    void offer(float distance, PatchId id) {
        const Neighbour candidate{distance, id};
        const bool full = heap_.size() == k_;
        if ((full && !(candidate < heap_.front())) || (is_alive_ && !is_alive_(id))) return;
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
    const PatchIndex::IsAlive& is_alive_;
    std::vector<Neighbour> heap_;
};

// nanoflann's result-set interface over the shared heap, for one tree.
struct TreeResults {
    using DistanceType = float;
    using IndexType = std::uint32_t;

    NearestHeap& heap;
    const PatchId* ids;

    bool full() const { return true; }
    bool addPoint(float distance, std::uint32_t index) {
        heap.offer(distance, ids[index]);
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
    const PatchId* ids;
    const PatchIndex::IsAlive& is_alive;
    float squared_radius;

    bool full() const { return true; }
    bool addPoint(float distance, std::uint32_t index) {
        if (is_alive(ids[index])) found.push_back({distance, ids[index]});
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
          first_id(*std::min_element(points.ids.begin(), points.ids.end())),
          adaptor{points.centres},
          index(3, adaptor, {kLeafSize}) {
        sort_by_leaf();
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
        sorted.ids.reserve(points.size());
        sorted.centres.reserve(3 * points.size());
        for (const std::uint32_t i : index.vAcc_) {
            sorted.ids.push_back(points.ids[i]);
            sorted.centres.insert(sorted.centres.end(), &points.centres[3 * i],
                                  &points.centres[3 * i] + 3);
        }
        points.ids.swap(sorted.ids);
        points.centres.swap(sorted.centres);
        std::iota(index.vAcc_.begin(), index.vAcc_.end(), 0u);
    }

    Points points;
    PatchId first_id;
    std::size_t dead = 0;
    CentresAdaptor adaptor;
    KdTree index;
};

PatchIndex::PatchIndex() = default;
PatchIndex::~PatchIndex() = default;

void PatchIndex::Points::append(const Points& other, const IsAlive& is_alive) {
    for (std::size_t i = 0; i < other.size(); ++i) {
        if (!is_alive(other.ids[i])) continue;
        ids.push_back(other.ids[i]);
        centres.insert(centres.end(), &other.centres[3 * i], &other.centres[3 * i] + 3);
    }
    newest_time = std::max(newest_time, other.newest_time);
}

void PatchIndex::insert(std::span<const PatchId> ids, const float* centres, double time) {
    const auto grow = [](auto& vector, std::size_t more) {
        if (vector.capacity() - vector.size() < more)
            vector.reserve(std::max(2 * vector.size(), vector.size() + more));
    };
    grow(buffer_.ids, ids.size());
    grow(buffer_.centres, 3 * ids.size());
    buffer_.ids.insert(buffer_.ids.end(), ids.begin(), ids.end());
    buffer_.centres.insert(buffer_.centres.end(), centres, centres + 3 * ids.size());
    buffer_.newest_time = std::max(buffer_.newest_time, time);
}

void PatchIndex::merge(const IsAlive& is_alive) noexcept {
    try {
        if (buffer_.size() >= kBufferSize) absorb_buffer(is_alive);
    } catch (const std::bad_alloc&) {
        // Put off; nothing has changed.
    }
}

void PatchIndex::absorb_buffer(const IsAlive& is_alive) {
    std::size_t total = buffer_.size();
    std::size_t first = trees_.size();
    while (first > 0 && trees_[first - 1]->points.size() <= kMergeRatio * total &&
           trees_[first - 1]->points.size() + total <= kLargestTree) {
        total += trees_[--first]->points.size();
    }
    Points merged;
    merged.ids.reserve(total);
    merged.centres.reserve(3 * total);
    for (std::size_t i = first; i < trees_.size(); ++i) merged.append(trees_[i]->points, is_alive);
    merged.append(buffer_, is_alive);
    auto tree = merged.size() > 0 ? std::make_unique<Tree>(std::move(merged)) : nullptr;
    trees_.reserve(trees_.size() + 1);  // the last that may fail
    dead_ -= total - (tree ? tree->points.size() : 0);
    trees_.resize(first);
    if (tree) trees_.push_back(std::move(tree));
    buffer_ = {};
}

void PatchIndex::note_dead(PatchId id) {
    ++dead_;
    if (!buffer_.ids.empty() && id >= buffer_.ids.front()) return;
    const auto after =
        std::upper_bound(trees_.begin(), trees_.end(), id,
                         [](PatchId value, const auto& tree) { return value < tree->first_id; });
    if (after != trees_.begin()) ++(*std::prev(after))->dead;
}

void PatchIndex::rebuild(const IsAlive& is_alive) noexcept {
    try {
        for (std::size_t i = trees_.size(); i-- > 0;) {
            if (2 * trees_[i]->dead > trees_[i]->points.size()) rebuild_tree(i, is_alive);
        }
    } catch (const std::bad_alloc&) {
        // Put off; each tree is either the old one or the new one.
    }
}

// A small rest joins the tree after it, so that the number of trees stays in proportion to the
// points.
void PatchIndex::rebuild_tree(std::size_t i, const IsAlive& is_alive) {
    Points alive;
    alive.append(trees_[i]->points, is_alive);
    std::size_t replaced = trees_[i]->points.size();
    const bool joins =
        i + 1 < trees_.size() && alive.size() + trees_[i + 1]->points.size() <= kLargestTree;
    if (joins) {
        alive.append(trees_[i + 1]->points, is_alive);
        replaced += trees_[i + 1]->points.size();
    }
    const std::size_t left = alive.size();
    auto tree =
        left > 0 ? std::make_unique<Tree>(std::move(alive)) : nullptr;  // the last that may fail
    const auto at = trees_.begin() + static_cast<std::ptrdiff_t>(i);
    if (joins) trees_.erase(at + 1);
    if (tree) {
        *at = std::move(tree);
    } else {
        trees_.erase(at);
    }
    dead_ -= replaced - left;
}

std::vector<Neighbour> PatchIndex::nearest(const float query[3], std::size_t k,
                                           const IsAlive& is_alive) const {
    if (k == 0 || size() == 0) return {};
    static const IsAlive all_live;
    NearestHeap heap(std::min(k, size()), dead_ > 0 ? is_alive : all_live);
    std::vector<std::pair<float, const Tree*>> order;
    order.reserve(trees_.size());
    for (const auto& tree : trees_)
        order.emplace_back(squared_distance(query, tree->box()), tree.get());
    std::sort(order.begin(), order.end());
    for (const auto& [distance, tree] : order) {
        // The box distance is rounded; a relative margin keeps it a lower bound.
        if (distance * (1 - 1e-6f) > heap.worst()) break;
        TreeResults results{heap, tree->points.ids.data()};
        tree->index.findNeighbors(results, query, {});
    }
    for (std::size_t i = 0; i < buffer_.size(); ++i) {
        heap.offer(squared_distance(query, &buffer_.centres[3 * i]), buffer_.ids[i]);
    }
    return std::move(heap).sorted();
}

std::vector<Neighbour> PatchIndex::within(const float query[3], float radius,
                                          const IsAlive& is_alive) const {
    std::vector<Neighbour> found;
    const float squared_radius = radius * radius;
    for (const auto& tree : trees_) {
        if (squared_distance(query, tree->box()) * (1 - 1e-6f) > squared_radius) continue;
        RadiusResults results{found, tree->points.ids.data(), is_alive, squared_radius};
        tree->index.findNeighbors(results, query, {});
    }
    for (std::size_t i = 0; i < buffer_.size(); ++i) {
        const float distance = squared_distance(query, &buffer_.centres[3 * i]);
        if (distance <= squared_radius && is_alive(buffer_.ids[i]))
            found.push_back({distance, buffer_.ids[i]});
    }
    std::sort(found.begin(), found.end());
    return found;
}

// Nodes. The buffer is a leaf of its own, with a handle of null.

std::vector<PatchIndex::Node> PatchIndex::roots() const {
    std::vector<Node> nodes;
    nodes.reserve(trees_.size() + 1);
    for (std::size_t i = 0; i < trees_.size(); ++i) {
        nodes.push_back({trees_[i]->box(), trees_[i]->points.newest_time,
                         static_cast<std::uint32_t>(i), trees_[i]->index.root_node_});
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
    if (!node.handle) return {buffer_.ids.data(), buffer_.centres.data(), buffer_.size()};
    const auto& range = static_cast<KdTree::NodeConstPtr>(node.handle)->node_type.lr;
    const Points& points = trees_[node.tree]->points;
    return {points.ids.data() + range.left, points.centres.data() + 3 * range.left,
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
    for (const auto& tree : trees_) total += tree->points.size();
    return total;
}

std::size_t PatchIndex::nbytes() const {
    const auto bytes = [](const Points& p) {
        return p.ids.capacity() * sizeof(PatchId) + p.centres.capacity() * sizeof(float);
    };
    std::size_t total = bytes(buffer_);
    for (const auto& tree : trees_)
        total += bytes(tree->points) + tree->index.usedMemory(tree->index);
    return total;
}

}  // namespace mosaicmem
