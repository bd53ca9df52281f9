// Which observation keeps which place in the world: the basis of the eviction policy `redundant`.
//
// A place is a voxel a few patches wide (2^level metres), seen from one of six sides. A patch holds
// the place at the level of its own size, and the enclosing places of the next two coarser levels,
// so that a close view also holds what a distant one saw. Among the observations that hold enough
// of a place, the closest keeps it, and the newest among equally close ones; the other
// observations' patches there are redundant.
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
    // Adds all living patches of a new observation. An exception leaves the map unchanged.
    void add(const Observation& observation);
    // Removes all living patches of an observation.
    void remove(const Observation& observation) noexcept;
    // Removes one patch, just before it is marked dead.
    void remove(const Observation& observation, std::size_t patch) noexcept;

    // How many of the observation's patches lie in places that it keeps, and whether this one does.
    std::size_t kept(const Observation& observation) const;
    bool keeps(const Observation& observation, std::size_t patch) const;

    std::size_t nbytes() const;

  private:
    static constexpr std::size_t kLevels = 3;  // the patch's own and coarser ones

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
