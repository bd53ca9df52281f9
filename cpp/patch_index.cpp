#include "patch_index.hpp"

#include <algorithm>
#include <bit>
#include <iterator>
#include <new>

#include "parallel.hpp"

namespace mosaicmem {
namespace {

constexpr std::size_t kBufferSize = 256;

// A tree is swallowed if it is at most this many times what swallows it: the larger, the fewer
// trees there are to search and the more often a point is built into a new one.
constexpr std::size_t kMergeRatio = 8;

constexpr float kBelow = 1 - 1e-6f;

float squared_distance(const float* a, const float* b) {
    const float x = a[0] - b[0], y = a[1] - b[1], z = a[2] - b[2];
    return x * x + y * y + z * z;
}

float squared_distance(const Lanes& point, const Box& box) {
    const Lanes below = box.low - point, above = point - box.high;
    Lanes outside = below > above ? below : above;
    outside = outside > Lanes{} ? outside : Lanes{};
    outside *= outside;
    return outside[0] + outside[1] + outside[2];
}

// The k best so far, shared by all trees of the forest: sorted where they are few, else a max-heap,
// both on (distance, id).
class Nearest {
  public:
    Nearest(std::size_t k, const PatchIndex::PatchOf& patch_of) : k_(k), patch_of_(patch_of) {
        best_.reserve(k);
    }

    void offer(float distance, Slot slot) {
        const bool full = best_.size() == k_;
        if (full && distance > worst()) return;
        const Neighbour candidate{distance, patch_of_ ? patch_of_(slot) : slot};
        if (candidate.id == kNoPatch || (full && !(candidate < last()))) return;
        if (full) drop_last();
        best_.push_back(candidate);
        if (k_ > kFew) {
            std::push_heap(best_.begin(), best_.end());
            return;
        }
        for (std::size_t i = best_.size() - 1; i > 0 && best_[i] < best_[i - 1]; --i)
            std::swap(best_[i], best_[i - 1]);
    }

    // A point further than this cannot enter; one at this distance still may, by its id.
    float worst() const {
        return best_.size() == k_ ? last().squared_distance
                                  : std::numeric_limits<float>::infinity();
    }

    std::vector<Neighbour> sorted() && {
        if (k_ > kFew) std::sort_heap(best_.begin(), best_.end());
        return std::move(best_);
    }

  private:
    static constexpr std::size_t kFew = 16;

    const Neighbour& last() const { return k_ > kFew ? best_.front() : best_.back(); }
    void drop_last() {
        if (k_ > kFew) std::pop_heap(best_.begin(), best_.end());
        best_.pop_back();
    }

    std::size_t k_;
    const PatchIndex::PatchOf& patch_of_;  // empty: slots are ids, and all live
    std::vector<Neighbour> best_;
};

void scan(const Slot* slots, const float* centres, std::size_t n, const Lanes& query,
          Nearest& nearest) {
    float worst = nearest.worst();
    for (std::size_t i = 0; i < n; ++i) {
        const float x = query[0] - centres[3 * i], y = query[1] - centres[3 * i + 1],
                    z = query[2] - centres[3 * i + 2];
        const float distance = x * x + y * y + z * z;
        if (distance > worst) continue;
        nearest.offer(distance, slots[i]);
        worst = nearest.worst();
    }
}

// Offers the points of a tree that can be among the k nearest: into the nearer child first, and
// into the other only if its box, which is tight, is near enough.
void search(const KdTree::BoxedNode& node, const Slot* slots, const float* centres,
            const Lanes& query, Nearest& nearest) {
    if (node.is_leaf()) {
        scan(slots + node.begin(), centres + 3 * node.begin(), node.end() - node.begin(), query,
             nearest);
        return;
    }
    const KdTree::BoxedNode *near = &node.left(), *far = &node.right();
    float near_distance = squared_distance(query, near->box);
    float far_distance = squared_distance(query, far->box);
    if (far_distance < near_distance) {
        std::swap(near, far);
        std::swap(near_distance, far_distance);
    }
    // A box distance is rounded; a relative margin keeps it a lower bound.
    if (near_distance * kBelow <= nearest.worst()) search(*near, slots, centres, query, nearest);
    if (far_distance * kBelow <= nearest.worst()) search(*far, slots, centres, query, nearest);
}

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
          index(adaptor, points.slots, points.centres, points.seen) {}

    std::size_t nbytes() const { return points.nbytes() + index.nbytes(); }

    Points points;
    Slot first_slot;
    CentresAdaptor adaptor;
    KdTree index;
};

PatchIndex::Planted PatchIndex::plant(Points&& points) {
    return {std::make_shared<const Tree>(std::move(points))};
}

void PatchIndex::Points::append(std::span<const Slot> more, const float* more_centres,
                                double time) {
    if (more.empty()) return;
    const Seen entry{more.front(), time};
    append(more, more_centres, {&entry, 1});
}

void PatchIndex::Points::append(std::span<const Slot> more, const float* more_centres,
                                std::span<const Seen> more_seen) {
    const auto grow = [](auto& vector, std::size_t count) {
        if (vector.capacity() - vector.size() < count)
            vector.reserve(std::max(2 * vector.size(), vector.size() + count));
    };
    grow(slots, more.size());
    grow(centres, 3 * more.size());
    grow(seen, more_seen.size());  // the last that may fail
    slots.insert(slots.end(), more.begin(), more.end());
    centres.insert(centres.end(), more_centres, more_centres + 3 * more.size());
    seen.insert(seen.end(), more_seen.begin(), more_seen.end());
}

void PatchIndex::Points::append_living(const Points& other, const PatchOf& patch_of) {
    for (std::size_t i = 0; i < other.size(); ++i) {
        if (patch_of(other.slots[i]) == kNoPatch) continue;
        slots.push_back(other.slots[i]);
        centres.insert(centres.end(), &other.centres[3 * i], &other.centres[3 * i] + 3);
    }
    seen.insert(seen.end(), other.seen.begin(), other.seen.end());
}

void PatchIndex::Points::forget_unused_times() {
    std::vector<Seen> used;
    std::size_t at = 0;
    for (const Slot slot : slots) {
        while (at + 1 < seen.size() && seen[at + 1].first_label <= slot) ++at;
        if (used.empty() || used.back().first_label != seen[at].first_label)
            used.push_back(seen[at]);
    }
    seen = std::move(used);
}

double PatchIndex::Points::newest_time() const {
    double newest = -std::numeric_limits<double>::infinity();
    for (const Seen& entry : seen) newest = std::max(newest, entry.time);
    return newest;
}

std::size_t PatchIndex::Points::nbytes() const {
    return slots.capacity() * sizeof(Slot) + centres.capacity() * sizeof(float) +
           seen.capacity() * sizeof(Seen);
}

void PatchIndex::insert(const Points& points) {
    buffer_.append(points.slots, points.centres.data(), points.seen);
}

void PatchIndex::insert_trees(std::vector<Points>& parts, const PatchOf& patch_of,
                              int num_threads) {
    Points waiting;  // their slots come before
    waiting.append_living(buffer_, patch_of);
    if (waiting.size() > 0) parts.insert(parts.begin(), std::move(waiting));
    std::vector<Planted> planted(parts.size());
    parallel_for(parts.size(), 1, num_threads, [&](std::size_t begin, std::size_t end) {
        for (std::size_t i = begin; i < end; ++i) planted[i] = plant(std::move(parts[i]));
    });
    trees_.reserve(trees_.size() + planted.size());  // the last that may fail
    std::move(planted.begin(), planted.end(), std::back_inserter(trees_));
    buffer_ = {};
    buffer_dead_ = 0;
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
    const auto append = [&](const Points& points, std::size_t dead) {
        if (dead > 0) {
            merged.append_living(points, patch_of);
        } else {
            merged.append(points.slots, points.centres.data(), points.seen);
        }
    };
    for (std::size_t i = first; i < trees_.size(); ++i)
        append(trees_[i].tree->points, trees_[i].dead);
    append(buffer_, buffer_dead_);
    const std::size_t left = merged.size();
    Planted planted = left > 0 ? plant(std::move(merged)) : Planted{};
    trees_.reserve(trees_.size() + 1);  // the last that may fail
    trees_.resize(first);
    if (left > 0) trees_.push_back(std::move(planted));
    buffer_ = {};
    buffer_dead_ = 0;
}

void PatchIndex::note_dead(Slot slot) {
    if (!buffer_.slots.empty() && slot >= buffer_.slots.front()) {
        ++buffer_dead_;
        return;
    }
    const auto after = std::upper_bound(
        trees_.begin(), trees_.end(), slot,
        [](Slot value, const Planted& planted) { return value < planted.tree->first_slot; });
    if (after != trees_.begin()) ++std::prev(after)->dead;
}

void PatchIndex::rebuild(const PatchOf& patch_of, std::size_t worn) noexcept {
    if (dead_count() == size()) {
        *this = {};
        return;
    }
    try {
        for (std::size_t i = trees_.size(); i-- > 0;) {
            if (worn * trees_[i].dead > trees_[i].tree->points.size()) rebuild_tree(i, patch_of);
        }
        if (2 * buffer_dead_ > buffer_.size()) {
            Points alive;
            alive.append_living(buffer_, patch_of);
            alive.forget_unused_times();
            buffer_ = std::move(alive);
            buffer_dead_ = 0;
        }
    } catch (const std::bad_alloc&) {
        // Put off; each tree is either the old one or the new one.
    }
}

// A small rest joins the tree after it, so that the number of trees stays in proportion to the
// points.
void PatchIndex::rebuild_tree(std::size_t i, const PatchOf& patch_of) {
    const std::size_t rest = trees_[i].tree->points.size() - trees_[i].dead;
    const bool joins = rest > 0 && i + 1 < trees_.size() &&
                       rest + trees_[i + 1].tree->points.size() <= kLargestTree;
    Points alive;
    if (rest > 0) alive.append_living(trees_[i].tree->points, patch_of);
    if (joins) alive.append_living(trees_[i + 1].tree->points, patch_of);
    const std::size_t left = alive.size();
    Planted planted = left > 0 ? plant(std::move(alive)) : Planted{};  // the last that may fail
    const auto at = trees_.begin() + static_cast<std::ptrdiff_t>(i);
    if (joins) trees_.erase(at + 1);
    if (left > 0) {
        *at = std::move(planted);
    } else {
        trees_.erase(at);
    }
}

std::vector<Neighbour> PatchIndex::nearest(const float query[3], std::size_t k,
                                           const PatchOf& patch_of) const {
    if (k == 0 || size() == 0) return {};
    Nearest nearest(std::min(k, size()), patch_of);
    const Lanes point{query[0], query[1], query[2], 0};
    // The nearest first, of those the oldest; kept from query to query for its memory alone.
    static thread_local std::vector<std::pair<float, std::size_t>> order;
    order.clear();
    for (std::size_t i = 0; i < trees_.size(); ++i)
        order.emplace_back(squared_distance(point, trees_[i].tree->index.root().box), i);
    std::sort(order.begin(), order.end());
    for (const auto& [distance, i] : order) {
        if (distance * kBelow > nearest.worst()) break;
        const Tree& tree = *trees_[i].tree;
        search(tree.index.root(), tree.points.slots.data(), tree.points.centres.data(), point,
               nearest);
    }
    scan(buffer_.slots.data(), buffer_.centres.data(), buffer_.size(), point, nearest);
    return std::move(nearest).sorted();
}

std::vector<Neighbour> PatchIndex::within(const float query[3], float radius,
                                          const PatchOf& patch_of) const {
    std::vector<Neighbour> found;
    const float squared_radius = radius * radius;
    const Lanes point{query[0], query[1], query[2], 0};
    for (const Planted& planted : trees_) {
        const Tree& tree = *planted.tree;
        if (squared_distance(point, tree.index.root().box) * kBelow > squared_radius) continue;
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
        const KdTree::BoxedNode& root = tree.index.root();
        nodes.push_back({root.box, root.newest_time, static_cast<std::uint32_t>(i), &root});
    }
    if (buffer_.size() > 0) {
        Box box{{buffer_.centres[0], buffer_.centres[1], buffer_.centres[2]}, {}};
        box.high = box.low;
        for (std::size_t i = 0; i < buffer_.centres.size(); ++i) {
            const float x = buffer_.centres[i];
            box.low[i % 3] = std::min<float>(box.low[i % 3], x);
            box.high[i % 3] = std::max<float>(box.high[i % 3], x);
        }
        nodes.push_back({box, buffer_.newest_time(), 0, nullptr});
    }
    return nodes;
}

bool PatchIndex::is_leaf(const Node& node) const { return !node.handle || node.handle->is_leaf(); }

PatchIndex::Leaf PatchIndex::leaf(const Node& node) const {
    if (!node.handle) return {buffer_.slots.data(), buffer_.centres.data(), buffer_.size()};
    const Points& points = trees_[node.tree].tree->points;
    const std::size_t begin = node.handle->begin();
    return {points.slots.data() + begin, points.centres.data() + 3 * begin,
            node.handle->end() - begin};
}

void PatchIndex::children(const Node& node, Node& left, Node& right) const {
    left = right = node;
    left.handle = &node.handle->left();
    left.box = left.handle->box;
    left.newest_time = left.handle->newest_time;
    right.handle = &node.handle->right();
    right.box = right.handle->box;
    right.newest_time = right.handle->newest_time;
}

std::size_t PatchIndex::size() const {
    std::size_t total = buffer_.size();
    for (const Planted& planted : trees_) total += planted.tree->points.size();
    return total;
}

std::size_t PatchIndex::dead_count() const {
    std::size_t total = buffer_dead_;
    for (const Planted& planted : trees_) total += planted.dead;
    return total;
}

std::size_t PatchIndex::nbytes() const {
    std::size_t total = buffer_.nbytes();
    for (const Planted& planted : trees_) total += planted.tree->nbytes();
    return total;
}

}  // namespace mosaicmem
