// Adds observations that exist already, many at once: from files, another store, or an edit.

#include <algorithm>
#include <stdexcept>
#include <unordered_set>
#include <utility>

#include "cpp/base/parallel.hpp"
#include "cpp/memory/store_state.hpp"

namespace mosaicmem {
namespace {

// Fewer points than this go into the buffer instead of a tree of their own.
constexpr std::size_t kGathered = PatchIndex::kLargestTree / 16;

// Points that come at once become this many trees: enough for all threads to build, and few to
// search.
constexpr std::size_t kTrees = 16;

}  // namespace

void StoreState::adopt(Observations observations, int num_threads, bool keep_slots) {
    std::size_t all = 0;
    for (const auto& observation : observations) all += observation->alive_count;
    const std::size_t most =
        std::clamp(all / kTrees, PatchIndex::kLargestTree, PatchIndex::kLargestGiven);
    std::vector<std::size_t> starts{0};  // the first observation of each tree
    std::vector<std::size_t> sizes;
    std::size_t points = 0;
    for (std::size_t i = 0; i < observations.size(); ++i) {
        Observation& observation = *observations[i];
        expect_channels(channels_, observation.keyframe->channels);
        channels_ = observation.keyframe->channels;
        if (!keep_slots) observation.first_slot = next_slot_;
        next_slot_ = std::max(next_slot_, observation.first_slot + observation.patch_count());
        next_id_ = std::max(next_id_, observation.first_id + observation.patch_count());
        if (points > 0 && points + observation.alive_count > most) {
            starts.push_back(i);
            sizes.push_back(points);
            points = 0;
        }
        points += observation.alive_count;
    }
    starts.push_back(observations.size());
    sizes.push_back(points);

    std::vector<PatchIndex::Points> parts(starts.size() - 1);
    parallel_for(parts.size(), 1, num_threads, [&](std::size_t begin, std::size_t end) {
        for (std::size_t part = begin; part < end; ++part) {
            parts[part].slots.reserve(sizes[part]);
            parts[part].centres.reserve(3 * sizes[part]);
            for (std::size_t i = starts[part]; i < starts[part + 1]; ++i) {
                const Observation& observation = *observations[i];
                std::vector<Slot> slots;
                std::vector<float> centres;
                observation.for_each_alive([&](std::size_t p) {
                    Vec3 world;
                    if (!observation.centre(p, world))
                        throw std::invalid_argument("a living patch has no depth");
                    if (!in_reach(world))
                        throw std::invalid_argument(
                            "patches would lie further than 1e12 from where the first camera "
                            "stood");
                    const std::array<float, 3> centre = in_index(world);
                    slots.push_back(observation.first_slot + p);
                    centres.insert(centres.end(), centre.begin(), centre.end());
                });
                parts[part].append(slots, centres.data(), observation.keyframe->timestamp);
            }
        }
    });
    std::erase_if(parts, [](const PatchIndex::Points& part) { return part.size() == 0; });
    if (parts.size() == 1 && parts[0].size() < kGathered) {
        index_.insert(parts[0]);
    } else if (!parts.empty()) {
        index_.insert_trees(parts, patch_of(), num_threads);
    }

    std::unordered_set<const Keyframe*> known;
    for (const auto& observation : observations_) {
        if (observation->alive_count > 0) known.insert(observation->keyframe.get());
    }
    for (auto& observation : observations) {
        if (observation->alive_count == 0) continue;
        if (known.insert(observation->keyframe.get()).second) {
            bytes_ += bytes_of(*observation);
        } else {
            count_use(*observation);
        }
        if (redundancy_) writable_redundancy().add(*observation);
        alive_count_ += observation->alive_count;
        first_slots_.push_back(observation->first_slot);
        observations_.push_back(std::move(observation));
    }
    sort_by_id();
    index_.merge(patch_of());
}

}  // namespace mosaicmem
