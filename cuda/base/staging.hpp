// Copies to a device for which the host does not wait.
//
// CUDA copies from ordinary memory only once the stream is empty. So bytes go through blocks of
// pinned memory, which are used again when the device is past them; what is small travels with
// launches.
#pragma once

#include <cstddef>
#include <deque>
#include <memory>

#include "cuda/base/pinned.hpp"

namespace mosaicmem::cuda {

// In streams that follow each other.
class Staging {
  public:
    // `from` may change when this returns. The host waits only where the device is 8 MiB behind.
    void upload(const void* from, void* to, std::size_t bytes, const Stream& stream);

  private:
    struct Block {
        std::unique_ptr<PinnedMemory> memory;
        std::unique_ptr<Event> free_after;
    };

    std::unique_ptr<PinnedMemory> free_block();

    std::deque<Block> blocks_;  // the oldest first
};

}  // namespace mosaicmem::cuda
