// Host memory that GPUs can access: they read it in place, and copies from it overlap with
// everything else.
#pragma once

#include <cstddef>

#include "cuda/base/stream.hpp"

namespace mosaicmem::cuda {

class PinnedMemory {
  public:
    explicit PinnedMemory(std::size_t n);
    ~PinnedMemory();
    PinnedMemory(const PinnedMemory&) = delete;
    PinnedMemory& operator=(const PinnedMemory&) = delete;

    unsigned char* data() const { return data_; }
    std::size_t size() const { return size_; }

  private:
    unsigned char* data_ = nullptr;
    std::size_t size_;
};

// Whether host memory is pinned.
bool is_pinned(const void* memory);

// A point in a stream; tells whether the GPU has passed it.
class Event {
  public:
    explicit Event(const Stream& stream);
    ~Event();
    Event(const Event&) = delete;
    Event& operator=(const Event&) = delete;

    bool has_passed() const;
    void wait() const;  // blocks the host

  private:
    int device_;
    void* event_ = nullptr;  // a cudaEvent_t
};

// A stream separate from the caller's.
class SideStream {
  public:
    explicit SideStream(int device);
    ~SideStream();
    SideStream(const SideStream&) = delete;
    SideStream& operator=(const SideStream&) = delete;

    const Stream& stream() const { return stream_; }

  private:
    Stream stream_;
};

}  // namespace mosaicmem::cuda
