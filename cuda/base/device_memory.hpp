// Memory that the core keeps on the GPU between calls.
#pragma once

#include <cstddef>
#include <memory>
#include <utility>

#include "cuda/base/execution.hpp"

namespace mosaicmem::cuda {

class DeviceMemory {
  public:
    DeviceMemory() = default;

    // Allocates `bytes` uninitialised bytes.
    DeviceMemory(const Execution& execution, std::size_t bytes)
        : bytes_(bytes), owned_(execution.own(bytes)) {}

    template <class T>
    T* as() const {
        return static_cast<T*>(owned_.address);
    }

    std::size_t bytes() const { return bytes_; }
    explicit operator bool() const { return owned_.owner != nullptr; }

    // Frees the memory once everything now in the stream is done.
    void release(const Execution& execution) noexcept {
        DeviceMemory gone = std::exchange(*this, {});
        if (gone.owned_.owner) execution.release(std::move(gone.owned_.owner));
    }

    // Reallocates to `bytes` bytes and keeps the first `used`.
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

// Orders the calls that use memory kept on the GPU: whichever streams they come from, each waits
// for the previous ones, on the GPU.
class StreamOrder {
  public:
    void follow(const Execution& execution) {
        auto owner = execution.stream_owner();  // a destroyed stream could not be waited for
        if (owner_) order_streams(last_, execution.stream);
        last_ = execution.stream;
        owner_ = std::move(owner);
    }

    // Waits until everything that the last call put into its stream is done.
    void wait() const {
        if (owner_) synchronize(last_);
    }

  private:
    Stream last_{};
    std::shared_ptr<const void> owner_;
};

}  // namespace mosaicmem::cuda
