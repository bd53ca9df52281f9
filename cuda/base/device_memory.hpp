// What the core keeps on a device between calls.
#pragma once

#include <cstddef>
#include <memory>
#include <utility>

#include "cuda/base/execution.hpp"

namespace mosaicmem::cuda {

class DeviceMemory {
  public:
    DeviceMemory() = default;

    // Of `bytes` bytes, whose values are not defined.
    DeviceMemory(const Execution& execution, std::size_t bytes)
        : bytes_(bytes), owned_(execution.own(bytes)) {}

    template <class T>
    T* as() const {
        return static_cast<T*>(owned_.address);
    }

    std::size_t bytes() const { return bytes_; }
    explicit operator bool() const { return owned_.owner != nullptr; }

    // Lets go of it once all that is in the stream now is done.
    void release(const Execution& execution) noexcept {
        DeviceMemory gone = std::exchange(*this, {});
        if (gone.owned_.owner) execution.release(std::move(gone.owned_.owner));
    }

    // The same with room for `bytes` bytes, of which the first `used` are those of before.
    void grow(std::size_t bytes, std::size_t used, const Execution& execution) {
        DeviceMemory grown(execution, bytes);
        if (used > 0) copy_bytes(owned_.address, grown.owned_.address, used, execution);
        std::swap(*this, grown);
        grown.release(execution);
    }

  private:
    std::size_t bytes_ = 0;
    Execution::Owned owned_{};
};

// The order of calls on what the core keeps on a device: whichever streams they are made from, each
// waits for those before it, on the device.
class StreamOrder {
  public:
    void follow(const Execution& execution) {
        auto owner = execution.stream_owner();  // a stream that is gone could not be waited for
        if (owner_) order_streams(last_, execution.stream);
        last_ = execution.stream;
        owner_ = std::move(owner);
    }

    // Until all that was put into the stream of the last call is done.
    void wait() const {
        if (owner_) synchronize(last_);
    }

  private:
    Stream last_{};
    std::shared_ptr<const void> owner_;
};

}  // namespace mosaicmem::cuda
