// Copies to the GPU that the host does not wait for.
//
// CUDA copies from pageable memory only once the stream is empty. So data goes through blocks of
// pinned memory, which are reused once the GPU has passed them; small data travels as launch
// parameters.
#pragma once

#include <cstddef>
#include <deque>
#include <memory>

#include "cuda/base/pinned.hpp"

namespace mosaicmem::cuda {

// For streams that are ordered one after another.
class Staging {
  public:
    // `from` may change once this returns. The host waits only when the GPU is 8 MiB behind.
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
