// A kernel's scratch: one buffer, carved into arrays.
#pragma once

#include <cstddef>
#include <cstdint>

namespace mosaicmem::cuda {

// Carves aligned arrays from a buffer, one after another. Without a buffer it only counts bytes, so
// that the same code gives both the size of a workspace and its layout.
class Workspace {
  public:
    explicit Workspace(void* buffer = nullptr) : buffer_(static_cast<char*>(buffer)) {}

    template <class T>
    T* take(std::size_t count) {
        constexpr std::size_t kAlignment = 256;
        bytes_ = (bytes_ + kAlignment - 1) / kAlignment * kAlignment;
        T* const array = buffer_ ? reinterpret_cast<T*>(buffer_ + bytes_) : nullptr;
        bytes_ += count * sizeof(T);
        return array;
    }

    std::size_t bytes() const { return bytes_; }

  private:
    char* buffer_;
    std::size_t bytes_ = 0;
};

}  // namespace mosaicmem::cuda
