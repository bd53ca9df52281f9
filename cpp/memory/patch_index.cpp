#include "cpp/memory/patch_index.hpp"

#include <algorithm>
#include <iterator>
#include <new>

#include "cpp/base/parallel.hpp"
#include "cpp/memory/patch_tree.hpp"

namespace mosaicmem {
namespace {

constexpr std::size_t kBufferSize = 256;

// A tree is absorbed if it is at most this many times as large as what absorbs it. A larger ratio
// leaves fewer trees to search, but builds each point into new trees more often.
constexpr std::size_t kMergeRatio = 8;

}  // namespace

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
    grow(seen, more_seen.size());  // last step that may fail
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
    Points waiting;  // the buffer, whose slots precede all parts
    waiting.append_living(buffer_, patch_of);
    if (waiting.size() > 0) parts.insert(parts.begin(), std::move(waiting));
    std::vector<Planted> planted(parts.size());
    parallel_for(parts.size(), 1, num_threads, [&](std::size_t begin, std::size_t end) {
        for (std::size_t i = begin; i < end; ++i) planted[i] = plant(std::move(parts[i]));
    });
    trees_.reserve(trees_.size() + planted.size());  // last step that may fail
    std::move(planted.begin(), planted.end(), std::back_inserter(trees_));
    buffer_ = {};
    buffer_dead_ = 0;
}

void PatchIndex::merge(const PatchOf& patch_of) noexcept {
    try {
        if (buffer_.size() >= kBufferSize) absorb_buffer(patch_of);
    } catch (const std::bad_alloc&) {
        // Left for later; nothing has changed.
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
    trees_.reserve(trees_.size() + 1);  // last step that may fail
    trees_.resize(first);
    if (left > 0) trees_.push_back(std::move(planted));
    buffer_ = {};
    buffer_dead_ = 0;
}

void PatchIndex::note_dead(Slot slot) noexcept {
    if (!buffer_.slots.empty() && slot >= buffer_.slots.front()) {
        ++buffer_dead_;
        return;
    }
    const auto after = std::upper_bound(
        trees_.begin(), trees_.end(), slot,
        [](Slot value, const Planted& planted) { return value < planted.tree->first_slot; });
    if (after != trees_.begin()) ++std::prev(after)->dead;
}

bool PatchIndex::rebuild(const PatchOf& patch_of, std::size_t worn) noexcept {
    if (dead_count() == size()) {
        *this = {};
        return true;
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
        return false;  // each tree is either the old one or the new one
    }
    return true;
}

// A small remainder joins the next tree, so that the number of trees stays in proportion to the
// points.
void PatchIndex::rebuild_tree(std::size_t i, const PatchOf& patch_of) {
    const std::size_t rest = trees_[i].tree->points.size() - trees_[i].dead;
    const bool joins = rest > 0 && i + 1 < trees_.size() &&
                       rest + trees_[i + 1].tree->points.size() <= kLargestTree;
    Points alive;
    if (rest > 0) alive.append_living(trees_[i].tree->points, patch_of);
    if (joins) alive.append_living(trees_[i + 1].tree->points, patch_of);
    const std::size_t left = alive.size();
    Planted planted = left > 0 ? plant(std::move(alive)) : Planted{};  // last step that may fail
    const auto at = trees_.begin() + static_cast<std::ptrdiff_t>(i);
    if (joins) trees_.erase(at + 1);
    if (left > 0) {
        *at = std::move(planted);
    } else {
        trees_.erase(at);
    }
}

// Nodes. The buffer is a leaf of its own, with a null handle.

std::vector<PatchIndex::Node> PatchIndex::roots() const {
    std::vector<Node> nodes;
    nodes.reserve(trees_.size() + 1);
    for (std::size_t i = 0; i < trees_.size(); ++i) {
        const Tree& tree = *trees_[i].tree;
        const BoxedNode& root = tree.index.root();
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
