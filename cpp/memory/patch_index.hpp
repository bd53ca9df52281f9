// A spatial index over patch centres: a forest of static nanoflann kd-trees (the logarithmic
// method).
//
// An entry is identified by its slot, a number that is never reused: a patch that moves leaves its
// slot and takes a new one, so entries are only ever inserted or deleted. New points wait in a
// short buffer that searches scan. A full buffer becomes a tree and absorbs the trees before it
// that are not much larger than the total so far, so each point is built into a tree O(log n) times
// over its life. No merge exceeds kLargestTree, so no insert stalls for longer than building one
// such tree. The owner marks deletions; a tree that is more than half dead is rebuilt. Trees hold
// disjoint ranges of slots, in ascending order, and are immutable: copies of an index share them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <span>
#include <vector>

#include "cpp/memory/box.hpp"

namespace mosaicmem {

struct BoxedNode;  // in kd_tree.hpp: nanoflann is slow to compile, and only the index itself needs
                   // it

using PatchId = std::uint64_t;
using Slot = std::uint64_t;

constexpr PatchId kNoPatch = ~PatchId{0};

struct Neighbour {
    float squared_distance;  // metres^2
    PatchId id;
    friend auto operator<=>(const Neighbour&, const Neighbour&) = default;
};

class PatchIndex {
  public:
    // The patch at the slot, or kNoPatch if it has died or moved to another slot.
    using PatchOf = std::function<PatchId(Slot)>;

    struct Points {
        std::vector<Slot> slots;
        std::vector<float> centres;  // (n, 3)
        std::vector<Seen> seen;      // of the slots

        std::size_t size() const { return slots.size(); }
        std::size_t nbytes() const;
        double newest_time() const;
        void append(std::span<const Slot> more, const float* more_centres, double time);
        void append(std::span<const Slot> more, const float* more_centres,
                    std::span<const Seen> more_seen);
        void append_living(const Points& other, const PatchOf& patch_of);
        void forget_unused_times();  // requires ascending slots
    };

    static constexpr std::size_t kLargestTree = 1 << 19;  // points; built in about 16 ms
    // Of trees that insert_trees() should be given, since a worn one is rebuilt as a whole.
    static constexpr std::size_t kLargestGiven = 1 << 22;

    // Slots must ascend and exceed all slots inserted before. An exception leaves the index
    // unchanged.
    void insert(const Points& points);

    // Inserts many points at once, in parts that each become a tree; otherwise like insert().
    // Empties the parts.
    void insert_trees(std::vector<Points>& parts, const PatchOf& patch_of, int num_threads);

    // Call after insert(): turns a full buffer into a tree. If memory runs out, the buffer stays
    // and is scanned until a later call succeeds.
    void merge(const PatchOf& patch_of) noexcept;

    // Call note_dead() once for each slot for which patch_of now returns kNoPatch. rebuild() then
    // rebuilds the trees in which more than one in `worn` points is dead; if memory runs out, it
    // leaves the rest for later and returns false.
    void note_dead(Slot slot) noexcept;
    bool rebuild(const PatchOf& patch_of, std::size_t worn = 2) noexcept;

    // The k nearest living points (or fewer), nearest first, ties by id.
    std::vector<Neighbour> nearest(const float query[3], std::size_t k,
                                   const PatchOf& patch_of) const;

    // All living points within the radius (metres), nearest first, ties by id.
    std::vector<Neighbour> within(const float query[3], float radius,
                                  const PatchOf& patch_of) const;

    // A subtree, for searches that prune by a bound of their own.
    struct Node {
        Box box;             // bounds all its points
        double newest_time;  // no point was seen later
        std::uint32_t tree;
        const BoxedNode* handle;  // null for the buffer
    };
    // The points of a leaf: slots and centres (count, 3).
    struct Leaf {
        const Slot* slots;
        const float* centres;
        std::size_t count;
    };
    std::vector<Node> roots() const;
    bool is_leaf(const Node& node) const;
    Leaf leaf(const Node& node) const;
    void children(const Node& node, Node& left, Node& right) const;

    std::size_t size() const;  // dead points included
    std::size_t dead_count() const;
    std::size_t nbytes() const;

  private:
    struct Tree;
    struct Planted {
        std::shared_ptr<const Tree> tree;
        std::size_t dead = 0;
    };

    static Planted plant(Points&& points);
    void absorb_buffer(const PatchOf& patch_of);
    void rebuild_tree(std::size_t i, const PatchOf& patch_of);

    std::vector<Planted> trees_;  // slots ascending
    Points buffer_;
    std::size_t buffer_dead_ = 0;
};

}  // namespace mosaicmem
