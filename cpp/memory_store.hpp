// A store that several threads may use. Reads may run at once with reads; a write waits for them
// and runs alone. What a write replaces is destroyed when the lock is free again.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <shared_mutex>
#include <span>
#include <utility>
#include <vector>

#include "store_state.hpp"

namespace mosaicmem {

class MemoryStore {
  public:
    explicit MemoryStore(StoreState state) : state_(std::move(state)) {}

    // A copy of everything. It shares what it can and costs a pointer for each observation.
    StoreState state() const {
        const std::shared_lock lock(mutex_);
        return state_;
    }

    // Takes a state that was taken before. Ids that were given since then are not given again.
    void restore(StoreState state) {
        const std::unique_lock lock(mutex_);
        state.skip_ids_of(state_);
        std::swap(state_, state);
    }

    // As StoreState::insert; then evicts what is beyond the limits.
    PatchId insert(std::shared_ptr<const Keyframe> keyframe, const Affine& world_from_camera,
                   int num_threads);

    std::size_t erase(std::span<const PatchId> ids);
    std::size_t erase_frame(std::int64_t frame_id);

    // Runs edit(state) on a copy, which takes the place of the state if there is no exception, and
    // evicts what is beyond the limits.
    template <class Edit>
    auto edit(const Edit& edit) {
        std::optional<StoreState> next;  // destroyed after the lock
        const std::unique_lock lock(mutex_);
        next = state_;
        auto result = edit(*next);
        next->evict();
        std::swap(state_, *next);
        return result;
    }

    // Runs read(state) beside other readers.
    template <class Read>
    auto read(const Read& read) const {
        const std::shared_lock lock(mutex_);
        return read(state_);
    }

    // retrieve, describe and land for several views, of one state of the store.
    struct Sight {
        std::vector<RetrievedPatch> patches;
        std::vector<PatchInfo> infos;  // of the patches
        LandedTokens tokens;
    };
    std::vector<Sight> look(std::span<const View> views, std::span<const RetrievalParams> params,
                            int num_threads) const;

  private:
    template <class Write>
    auto write(const Write& write);

    StoreState state_;
    mutable std::shared_mutex mutex_;
};

}  // namespace mosaicmem
