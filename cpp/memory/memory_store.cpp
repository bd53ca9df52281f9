#include "cpp/memory/memory_store.hpp"

#include <new>

namespace mosaicmem {

template <class Write>
auto MemoryStore::write(const Write& write) {
    StoreState::Observations dropped;  // destroyed after the lock is released
    const auto lock = writing();
    const auto result = write(state_);
    ++revision_;
    dropped = state_.take_dropped();
    return result;
}

PatchId MemoryStore::insert(std::shared_ptr<const Keyframe> keyframe,
                            const Affine& world_from_camera, int num_threads) {
    StoreState::Placed placed =
        StoreState::place(std::move(keyframe), world_from_camera, patch_size_, num_threads);
    return write([&](StoreState& state) {
        const PatchId id = state.insert(std::move(placed));
        try {
            state.evict();
        } catch (const std::bad_alloc&) {
            // The keyframe is in; the next insert evicts what is still over the limits.
        }
        return id;
    });
}

std::size_t MemoryStore::erase(std::span<const PatchId> ids) {
    return write([ids](StoreState& state) { return state.erase(ids); });
}

std::size_t MemoryStore::remap(std::span<const std::shared_ptr<const Keyframe>> keyframes) {
    return write([keyframes](StoreState& state) { return state.remap(keyframes); });
}

std::size_t MemoryStore::erase_frame(std::int64_t frame_id) {
    return write([frame_id](StoreState& state) { return state.erase_frame(frame_id); });
}

}  // namespace mosaicmem
