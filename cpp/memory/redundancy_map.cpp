#include "cpp/memory/redundancy_map.hpp"

#include <algorithm>
#include <bit>
#include <cmath>

namespace mosaicmem {
namespace {

// A place is 2^(kGrain - 1) to 2^kGrain patches wide. Smaller places cost more memory, at the
// expense of keyframes.
constexpr int kGrain = 3;

std::uint64_t mix(std::uint64_t h) {
    h = (h ^ (h >> 32)) * 0xD6E8FEB86659FD93ull;
    h = (h ^ (h >> 32)) * 0xD6E8FEB86659FD93ull;
    return h ^ (h >> 32);
}

// The face of a cube around the camera that the direction passes through.
std::uint64_t side(const std::array<double, 3>& direction) {
    std::size_t axis = 0;
    for (std::size_t i = 1; i < 3; ++i) {
        if (std::abs(direction[i]) > std::abs(direction[axis])) axis = i;
    }
    return 2 * axis + (direction[axis] < 0);
}

}  // namespace

// The places that a patch holds, the one at its own level first.
RedundancyMap::Keys RedundancyMap::keys(const Observation& observation, std::size_t patch) {
    Vec3 centre{};
    observation.centre(patch, centre);
    const Keyframe& keyframe = *observation.keyframe;
    const auto& m = observation.world_from_camera.m;
    const std::array<double, 3> ray{centre.x - m[3], centre.y - m[7], centre.z - m[11]};
    const double distance = std::sqrt(ray[0] * ray[0] + ray[1] * ray[1] + ray[2] * ray[2]);
    const double size = static_cast<double>(observation.patch_size) * keyframe.stride /
                        std::sqrt(std::abs(keyframe.k.fx * keyframe.k.fy)) * distance;
    const int level = std::ilogb(std::clamp(size, 1e-300, 1e300)) + kGrain;
    Keys keys;
    for (std::size_t i = 0; i < kLevels; ++i) {
        const int coarse = level + static_cast<int>(i);
        std::uint64_t hash = mix(side(ray) + 6 * static_cast<std::uint64_t>(coarse + 4096));
        for (const double x : {centre.x, centre.y, centre.z}) {
            const double cell = std::floor(std::ldexp(x, -coarse)) + 0.0;  // -0 becomes 0
            hash = mix(hash ^ std::bit_cast<std::uint64_t>(cell));
        }
        keys[i] = hash;
    }
    return keys;
}

// The last in the order of holders that covers at least half of what the largest covers.
const RedundancyMap::Holder* RedundancyMap::keeper(const Holders& holders) {
    const auto area = [](const Holder& holder) {
        std::uint64_t sum = 0;
        for (const std::uint32_t patches : holder.patches) sum = 4 * sum + patches;
        return sum;
    };
    std::uint64_t largest = 0;
    for (const Holder& holder : holders) largest = std::max(largest, area(holder));
    for (auto holder = holders.rbegin(); holder != holders.rend(); ++holder) {
        if (2 * area(*holder) >= largest) return &*holder;
    }
    return nullptr;
}

void RedundancyMap::add(const Observation& observation) {
    std::vector<std::size_t> added;
    added.reserve(observation.alive_count);
    try {
        kept_[observation.first_slot];
        observation.for_each_alive([&](std::size_t patch) {
            add(observation, patch);
            added.push_back(patch);
        });
    } catch (...) {
        for (const std::size_t patch : added) remove(observation, patch);
        kept_.erase(observation.first_slot);
        throw;
    }
}

void RedundancyMap::add(const Observation& observation, std::size_t patch) {
    const Keys places = keys(observation, patch);
    std::array<Holders*, kLevels> found;
    try {
        for (std::size_t level = 0; level < kLevels; ++level) {
            found[level] = &redundancy_[places[level]];
            const std::size_t size = found[level]->size(), capacity = found[level]->capacity();
            if (size == capacity) found[level]->reserve(capacity + capacity / 2 + 1);
            holder_nbytes_ += (found[level]->capacity() - capacity) * sizeof(Holder);
        }
    } catch (...) {
        for (const std::uint64_t place : places) forget_if_empty(place);
        throw;
    }
    for (std::size_t level = 0; level < kLevels; ++level)
        change(*found[level], observation.first_slot, level, true);
}

void RedundancyMap::remove(const Observation& observation) noexcept {
    observation.for_each_alive([&](std::size_t patch) { remove(observation, patch); });
    kept_.erase(observation.first_slot);
}

void RedundancyMap::remove(const Observation& observation, std::size_t patch) noexcept {
    const Keys places = keys(observation, patch);
    for (std::size_t level = 0; level < kLevels; ++level) {
        const auto place = redundancy_.find(places[level]);
        if (place == redundancy_.end()) continue;
        change(place->second, observation.first_slot, level, false);
        forget_if_empty(places[level]);
    }
    if (observation.alive_count == 1) kept_.erase(observation.first_slot);
}

void RedundancyMap::forget_if_empty(std::uint64_t key) noexcept {
    const auto place = redundancy_.find(key);
    if (place == redundancy_.end() || !place->second.empty()) return;
    holder_nbytes_ -= place->second.capacity() * sizeof(Holder);
    redundancy_.erase(place);
}

// Adds or removes a patch of the observation at a place. Needs capacity for one more holder.
void RedundancyMap::change(Holders& holders, Slot observation, std::size_t level, bool comes) {
    const auto count_kept = [&](bool add) {
        const Holder* holder = keeper(holders);
        if (!holder) return;
        const auto kept = kept_.find(holder->observation);
        if (kept == kept_.end()) return;
        if (add) {
            kept->second += holder->patches[0];
        } else {
            kept->second -= holder->patches[0];
        }
    };
    count_kept(false);
    auto at = std::find_if(holders.begin(), holders.end(),
                           [&](const Holder& holder) { return holder.observation == observation; });
    // A caller that changes depth after inserting it may move the patch to another place.
    if (!comes && (at == holders.end() || at->patches[level] == 0)) {
        count_kept(true);
        return;
    }
    Holder holder{observation, {}};
    if (at != holders.end()) {
        holder = *at;
        holders.erase(at);
    }
    holder.patches[level] += comes ? 1u : ~0u;
    if (holder.patches != decltype(holder.patches){}) {
        const auto coarser = [](const Holder& a, const Holder& b) {
            for (std::size_t i = kLevels; i-- > 0;) {
                if ((a.patches[i] > 0) != (b.patches[i] > 0)) return b.patches[i] > 0;
            }
            return a.observation < b.observation;
        };
        holders.insert(std::upper_bound(holders.begin(), holders.end(), holder, coarser), holder);
    }
    count_kept(true);
}

std::size_t RedundancyMap::kept(const Observation& observation) const {
    const auto found = kept_.find(observation.first_slot);
    return found == kept_.end() ? 0 : found->second;
}

bool RedundancyMap::keeps(const Observation& observation, std::size_t patch) const {
    const auto place = redundancy_.find(keys(observation, patch)[0]);
    if (place == redundancy_.end()) return false;
    const Holder* holder = keeper(place->second);
    return holder && holder->observation == observation.first_slot;
}

std::size_t RedundancyMap::nbytes() const {
    // A map node: a pointer, the pair, and the allocator's overhead.
    constexpr std::size_t kNode = 2 * sizeof(void*);
    return redundancy_.size() * (sizeof(decltype(redundancy_)::value_type) + kNode) +
           redundancy_.bucket_count() * sizeof(void*) +
           kept_.size() * (sizeof(decltype(kept_)::value_type) + kNode) +
           kept_.bucket_count() * sizeof(void*) + holder_nbytes_ +
           redundancy_.size() * sizeof(void*);
}

}  // namespace mosaicmem
