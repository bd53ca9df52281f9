// Latents of keyframes in device memory, as far as a budget goes; of the others in pinned memory of
// the host.
//
// A kernel may read either: pinned memory has an address on the device too, it is only slower. So
// where the latents of a keyframe are is never wrong, and nothing waits to find out.
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

// Calls are made one after the other, in streams that follow each other. Keyframes go by their
// serial.
class KeyframePool {
  public:
    using Serial = std::uint64_t;

    // budget: bytes of latents in device memory; nothing for all.
    explicit KeyframePool(std::optional<std::size_t> budget) : budget_(budget) {}
    ~KeyframePool();
    KeyframePool(const KeyframePool&) = delete;
    KeyframePool& operator=(const KeyframePool&) = delete;

    std::size_t bytes() const { return bytes_; }  // of latents in device memory
    bool is_resident(Serial keyframe) const { return static_cast<bool>(held_.at(keyframe).device); }

    // Holds the latents of a keyframe, once more if they are held; others may be moved out for it.
    // After an exception nothing is held.
    void add(const std::shared_ptr<const Keyframe>& keyframe, Staging& staging,
             const Execution& execution);

    // Lets go of a keyframe that `add` was called with.
    void drop(Serial keyframe, const Execution& execution);

    // Where kernels read the latents of a keyframe.
    const void* address(Serial keyframe);

    // Begins to move keyframes into device memory, the most wanted first, as far as the budget
    // goes; others leave. The copies run beside what is in the stream. Until `arrived`, kernels
    // read those keyframes from the host.
    void prefetch(std::span<const Serial> keyframes, const Execution& execution);

    // The stream waits for the keyframes that are on their way.
    void arrived(const Execution& execution);

    // Keyframes whose address has changed: kernels must not run before they know the new one.
    std::unordered_set<Serial>& moved() { return moved_; }

  private:
    struct Held {
        std::shared_ptr<const Keyframe> keyframe;
        std::size_t uses;
        std::unique_ptr<PinnedMemory> pinned{};  // a copy, where its own memory is not pinned
        DeviceMemory device{};
        std::list<Serial>::iterator place{};  // among the residents, if on the device
    };
    struct Leaving {  // what the stream may read until an event
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
    std::list<Serial> resident_;  // on the device, the one that was not used for longest first
    std::vector<Serial> arriving_;
    std::unordered_set<Serial> moved_;
    std::vector<Leaving> leaving_;
    std::unique_ptr<SideStream> side_;
};

}  // namespace mosaicmem::cuda
