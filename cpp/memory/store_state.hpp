// The state of a patch store: observations of keyframes, an alive bit per patch, and an index over
// patch centres. Queries are free functions: see retrieval.hpp, neighbours.hpp,
// keyframe_selection.hpp, canvas.hpp, projected_tokens.hpp, regions.hpp. Not thread-safe;
// MemoryStore adds the lock.
//
// A copy costs a pointer per observation and tree: copies share keyframes, trees and observations,
// and a shared observation is copied before it is changed.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <unordered_map>
#include <vector>

#include "cpp/base/camera.hpp"
#include "cpp/memory/observation.hpp"
#include "cpp/memory/patch_index.hpp"
#include "cpp/memory/redundancy_map.hpp"

namespace mosaicmem {

constexpr double kFurthest = 1e12;  // metres; squared distances stay well within float32's range

enum class Eviction { oldest, redundant };

struct Limits {
    std::size_t max_patches = std::numeric_limits<std::size_t>::max();
    std::size_t max_bytes = std::numeric_limits<std::size_t>::max();
    Eviction policy = Eviction::oldest;
};

struct StoreBytes {
    std::size_t latents, depth, confidence, images;  // of the keyframes, each counted once
    std::size_t index;                               // the kd-trees
    std::size_t bookkeeping;                         // observations and the redundancy map

    std::size_t total() const {
        return latents + depth + confidence + images + index + bookkeeping;
    }
    StoreBytes& operator+=(const StoreBytes& other) {
        latents += other.latents;
        depth += other.depth;
        confidence += other.confidence;
        images += other.images;
        index += other.index;
        bookkeeping += other.bookkeeping;
        return *this;
    }
    StoreBytes& operator-=(const StoreBytes& other) {
        latents -= other.latents;
        depth -= other.depth;
        confidence -= other.confidence;
        images -= other.images;
        index -= other.index;
        bookkeeping -= other.bookkeeping;
        return *this;
    }
};

// The bytes of an observation that shares its keyframe with no other, without its share of the
// index and of the store's own vectors.
StoreBytes bytes_of(const Observation& observation);

void sort_ids(std::vector<PatchId>& ids);

class StoreState {
  public:
    using Observations = std::vector<std::shared_ptr<Observation>>;
    using Ids = std::optional<std::span<const PatchId>>;  // nullopt: all patches

    StoreState(std::size_t patch_size, const Limits& limits);

    // --- store_state.cpp

    // The patches of a keyframe, placed in the world. Does not depend on the state.
    struct Placed {
        std::shared_ptr<Observation> observation;
        std::vector<Vec3> centres;        // world, of each patch
        std::vector<std::uint8_t> valid;  // whether the patch has a centre
    };
    static Placed place(std::shared_ptr<const Keyframe> keyframe, const Affine& world_from_camera,
                        std::size_t patch_size, int num_threads);

    // Returns the id of the first patch. Does not store patches without a valid cell, or beyond
    // kFurthest from the first camera's position. Throws std::invalid_argument if the number of
    // channels differs from earlier keyframes. An exception leaves the state unchanged.
    PatchId insert(Placed&& placed);

    // Both return the number of patches removed. Drops observations without a living patch. An
    // exception leaves the state unchanged.
    std::size_t erase(std::span<const PatchId> ids);  // unknown and dead ids are skipped
    std::size_t erase_frame(std::int64_t frame_id);

    // --- adoption.cpp

    // Adds observations that have their first_id and their living patches set, and assigns slots;
    // with keep_slots, slots are set as well, ascending. Throws std::invalid_argument if the
    // channels differ, or if a living patch has no depth or lies out of range; the state is then
    // unusable.
    void adopt(Observations observations, int num_threads, bool keep_slots = false);

    // --- store_state.cpp

    // A point of the world in index coordinates.
    std::array<float, 3> in_index(const Vec3& world) const;
    Affine world_from_index() const {
        return {{1, 0, 0, origin_.x, 0, 1, 0, origin_.y, 0, 0, 1, origin_.z}};
    }
    const PatchIndex& index() const { return index_; }
    PatchIndex::PatchOf patch_of() const;  // resolves slots of the index
    bool slots_are_ids() const { return slots_are_ids_; }

    // Dropped observations, for the caller to destroy when it holds no lock: an owner of buffers
    // may take locks of its own.
    Observations take_dropped() { return std::move(dropped_); }

    // Positions in observations().
    static constexpr std::size_t kNowhere = std::numeric_limits<std::size_t>::max();
    std::size_t at_slot(Slot slot) const;  // of the observation that has the slot, or kNowhere
    std::size_t at_id(PatchId id) const;   // of the observation with the patch alive, or kNowhere

    std::vector<PatchId> alive_ids() const;
    StoreBytes bytes() const;

    std::size_t alive_count() const { return alive_count_; }
    const Observations& observations() const { return observations_; }
    std::size_t channels() const { return channels_; }
    const Vec3& origin() const { return origin_; }
    PatchId next_id() const { return next_id_; }
    Slot next_slot() const { return next_slot_; }
    const Limits& limits() const { return limits_; }
    std::size_t patch_size() const { return patch_size_; }

    // For an empty state: sets the channels, the origin of the index, and the next id and slot.
    void start_at(std::size_t channels, const Vec3& origin, PatchId next_id, Slot next_slot);
    // Never assigns ids and slots that the other has assigned.
    void skip_ids_of(const StoreState& other);

    // --- edit.cpp: edits transform patches in the world and skip ids that are not alive. After an
    // exception (std::invalid_argument: patches would leave the range of the index) the state is
    // unusable: edit a copy.

    std::size_t count_alive(Ids ids) const;
    std::size_t transform(const Affine& edit, Ids ids, int num_threads);
    std::vector<PatchId> duplicate(const Affine& edit, Ids ids, int num_threads);
    // Patch i of the other state becomes patch offset + i. Returns the offset.
    PatchId splice(const StoreState& other, const Affine& edit, int num_threads);

    // --- mapping.cpp: each keyframe takes the place of the one with its serial, whose content it
    // shares. Returns the number of observations changed. An exception leaves the state unchanged.

    std::size_t remap(std::span<const std::shared_ptr<const Keyframe>> keyframes);

    // --- eviction.cpp: evicts patches until the limits hold. After an exception fewer patches are
    // evicted, and the state stays usable.

    std::size_t evict();

  private:
    static void expect_channels(std::size_t expected, std::size_t got);
    std::size_t ordered(std::size_t i) const { return order_.empty() ? i : order_[i]; }
    bool in_reach(const Vec3& world) const;
    // Call before patches of an observation die: does everything that can fail, without visible
    // changes. Reserves for `others` more observations that the same operation may empty.
    void make_mortal(std::size_t at, std::size_t others = 0);
    void make_mortal(const std::vector<std::size_t>& positions);
    void kill(std::size_t at, std::size_t patch) noexcept;
    void kill_all(std::size_t at) noexcept;
    void drop_emptied() noexcept;
    void prepare_eviction(const Observation& coming);
    void sort_by_id();
    void count_use(const Observation& observation);
    void count_disuse(const Observation& observation);
    RedundancyMap& writable_redundancy();
    struct Chosen;
    std::vector<Chosen> choose(Ids ids) const;
    void evict_patches();
    void evict_images();
    void evict_bytes();
    std::size_t least_kept() const;

    std::size_t patch_size_;
    Limits limits_;
    std::size_t channels_ = 0;  // of all keyframes; 0 before the first
    Vec3 origin_ = {};  // of the index: the first camera's position, since float32 loses precision
                        // far from the world's origin
    PatchId next_id_ = 0;
    Slot next_slot_ = 0;
    std::size_t alive_count_ = 0;
    Observations observations_;         // first_slot ascending
    std::vector<Slot> first_slots_;     // of the observations
    std::vector<std::uint32_t> order_;  // positions by (first_id, first_slot); empty if in order
    bool slots_are_ids_ = true;         // for every observation
    std::vector<std::size_t> emptied_;  // positions of observations without a living patch
    Observations dropped_;
    PatchIndex index_;
    std::shared_ptr<RedundancyMap> redundancy_;                    // only with policy `redundant`
    std::unordered_map<const Keyframe*, std::size_t> extra_uses_;  // observations beyond the first
    StoreBytes bytes_ = {};                                        // without index, map and vectors
};

}  // namespace mosaicmem
