// A spatial index over patch centres: a forest of static nanoflann kd-trees (the logarithmic
// method).
//
// An entry is known by its slot, a number that is given once: a patch that moves leaves its slot
// and takes a new one, so the index knows only entries that come and entries that die. New points
// wait in a short buffer that is scanned. A full buffer becomes a tree and swallows the trees
// before it that are not much larger than what it has swallowed so far, so each point is built into
// a tree O(log n) times over its life. No tree exceeds kLargestTree, so no insert stalls for longer
// than the building of one. Deletions are marks that the owner keeps; a tree that is more than half
// dead is built again, alone. Trees hold disjoint ranges of slots, in ascending order, and never
// change: copies of an index share them.
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
    // The patch whose place the slot is, or kNoPatch if it has died there or left.
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
        void forget_unused_times();  // where slots ascend
    };

    static constexpr std::size_t kLargestTree = 1 << 17;  // points; built in about 10 ms

    // Slots ascend and are larger than all slots inserted before. After an exception the index is
    // as it was.
    void insert(const Points& points);

    // Many points at once, in parts that each become a tree; otherwise like insert(). The parts are
    // left empty.
    void insert_trees(std::vector<Points>& parts, const PatchOf& patch_of, int num_threads);

    // To be called after insert(): makes a tree of a full buffer. Where memory does not suffice, it
    // is put off: the buffer is scanned until a later call succeeds.
    void merge(const PatchOf& patch_of) noexcept;

    // To be called once for each slot that patch_of has begun to deny; then rebuild() builds again
    // the trees of which more than one in `worn` points is dead, or, where memory does not suffice,
    // puts it off, and returns false.
    void note_dead(Slot slot) noexcept;
    bool rebuild(const PatchOf& patch_of, std::size_t worn = 2) noexcept;

    // The k nearest living points, nearest first, ties by id. At most k.
    std::vector<Neighbour> nearest(const float query[3], std::size_t k,
                                   const PatchOf& patch_of) const;

    // All living points within the radius (metres), nearest first, ties by id.
    std::vector<Neighbour> within(const float query[3], float radius,
                                  const PatchOf& patch_of) const;

    // A subtree, for searches that descend by a bound of their own.
    struct Node {
        Box box;             // holds all its points
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
