// Memory on a device that the core keeps between calls. The caller's framework makes it, through
// one callback, and it lives as long as the object that the callback gave.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

#include "cuda/bindings/device_array.hpp"

namespace mosaicmem::bindings {

class DeviceMemory {
  public:
    DeviceMemory() = default;

    // Of `bytes` bytes, whose values are not defined.
    DeviceMemory(const Execution& execution, std::size_t bytes)
        : bytes_(bytes), owner_(execution.own(bytes)) {
        address_ = py::cast<std::uintptr_t>(execution.call.attr("address_of")(owner_));
    }

    template <class T>
    T* as() const {
        return reinterpret_cast<T*>(address_);
    }

    std::size_t bytes() const { return bytes_; }

    // Lets go of it once all that is in the stream now is done.
    void release(const Execution& execution) {
        if (owner_) execution.call.attr("release")(owner_);
        *this = {};
    }

  private:
    std::size_t bytes_ = 0;
    std::uintptr_t address_ = 0;
    py::object owner_;
};

// The order of calls on what the core keeps on a device: whichever streams they are made from, each
// waits for those before it, on the device.
class StreamOrder {
  public:
    void follow(const Execution& execution) {
        if (owner_) cuda::order_streams(last_, execution.stream);
        last_ = execution.stream;
        owner_ =
            execution.call.attr("stream_owner");  // a stream that is gone could not be waited for
        if (!owner_) owner_ = py::none();
    }

  private:
    cuda::Stream last_{};
    py::object owner_;  // None where a stream needs nobody to live
};

}  // namespace mosaicmem::bindings
