// Memory of the host that GPUs reach: they read it in place, and copies from it run beside
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

// Whether memory of the host is pinned.
bool is_pinned(const void* memory);

// A place in a stream, to be asked whether the device is past it.
class Event {
  public:
    explicit Event(const Stream& stream);
    ~Event();
    Event(const Event&) = delete;
    Event& operator=(const Event&) = delete;

    bool has_passed() const;
    void wait() const;  // the host does

  private:
    int device_;
    void* event_ = nullptr;  // a cudaEvent_t
};

// A stream beside those of the caller.
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
