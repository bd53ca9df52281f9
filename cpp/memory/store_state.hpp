// What a store of patches holds: observations of keyframes, a bit for each patch, an index over
// patch centres. What is asked of it are functions of their own: see retrieval.hpp, neighbours.hpp,
// keyframe_selection.hpp, canvas.hpp, projected_tokens.hpp, regions.hpp. Not safe for threads by
// itself; MemoryStore adds the lock.
//
// A copy costs a pointer for each observation and each tree: copies share keyframes, trees and
// observations, and an observation is copied when it is written to while it is shared.
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

constexpr double kFurthest = 1e12;  // metres; squared distances stay far within float32

enum class Eviction { oldest, redundant };

struct Limits {
    std::size_t max_patches = std::numeric_limits<std::size_t>::max();
    std::size_t max_bytes = std::numeric_limits<std::size_t>::max();
    Eviction policy = Eviction::oldest;
};

struct StoreBytes {
    std::size_t latents, depth, confidence;  // of the keyframes, each counted once
    std::size_t index;                       // the kd-trees
    std::size_t bookkeeping;                 // observations, and the places that eviction follows

    std::size_t total() const { return latents + depth + confidence + index + bookkeeping; }
    StoreBytes& operator+=(const StoreBytes& other) {
        latents += other.latents;
        depth += other.depth;
        confidence += other.confidence;
        index += other.index;
        bookkeeping += other.bookkeeping;
        return *this;
    }
    StoreBytes& operator-=(const StoreBytes& other) {
        latents -= other.latents;
        depth -= other.depth;
        confidence -= other.confidence;
        index -= other.index;
        bookkeeping -= other.bookkeeping;
        return *this;
    }
};

// Of an observation whose keyframe no other shares, without its places in index and order.
StoreBytes bytes_of(const Observation& observation);

void sort_ids(std::vector<PatchId>& ids);

class StoreState {
  public:
    using Observations = std::vector<std::shared_ptr<Observation>>;
    using Ids = std::optional<std::span<const PatchId>>;  // nothing: all patches

    StoreState(std::size_t patch_size, const Limits& limits);

    // --- store_state.cpp

    // Where a keyframe's patches would be. Does not depend on the state.
    struct Placed {
        std::shared_ptr<Observation> observation;
        std::vector<Vec3> centres;        // world, of each patch
        std::vector<std::uint8_t> valid;  // whether the patch has one
    };
    static Placed place(std::shared_ptr<const Keyframe> keyframe, const Affine& world_from_camera,
                        std::size_t patch_size, int num_threads);

    // Returns the id of the first patch. Patches without a valid cell, or beyond kFurthest from
    // where the first camera stood, are not remembered. Throws std::invalid_argument if the
    // channels are not those of before. After an exception the state is as it was.
    PatchId insert(Placed&& placed);

    // All return how many patches died. An observation without a living patch is dropped. After an
    // exception the state is as it was.
    std::size_t erase(std::span<const PatchId> ids);  // unknown and dead ids are skipped
    std::size_t erase_frame(std::int64_t frame_id);

    // Takes observations that have their first_id and living patches, each with a valid centre, and
    // gives them slots; with keep_slots, they have those as well, ascending. Throws
    // std::invalid_argument if channels or places do not fit what is here; the state may then be
    // used no more.
    void adopt(Observations observations, int num_threads, bool keep_slots = false);

    // Where the index has a place in the world.
    std::array<float, 3> in_index(const Vec3& world) const;
    Affine world_from_index() const {
        return {{1, 0, 0, origin_.x, 0, 1, 0, origin_.y, 0, 0, 1, origin_.z}};
    }
    const PatchIndex& index() const { return index_; }
    PatchIndex::PatchOf patch_of() const;  // of a slot of the index
    bool slots_are_ids() const { return slots_are_ids_; }

    // Observations that were dropped, for the caller to destroy when it holds no lock: an owner of
    // buffers may take locks of its own.
    Observations take_dropped() { return std::move(dropped_); }

    // Positions among the observations.
    static constexpr std::size_t kNowhere = std::numeric_limits<std::size_t>::max();
    std::size_t at_slot(Slot slot) const;  // of the one that has the slot, or kNowhere
    std::size_t at_id(PatchId id) const;   // of the one with the patch alive, or kNowhere

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

    // Of an empty state: where the index counts from, and the ids and slots to give next.
    void start_at(std::size_t channels, const Vec3& origin, PatchId next_id, Slot next_slot);
    // Ids and slots that the other has given are not given again.
    void skip_ids_of(const StoreState& other);

    // --- edit.cpp: the world of the patches is transformed; ids that do not live are skipped.
    // After an exception (std::invalid_argument: patches would leave the range of the index) the
    // state may be used no more: edit a copy.

    std::size_t count_alive(Ids ids) const;
    std::size_t transform(const Affine& edit, Ids ids, int num_threads);
    std::vector<PatchId> duplicate(const Affine& edit, Ids ids, int num_threads);
    // Patch i of the other becomes patch offset + i. Returns the offset.
    PatchId splice(const StoreState& other, const Affine& edit, int num_threads);

    // --- eviction.cpp: patches go until the limits hold. After an exception fewer have gone, and
    // the state may be used.

    std::size_t evict();

  private:
    std::size_t ordered(std::size_t i) const { return order_.empty() ? i : order_[i]; }
    bool in_reach(const Vec3& world) const;
    // Before patches of an observation die, whatever may fail has to: nothing that is seen changes
    // here. As many `others` may be emptied in the same go.
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
    void evict_bytes();
    std::size_t least_kept() const;

    std::size_t patch_size_;
    Limits limits_;
    std::size_t channels_ = 0;  // of all keyframes; 0 before the first
    Vec3 origin_ = {};  // of the index: where the first camera stood, so that float32 has room far
                        // from the world's
    PatchId next_id_ = 0;
    Slot next_slot_ = 0;
    std::size_t alive_count_ = 0;
    Observations observations_;         // first_slot ascending
    std::vector<Slot> first_slots_;     // of the observations
    std::vector<std::uint32_t> order_;  // positions by (first_id, first_slot); empty if those are
                                        // in order
    bool slots_are_ids_ = true;         // for every observation
    std::vector<std::size_t> emptied_;  // positions of observations that have no living patch
    Observations dropped_;
    PatchIndex index_;
    std::shared_ptr<RedundancyMap> redundancy_;                    // with the policy `redundant`
    std::unordered_map<const Keyframe*, std::size_t> extra_uses_;  // by more than one observation
    StoreBytes bytes_ = {};                                        // without index and places
};

}  // namespace mosaicmem
