// The patches nearest to a point, and those within a radius, over all trees of the forest.

#include <algorithm>
#include <bit>
#include <limits>
#include <utility>

#include "cpp/memory/patch_index.hpp"
#include "cpp/memory/patch_tree.hpp"

namespace mosaicmem {
namespace {

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

// The k nearest so far, over all trees of the forest: a sorted list if k is small, else a max-heap,
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
    const PatchIndex::PatchOf& patch_of_;  // empty: slots are ids, and all are alive
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

// Offers the points of a tree that may be among the k nearest. Visits the nearer child first, and
// skips a child whose box, which is tight, is too far.
void search(const BoxedNode& node, const Slot* slots, const float* centres, const Lanes& query,
            Nearest& nearest) {
    if (node.is_leaf()) {
        scan(slots + node.begin(), centres + 3 * node.begin(), node.end() - node.begin(), query,
             nearest);
        return;
    }
    const BoxedNode *near = &node.left(), *far = &node.right();
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

std::vector<Neighbour> PatchIndex::nearest(const float query[3], std::size_t k,
                                           const PatchOf& patch_of) const {
    if (k == 0 || size() == 0) return {};
    Nearest nearest(std::min(k, size()), patch_of);
    const Lanes point{query[0], query[1], query[2], 0};
    // Nearest tree first, the oldest among equals; thread_local only to reuse its memory.
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

}  // namespace mosaicmem
