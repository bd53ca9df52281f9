// Which observation keeps which place of the world: what the eviction policy `redundant` goes by.
//
// A place is a voxel a few patches wide, as seen from one of six sides; its level says how wide, in
// powers of two. A patch holds the place at the level of its own size, and the coarser places
// around it of the next two levels, so that a close view holds what a distant one saw. Of the
// observations that hold enough of a place, the closest keeps it, of equally close ones the newest;
// the others' patches there are redundant.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <unordered_map>
#include <vector>

#include "cpp/memory/observation.hpp"

namespace mosaicmem {

class RedundancyMap {
  public:
    // All living patches of an observation that comes. After an exception the map is as it was.
    void add(const Observation& observation);
    // Those of one that goes.
    void remove(const Observation& observation) noexcept;
    // One that is about to die.
    void remove(const Observation& observation, std::size_t patch) noexcept;

    // How many of its patches lie where it keeps the place, and whether this one does.
    std::size_t kept(const Observation& observation) const;
    bool keeps(const Observation& observation, std::size_t patch) const;

    std::size_t nbytes() const;

  private:
    static constexpr std::size_t kLevels = 3;  // the patch's own, and coarser ones

    struct Holder {
        Slot observation;
        std::array<std::uint32_t, kLevels> patches;  // by how many levels finer than the place
    };
    using Holders = std::vector<Holder>;  // coarsest first, then oldest first
    using Keys = std::array<std::uint64_t, kLevels>;

    static Keys keys(const Observation& observation, std::size_t patch);
    static const Holder* keeper(const Holders& holders);
    void add(const Observation& observation, std::size_t patch);
    void forget_if_empty(std::uint64_t key) noexcept;
    void change(Holders& holders, Slot observation, std::size_t level, bool comes);

    std::unordered_map<std::uint64_t, Holders> redundancy_;  // by a hash of the place
    std::unordered_map<Slot, std::size_t> kept_;             // by observation
    std::size_t holder_nbytes_ = 0;
};

}  // namespace mosaicmem
