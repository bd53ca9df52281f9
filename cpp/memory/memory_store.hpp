// A thread-safe store. Reads run concurrently; a write waits for them and runs alone. What a write
// replaces is destroyed after the lock is released.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <shared_mutex>
#include <span>
#include <utility>
#include <vector>

#include "cpp/base/fork_safe_mutex.hpp"
#include "cpp/memory/store_state.hpp"

namespace mosaicmem {

class MemoryStore {
  public:
    explicit MemoryStore(StoreState state)
        : patch_size_(state.patch_size()), state_(std::move(state)) {}

    // A snapshot. Shares data with the store: costs a pointer per observation and tree.
    StoreState state() const {
        const auto lock = reading();
        return state_;
    }

    // Restores a snapshot. Ids assigned since then are not reused.
    void restore(StoreState state) {
        const auto lock = writing();
        state.skip_ids_of(state_);
        std::swap(state_, state);
        ++revision_;
    }

    // Like StoreState::insert; then evicts down to the limits.
    PatchId insert(std::shared_ptr<const Keyframe> keyframe, const Affine& world_from_camera,
                   int num_threads);

    std::size_t erase(std::span<const PatchId> ids);
    std::size_t erase_frame(std::int64_t frame_id);
    std::size_t remap(std::span<const std::shared_ptr<const Keyframe>> keyframes);

    // Runs edit(state) on a copy and evicts down to the limits; the copy replaces the state unless
    // an exception is thrown.
    template <class Edit>
    auto edit(const Edit& edit) {
        std::optional<StoreState> next;  // destroyed after the lock is released
        StoreState::Observations dropped;
        const auto lock = writing();
        next = state_;
        auto result = edit(*next);
        next->evict();
        dropped = next->take_dropped();
        std::swap(state_, *next);
        ++revision_;
        return result;
    }

    // Increases with every write.
    std::uint64_t revision() const { return revision_; }

    // Runs read(state) concurrently with other readers.
    template <class Read>
    auto read(const Read& read) const {
        const auto lock = reading();
        return read(state_);
    }

  private:
    template <class Write>
    auto write(const Write& write);

    std::shared_lock<ForkSafeMutex> reading() const { return std::shared_lock(mutex_); }
    std::unique_lock<ForkSafeMutex> writing() { return std::unique_lock(mutex_); }

    const std::size_t patch_size_;
    StoreState state_;
    std::atomic<std::uint64_t> revision_ = 0;
    mutable ForkSafeMutex mutex_;
};

}  // namespace mosaicmem
