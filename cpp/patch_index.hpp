// A spatial index over patch centres: a forest of static nanoflann kd-trees (the logarithmic
// method).
//
// New points wait in a short buffer that is scanned. A full buffer becomes a tree and swallows the
// trees before it that are not much larger than what it has swallowed so far, so each point is
// built into a tree O(log n) times over its life. No tree exceeds kLargestTree, so no insert stalls
// for longer than the building of one. Deletions are marks that the owner keeps; a tree that is
// more than half dead is built again, alone. Trees hold disjoint ranges of ids, in ascending order.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <span>
#include <vector>

namespace mosaicmem {

using PatchId = std::uint64_t;

struct Neighbour {
    float squared_distance;  // metres^2
    PatchId id;
    friend auto operator<=>(const Neighbour&, const Neighbour&) = default;
};

struct Box {
    float low[3], high[3];  // metres
};

class PatchIndex {
  public:
    using IsAlive = std::function<bool(PatchId)>;

    PatchIndex();
    ~PatchIndex();

    // centres (ids.size(), 3). Ids ascend and are larger than all ids inserted before; all were
    // seen at `time`. After an exception the index is as it was.
    void insert(std::span<const PatchId> ids, const float* centres, double time);

    // To be called after insert(): makes a tree of a full buffer. Where memory does not suffice, it
    // is put off: the buffer is scanned until a later call succeeds.
    void merge(const IsAlive& is_alive) noexcept;

    // To be called once for each id that is_alive has begun to deny; then rebuild() does what
    // became due, or, where memory does not suffice, puts it off.
    void note_dead(PatchId id);
    void rebuild(const IsAlive& is_alive) noexcept;

    // The k nearest living points, nearest first, ties by id. At most k.
    std::vector<Neighbour> nearest(const float query[3], std::size_t k,
                                   const IsAlive& is_alive) const;

    // All living points within the radius (metres), nearest first, ties by id.
    std::vector<Neighbour> within(const float query[3], float radius,
                                  const IsAlive& is_alive) const;

    // A subtree, for searches that descend by a bound of their own.
    struct Node {
        Box box;             // holds all its points
        double newest_time;  // no point was seen later
        std::uint32_t tree;
        const void* handle;
    };
    // The points of a leaf: ids and centres (count, 3).
    struct Leaf {
        const PatchId* ids;
        const float* centres;
        std::size_t count;
    };
    std::vector<Node> roots() const;
    bool is_leaf(const Node& node) const;
    Leaf leaf(const Node& node) const;
    void children(const Node& node, Node& left, Node& right) const;

    std::size_t size() const;  // dead points included
    std::size_t nbytes() const;

  private:
    struct Tree;
    struct Points {
        std::vector<PatchId> ids;
        std::vector<float> centres;  // (n, 3)
        double newest_time = -std::numeric_limits<double>::infinity();

        std::size_t size() const { return ids.size(); }
        void append(const Points& other, const IsAlive& is_alive);
    };

    void absorb_buffer(const IsAlive& is_alive);
    void rebuild_tree(std::size_t i, const IsAlive& is_alive);

    std::vector<std::unique_ptr<Tree>> trees_;  // ids ascending
    Points buffer_;
    std::size_t dead_ = 0;
};

}  // namespace mosaicmem
