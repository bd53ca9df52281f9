// The latents of keyframes: in device memory up to a budget, the rest in pinned host memory.
//
// A kernel may read either: pinned memory has an address on the GPU too and is only slower. So
// either location is always valid, and nothing waits for a transfer.
#pragma once

#include <cstddef>
#include <cstdint>
#include <list>
#include <memory>
#include <optional>
#include <span>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "cpp/memory/observation.hpp"
#include "cuda/base/device_memory.hpp"
#include "cuda/base/pinned.hpp"
#include "cuda/base/staging.hpp"

namespace mosaicmem::cuda {

// Calls are sequential, in streams that are ordered one after another. Keyframes are identified by
// their serial.
class KeyframePool {
  public:
    using Serial = std::uint64_t;

    // budget: bytes of latents in device memory; nullopt: no limit.
    explicit KeyframePool(std::optional<std::size_t> budget) : budget_(budget) {}
    ~KeyframePool();
    KeyframePool(const KeyframePool&) = delete;
    KeyframePool& operator=(const KeyframePool&) = delete;

    std::size_t bytes() const { return bytes_; }  // of latents in device memory
    bool is_resident(Serial keyframe) const { return static_cast<bool>(held_.at(keyframe).device); }

    // Holds the latents of a keyframe, or counts one more use if they are held; may move others out
    // for it. After an exception this use is not counted.
    void add(const std::shared_ptr<const Keyframe>& keyframe, Staging& staging,
             const Execution& execution);

    // Ends one use that add() has counted.
    void drop(Serial keyframe, const Execution& execution);

    // The address at which kernels read the latents of a keyframe.
    const void* address(Serial keyframe);

    // Starts to move keyframes into device memory, the most wanted first, as far as the budget
    // allows; may move others out. The copies overlap with the work in the stream. Until arrived(),
    // kernels read these keyframes from the host.
    void prefetch(std::span<const Serial> keyframes, const Execution& execution);

    // Makes the stream wait for the copies that prefetch() has started.
    void arrived(const Execution& execution);

    // Keyframes whose address has changed: no kernel may run before the tables have the new one.
    std::unordered_set<Serial>& moved() { return moved_; }

  private:
    struct Held {
        std::shared_ptr<const Keyframe> keyframe;
        std::size_t uses;
        std::unique_ptr<PinnedMemory> pinned{};  // a copy, if the keyframe is not pinned
        DeviceMemory device{};
        std::list<Serial>::iterator place{};  // in resident_, if in device memory
    };
    struct Leaving {  // memory that the stream may read until the event
        std::unique_ptr<Event> event;
        std::shared_ptr<const Keyframe> keyframe;
        std::unique_ptr<PinnedMemory> pinned;
    };

    bool fits(std::size_t bytes) const { return !budget_ || bytes_ + bytes <= *budget_; }
    void make_room(std::size_t bytes, const std::unordered_set<Serial>& keep,
                   const Execution& execution);
    void settle(Held& held, std::list<Serial>&& node, DeviceMemory&& device);
    void evict(Held& held, const Execution& execution);
    void fetch(Serial keyframe, Held& held, const Execution& execution);
    static const void* pinned_address(Held& held);

    std::optional<std::size_t> budget_;
    std::size_t bytes_ = 0;
    std::unordered_map<Serial, Held> held_;
    std::list<Serial> resident_;  // in device memory, the least recently used first
    std::vector<Serial> arriving_;
    std::unordered_set<Serial> moved_;
    std::vector<Leaving> leaving_;
    std::unique_ptr<SideStream> side_;
};

}  // namespace mosaicmem::cuda
