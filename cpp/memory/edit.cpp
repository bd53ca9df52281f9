// Editing: patches that move become an observation with the same keyframe and another pose; tensors
// stay where they are.

#include <algorithm>
#include <cmath>
#include <iterator>
#include <map>
#include <stdexcept>

#include "cpp/base/parallel.hpp"
#include "cpp/memory/store_state.hpp"

namespace mosaicmem {
namespace {

constexpr PatchId kMostIds = PatchId{1} << 62;
constexpr double kMostAffine = 1e15;

Affine moved(const Affine& edit, const Affine& world_from_camera) {
    const Affine result = edit * world_from_camera;
    for (const double x : result.m) {
        if (!(std::abs(x) <= kMostAffine))
            throw std::invalid_argument("cameras would be moved or scaled beyond 1e15");
    }
    return result;
}

Vec3 moved(const Affine& edit, const Vec3& origin) {
    const Vec3 result = edit(origin);
    for (const double x : {result.x, result.y, result.z}) {
        if (!(std::abs(x) <= kFurthest))
            throw std::invalid_argument("patches would lie further than 1e12 from the origin");
    }
    return result;
}

}  // namespace

// Living patches of one observation.
struct StoreState::Chosen {
    std::size_t at;
    std::vector<std::uint64_t> bits;
    std::size_t count;
};

std::vector<StoreState::Chosen> StoreState::choose(Ids ids) const {
    std::vector<Chosen> all;
    if (!ids) {
        for (std::size_t at = 0; at < observations_.size(); ++at)
            all.push_back({at, observations_[at]->alive_bits, observations_[at]->alive_count});
        return all;
    }
    std::map<std::size_t, Chosen> by_observation;
    for (const PatchId id : *ids) {
        const std::size_t at = at_id(id);
        if (at == kNowhere) continue;
        const Observation& observation = *observations_[at];
        Chosen& chosen =
            by_observation
                .try_emplace(
                    at, Chosen{at, std::vector<std::uint64_t>(observation.alive_bits.size()), 0})
                .first->second;
        const std::size_t patch = id - observation.first_id;
        std::uint64_t& bits = chosen.bits[patch / 64];
        const std::uint64_t bit = 1ull << (patch % 64);
        chosen.count += !(bits & bit);
        bits |= bit;
    }
    for (auto& [at, chosen] : by_observation) all.push_back(std::move(chosen));
    return all;
}

std::size_t StoreState::count_alive(Ids ids) const {
    std::size_t count = 0;
    for (const Chosen& choice : choose(ids)) count += choice.count;
    return count;
}

std::size_t StoreState::transform(const Affine& edit, Ids ids, int num_threads) {
    const std::vector<Chosen> chosen = choose(ids);
    Observations at_new_places;
    std::size_t count = 0;
    for (const Chosen& choice : chosen) {
        auto observation = std::make_shared<Observation>(*observations_[choice.at]);
        observation->world_from_camera = moved(edit, observation->world_from_camera);
        observation->alive_bits = choice.bits;
        observation->alive_count = choice.count;
        count += choice.count;
        at_new_places.push_back(std::move(observation));
    }
    if (count == 0) return 0;
    if (count == alive_count_)
        origin_ = moved(edit, origin_);  // so that the index keeps its precision
    for (std::size_t i = 0; i < chosen.size(); ++i) {
        make_mortal(chosen[i].at);
        at_new_places[i]->for_each_alive([&](std::size_t patch) { kill(chosen[i].at, patch); });
    }
    adopt(std::move(at_new_places), num_threads);
    drop_emptied();
    return count;
}

std::vector<PatchId> StoreState::duplicate(const Affine& edit, Ids ids, int num_threads) {
    Observations copies;
    std::vector<PatchId> new_ids;
    PatchId first_id = next_id_;
    for (Chosen& choice : choose(ids)) {
        auto observation = std::make_shared<Observation>(*observations_[choice.at]);
        observation->world_from_camera = moved(edit, observation->world_from_camera);
        observation->first_id = first_id;
        observation->alive_bits = std::move(choice.bits);
        observation->alive_count = choice.count;
        observation->for_each_alive([&](std::size_t p) { new_ids.push_back(first_id + p); });
        first_id += observation->patch_count();
        copies.push_back(std::move(observation));
    }
    adopt(std::move(copies), num_threads);
    return new_ids;
}

PatchId StoreState::splice(const StoreState& other, const Affine& edit, int num_threads) {
    if (other.patch_size_ != patch_size_)
        throw std::invalid_argument("expected a store of the same latent_patch_size");
    if (other.next_id_ > kMostIds - next_id_) throw std::invalid_argument("ids are used up");
    if (channels_ == 0 && next_id_ == 0) origin_ = moved(edit, other.origin_);
    const PatchId offset = next_id_;
    Observations spliced;
    for (const auto& theirs : other.observations_) {
        auto observation = std::make_shared<Observation>(*theirs);
        observation->world_from_camera = moved(edit, observation->world_from_camera);
        observation->first_id += offset;
        spliced.push_back(std::move(observation));
    }
    adopt(std::move(spliced), num_threads);
    next_id_ = offset + other.next_id_;
    next_slot_ = std::max(next_slot_, next_id_);
    return offset;
}

}  // namespace mosaicmem
