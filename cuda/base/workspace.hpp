// Scratch of a kernel: one buffer, which the kernel divides itself.
#pragma once

#include <cstddef>
#include <cstdint>

namespace mosaicmem::cuda {

// Takes arrays from a buffer, one behind the other, each aligned. Without a buffer it only counts,
// so that the same code says how many bytes a kernel needs and where its arrays lie.
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
