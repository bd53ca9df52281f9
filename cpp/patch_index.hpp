// A spatial index over patch centres: a forest of static nanoflann kd-trees whose sizes double (the
// logarithmic method). New points wait in a short buffer that is scanned; a full buffer becomes a
// tree, merging with the trees in its way, so each point is rebuilt into a tree O(log n) times over
// its life and no insert depends on anything but what it merges. Deletions are marks kept by the
// owner; queries take a predicate.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
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

class PatchIndex {
  public:
    using IsAlive = std::function<bool(PatchId)>;

    PatchIndex();
    ~PatchIndex();
    PatchIndex(PatchIndex&&) noexcept;
    PatchIndex& operator=(PatchIndex&&) noexcept;

    // centres (ids.size(), 3). Ids are larger than all ids inserted before.
    void insert(std::span<const PatchId> ids, const float* centres);

    // Drops dead points when they are more than half of all.
    void compact_if_sparse(std::size_t alive_count, const IsAlive& is_alive);

    // The k nearest living points, nearest first, ties by id. At most k. An empty is_alive means
    // that all live.
    std::vector<Neighbour> nearest(const float query[3], std::size_t k,
                                   const IsAlive& is_alive) const;

    // Calls visit(ids, centres, n) on contiguous runs that hold every point, dead ones too, ids
    // ascending in a run.
    using Visit = std::function<void(const PatchId*, const float*, std::size_t)>;
    void for_each_run(const Visit& visit) const;

    std::size_t size() const;  // dead points included
    std::size_t nbytes() const;

  private:
    struct Tree;
    struct Points {
        std::vector<PatchId> ids;
        std::vector<float> centres;  // (n, 3)
    };

    std::vector<std::unique_ptr<Tree>> levels_;
    Points buffer_;
};

}  // namespace mosaicmem
