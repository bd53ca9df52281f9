#include "patch_index.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <nanoflann.hpp>

namespace mosaicmem {
namespace {

constexpr std::size_t kBufferSize = 1024;
constexpr std::size_t kLeafSize = 16;

// nanoflann's view of an (n, 3) array.
struct CentresAdaptor {
    const std::vector<float>& centres;
    std::size_t kdtree_get_point_count() const { return centres.size() / 3; }
    float kdtree_get_pt(std::size_t i, std::size_t axis) const { return centres[3 * i + axis]; }
    template <class Box>
    bool kdtree_get_bbox(Box&) const {
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
    // nanoflann offers only points strictly closer than this; the step up lets ties through to be
    // decided by id.
    float worstDist() const {
        return std::nextafter(heap.worst(), std::numeric_limits<float>::infinity());
    }
    void sort() {}
};

}  // namespace

struct PatchIndex::Tree {
    explicit Tree(Points&& p)
        : points(std::move(p)), adaptor{points.centres}, index(3, adaptor, {kLeafSize}) {}

    Points points;
    CentresAdaptor adaptor;
    KdTree index;
};

PatchIndex::PatchIndex() = default;
PatchIndex::~PatchIndex() = default;
PatchIndex::PatchIndex(PatchIndex&&) noexcept = default;
PatchIndex& PatchIndex::operator=(PatchIndex&&) noexcept = default;

void PatchIndex::insert(std::span<const PatchId> ids, const float* centres) {
    buffer_.ids.insert(buffer_.ids.end(), ids.begin(), ids.end());
    buffer_.centres.insert(buffer_.centres.end(), centres, centres + 3 * ids.size());
    if (buffer_.ids.size() < kBufferSize) return;

    // Level l holds at most kBufferSize << l points. Larger levels are older, so merging from the
    // largest down keeps ids ascending.
    std::size_t total = buffer_.ids.size();
    std::size_t level = 0;
    for (;; ++level) {
        if (level == levels_.size()) levels_.emplace_back();
        if (levels_[level]) {
            total += levels_[level]->points.ids.size();
        } else if (total <= kBufferSize << level) {
            break;
        }
    }
    Points merged;
    merged.ids.reserve(total);
    merged.centres.reserve(3 * total);
    const auto append = [&](const Points& points) {
        merged.ids.insert(merged.ids.end(), points.ids.begin(), points.ids.end());
        merged.centres.insert(merged.centres.end(), points.centres.begin(), points.centres.end());
    };
    for (std::size_t l = level; l-- > 0;) {
        if (levels_[l]) append(levels_[l]->points);
        levels_[l].reset();
    }
    append(buffer_);
    buffer_ = {};
    levels_[level] = std::make_unique<Tree>(std::move(merged));
}

void PatchIndex::compact_if_sparse(std::size_t alive_count, const IsAlive& is_alive) {
    if (size() <= kBufferSize || 2 * alive_count >= size()) return;
    Points alive;
    alive.ids.reserve(alive_count);
    alive.centres.reserve(3 * alive_count);
    for_each_run([&](const PatchId* ids, const float* centres, std::size_t n) {
        for (std::size_t i = 0; i < n; ++i) {
            if (!is_alive(ids[i])) continue;
            alive.ids.push_back(ids[i]);
            alive.centres.insert(alive.centres.end(), centres + 3 * i, centres + 3 * i + 3);
        }
    });
    levels_.clear();
    buffer_ = {};
    insert(alive.ids, alive.centres.data());
}

std::vector<Neighbour> PatchIndex::nearest(const float query[3], std::size_t k,
                                           const IsAlive& is_alive) const {
    if (k == 0) return {};
    NearestHeap heap(std::min(k, size()), is_alive);
    if (size() == 0) return {};
    for (std::size_t l = levels_.size();
         l-- > 0;) {  // the largest first: it makes the rest easy to pass over
        if (!levels_[l]) continue;
        TreeResults results{heap, levels_[l]->points.ids.data()};
        levels_[l]->index.findNeighbors(results, query, {});
    }
    for (std::size_t i = 0; i < buffer_.ids.size(); ++i) {
        heap.offer(squared_distance(query, &buffer_.centres[3 * i]), buffer_.ids[i]);
    }
    return std::move(heap).sorted();
}

void PatchIndex::for_each_run(const Visit& visit) const {
    for (std::size_t l = levels_.size(); l-- > 0;) {
        if (!levels_[l]) continue;
        const Points& points = levels_[l]->points;
        visit(points.ids.data(), points.centres.data(), points.ids.size());
    }
    if (!buffer_.ids.empty()) visit(buffer_.ids.data(), buffer_.centres.data(), buffer_.ids.size());
}

std::size_t PatchIndex::size() const {
    std::size_t total = buffer_.ids.size();
    for (const auto& tree : levels_) total += tree ? tree->points.ids.size() : 0;
    return total;
}

std::size_t PatchIndex::nbytes() const {
    const auto bytes = [](const Points& p) {
        return p.ids.capacity() * sizeof(PatchId) + p.centres.capacity() * sizeof(float);
    };
    std::size_t total = bytes(buffer_);
    for (const auto& tree : levels_) {
        if (tree) total += bytes(tree->points) + tree->index.usedMemory(tree->index);
    }
    return total;
}

}  // namespace mosaicmem
