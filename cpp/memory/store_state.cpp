#include "cpp/memory/store_state.hpp"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <numeric>
#include <stdexcept>
#include <string>
#include <utility>

#include "cpp/base/parallel.hpp"
#include "cpp/base/sole_owner.hpp"

namespace mosaicmem {
namespace {

// Ensures that one push_back cannot fail.
template <class T>
void make_room(std::vector<T>& vector) {
    if (vector.size() == vector.capacity()) vector.reserve(2 * vector.size() + 8);
}

}  // namespace

void StoreState::expect_channels(std::size_t expected, std::size_t got) {
    if (expected != 0 && expected != got) {
        throw std::invalid_argument("latents: expected " + std::to_string(expected) +
                                    " channels as before, got " + std::to_string(got));
    }
}

StoreState::StoreState(std::size_t patch_size, const Limits& limits)
    : patch_size_(patch_size), limits_(limits) {
    if (limits.policy == Eviction::redundant) redundancy_ = std::make_shared<RedundancyMap>();
}

StoreState::Placed StoreState::place(std::shared_ptr<const Keyframe> keyframe,
                                     const Affine& world_from_camera, std::size_t patch_size,
                                     int num_threads) {
    Placed placed;
    placed.observation =
        std::make_shared<Observation>(std::move(keyframe), world_from_camera, patch_size);
    const std::size_t patches = placed.observation->patch_count();
    placed.centres.resize(patches);
    placed.valid.resize(patches);
    parallel_for(patches, 4096, num_threads, [&](std::size_t begin, std::size_t end) {
        for (std::size_t p = begin; p < end; ++p)
            placed.valid[p] = placed.observation->centre(p, placed.centres[p]);
    });
    return placed;
}

PatchId StoreState::insert(Placed&& placed) {
    Observation& observation = *placed.observation;
    const Keyframe& keyframe = *observation.keyframe;
    expect_channels(channels_, keyframe.channels);
    const auto& m = observation.world_from_camera.m;
    const Vec3 origin_before = origin_;
    bool noted = false;
    if (channels_ == 0 && next_id_ == 0) origin_ = {m[3], m[7], m[11]};
    observation.first_id = next_id_;
    observation.first_slot = next_slot_;
    try {
        std::vector<Slot> slots;
        std::vector<float> centres;
        slots.reserve(observation.patch_count());
        centres.reserve(3 * observation.patch_count());
        for (std::size_t p = 0; p < observation.patch_count(); ++p) {
            if (!placed.valid[p] || !in_reach(placed.centres[p])) continue;
            observation.set_alive(p);
            slots.push_back(observation.first_slot + p);
            const std::array<float, 3> centre = in_index(placed.centres[p]);
            centres.insert(centres.end(), centre.begin(), centre.end());
        }
        if (observation.alive_count > 0) {
            make_room(observations_);
            make_room(first_slots_);
            make_room(order_);
            prepare_eviction(observation);
            if (redundancy_) writable_redundancy().add(observation);
            noted = true;
            PatchIndex::Points points;
            points.append(slots, centres.data(), keyframe.timestamp);
            index_.insert(points);  // last step that may fail
        }
    } catch (...) {
        origin_ = origin_before;
        if (redundancy_ && noted) redundancy_->remove(observation);
        throw;
    }
    channels_ = keyframe.channels;
    next_id_ += observation.patch_count();
    next_slot_ += observation.patch_count();
    if (observation.alive_count == 0) return observation.first_id;
    if (!order_.empty()) order_.push_back(static_cast<std::uint32_t>(observations_.size()));
    slots_are_ids_ &= observation.first_id == observation.first_slot;
    alive_count_ += observation.alive_count;
    bytes_ += bytes_of(observation);
    first_slots_.push_back(observation.first_slot);
    observations_.push_back(std::move(placed.observation));
    index_.merge(patch_of());
    return observation.first_id;
}

void StoreState::start_at(std::size_t channels, const Vec3& origin, PatchId next_id,
                          Slot next_slot) {
    channels_ = channels;
    origin_ = origin;
    next_id_ = next_id;
    next_slot_ = next_slot;
}

void StoreState::skip_ids_of(const StoreState& other) {
    next_id_ = std::max(next_id_, other.next_id_);
    next_slot_ = std::max(next_slot_, other.next_slot_);
}

// Positions of observations.

std::size_t StoreState::at_slot(Slot slot) const {
    const auto after = std::upper_bound(first_slots_.begin(), first_slots_.end(), slot);
    if (after == first_slots_.begin()) return kNowhere;
    const auto at = static_cast<std::size_t>(after - first_slots_.begin()) - 1;
    return slot - first_slots_[at] < observations_[at]->patch_count() ? at : kNowhere;
}

std::size_t StoreState::at_id(PatchId id) const {
    std::size_t low = 0, high = observations_.size();  // finds the first whose first_id exceeds id
    while (low < high) {
        const std::size_t middle = low + (high - low) / 2;
        if (observations_[ordered(middle)]->first_id > id) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    while (low-- > 0) {
        const Observation& observation = *observations_[ordered(low)];
        if (id - observation.first_id >= observation.patch_count()) return kNowhere;
        if (observation.is_alive(id - observation.first_id)) return ordered(low);
    }
    return kNowhere;
}

void StoreState::sort_by_id() {
    order_.resize(observations_.size());
    std::iota(order_.begin(), order_.end(), 0u);
    const auto key = [this](std::uint32_t at) {
        return std::pair(observations_[at]->first_id, first_slots_[at]);
    };
    std::sort(order_.begin(), order_.end(),
              [&](std::uint32_t a, std::uint32_t b) { return key(a) < key(b); });
    if (std::is_sorted(order_.begin(), order_.end())) order_.clear();
    slots_are_ids_ = std::all_of(observations_.begin(), observations_.end(),
                                 [](const auto& o) { return o->first_id == o->first_slot; });
}

PatchIndex::PatchOf StoreState::patch_of() const {
    return [this](Slot slot) {
        const std::size_t at = at_slot(slot);
        if (at == kNowhere) return kNoPatch;
        const Observation& observation = *observations_[at];
        const std::size_t patch = slot - observation.first_slot;
        return observation.is_alive(patch) ? observation.first_id + patch : kNoPatch;
    };
}

bool StoreState::in_reach(const Vec3& world) const {
    const auto near_enough = [](double x) { return std::abs(x) <= kFurthest; };  // false for NaN
    return near_enough(world.x - origin_.x) && near_enough(world.y - origin_.y) &&
           near_enough(world.z - origin_.z);
}

std::array<float, 3> StoreState::in_index(const Vec3& world) const {
    return {static_cast<float>(world.x - origin_.x), static_cast<float>(world.y - origin_.y),
            static_cast<float>(world.z - origin_.z)};
}

// Writing.

RedundancyMap& StoreState::writable_redundancy() {
    if (!is_sole_owner(redundancy_)) redundancy_ = std::make_shared<RedundancyMap>(*redundancy_);
    return *redundancy_;
}

void StoreState::make_mortal(std::size_t at, std::size_t others) {
    const std::size_t most = emptied_.size() + others + 1;
    if (emptied_.capacity() < most) emptied_.reserve(2 * most);
    if (dropped_.capacity() < dropped_.size() + most) dropped_.reserve(dropped_.size() + 2 * most);
    if (redundancy_) writable_redundancy();
    std::shared_ptr<Observation>& observation = observations_[at];
    if (!is_sole_owner(observation)) observation = std::make_shared<Observation>(*observation);
}

void StoreState::make_mortal(const std::vector<std::size_t>& positions) {
    for (const std::size_t at : positions) make_mortal(at, positions.size());
}

void StoreState::kill(std::size_t at, std::size_t patch) noexcept {
    Observation& observation = *observations_[at];
    observation.version.renew();
    if (redundancy_) redundancy_->remove(observation, patch);
    observation.set_dead(patch);
    --alive_count_;
    index_.note_dead(observation.first_slot + patch);
    if (observation.alive_count == 0) {
        emptied_.push_back(at);
        count_disuse(observation);
    }
}

void StoreState::kill_all(std::size_t at) noexcept {
    observations_[at]->for_each_alive([&](std::size_t patch) { kill(at, patch); });
}

void StoreState::drop_emptied() noexcept {
    if (!emptied_.empty()) {
        std::sort(emptied_.begin(), emptied_.end());
        std::size_t to = emptied_.front();
        for (std::size_t i = 0; i < emptied_.size(); ++i) {
            std::shared_ptr<Observation>& observation = observations_[emptied_[i]];
            dropped_.push_back(std::move(observation));
            const std::size_t next =
                i + 1 < emptied_.size() ? emptied_[i + 1] : observations_.size();
            for (std::size_t from = emptied_[i] + 1; from < next; ++from, ++to) {
                observations_[to] = std::move(observations_[from]);
                first_slots_[to] = first_slots_[from];
            }
        }
        observations_.resize(to);
        first_slots_.resize(to);
        emptied_.clear();
        if (!order_.empty()) sort_by_id();
    }
    index_.rebuild(patch_of());
}

std::size_t StoreState::erase(std::span<const PatchId> ids) {
    const std::size_t before = alive_count_;
    std::vector<std::size_t> found;  // position for each of the ids
    found.reserve(ids.size());
    std::vector<std::size_t> positions;
    for (const PatchId id : ids) {
        found.push_back(at_id(id));
        if (found.back() == kNowhere) continue;
        if (positions.empty() || positions.back() != found.back())
            positions.push_back(found.back());
    }
    std::sort(positions.begin(), positions.end());
    positions.erase(std::unique(positions.begin(), positions.end()), positions.end());
    make_mortal(positions);  // last step that may fail
    for (std::size_t i = 0; i < ids.size(); ++i) {
        if (found[i] == kNowhere) continue;
        const Observation& observation = *observations_[found[i]];
        const std::size_t patch = ids[i] - observation.first_id;
        if (observation.is_alive(patch)) kill(found[i], patch);  // ids may repeat
    }
    drop_emptied();
    return before - alive_count_;
}

std::size_t StoreState::erase_frame(std::int64_t frame_id) {
    const std::size_t before = alive_count_;
    std::vector<std::size_t> positions;
    for (std::size_t at = 0; at < observations_.size(); ++at) {
        if (observations_[at]->keyframe->frame_id == frame_id) positions.push_back(at);
    }
    make_mortal(positions);  // last step that may fail
    for (const std::size_t at : positions) kill_all(at);
    drop_emptied();
    return before - alive_count_;
}

// Reading.

// Patches that were moved away from others of their keyframe have ids between those of the others,
// so ids may be unsorted even where the observations are in order.
void sort_ids(std::vector<PatchId>& ids) {
    if (!std::is_sorted(ids.begin(), ids.end())) std::sort(ids.begin(), ids.end());
}

std::vector<PatchId> StoreState::alive_ids() const {
    std::vector<PatchId> ids;
    ids.reserve(alive_count_);
    for (const auto& observation : observations_) {
        observation->for_each_alive(
            [&](std::size_t p) { ids.push_back(observation->first_id + p); });
    }
    sort_ids(ids);
    return ids;
}

// Bytes. A keyframe counts once, however many observations share it.

void StoreState::count_use(const Observation& observation) {
    ++extra_uses_[observation.keyframe.get()];
    bytes_.bookkeeping += observation.overhead_nbytes();
}

void StoreState::count_disuse(const Observation& observation) {
    const auto extra = extra_uses_.find(observation.keyframe.get());
    if (extra == extra_uses_.end()) {
        bytes_ -= bytes_of(observation);
        return;
    }
    bytes_.bookkeeping -= observation.overhead_nbytes();
    if (--extra->second == 0) extra_uses_.erase(extra);
}

StoreBytes bytes_of(const Observation& observation) {
    const Keyframe& keyframe = *observation.keyframe;
    return {keyframe.latent_nbytes(),
            keyframe.depth_nbytes(),
            keyframe.confidence_nbytes(),
            keyframe.image_nbytes(),
            0,
            keyframe.overhead_nbytes() + observation.overhead_nbytes()};
}

StoreBytes StoreState::bytes() const {
    StoreBytes bytes = bytes_;
    bytes.index = index_.nbytes();
    bytes.bookkeeping += (sizeof(observations_[0]) + sizeof(Slot)) * observations_.capacity() +
                         (redundancy_ ? redundancy_->nbytes() : 0);
    return bytes;
}

}  // namespace mosaicmem
