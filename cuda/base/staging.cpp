#include "cuda/base/staging.hpp"

#include <algorithm>
#include <cstring>
#include <utility>

namespace mosaicmem::cuda {
namespace {

constexpr std::size_t kBlockBytes = 1 << 20;
constexpr std::size_t kMostBlocks = 8;
constexpr std::size_t kSmall = 4096;

}  // namespace

void Staging::upload(const void* from, void* to, std::size_t bytes, const Stream& stream) {
    if (bytes <= kSmall) {
        store_bytes(from, to, bytes, stream);
        return;
    }
    for (std::size_t first = 0; first < bytes; first += kBlockBytes) {
        const std::size_t part = std::min(kBlockBytes, bytes - first);
        std::unique_ptr<PinnedMemory> block = free_block();
        std::memcpy(block->data(), static_cast<const char*>(from) + first, part);
        copy_from_host(block->data(), static_cast<char*>(to) + first, part, stream);
        blocks_.push_back({std::move(block), std::make_unique<Event>(stream)});
    }
}

std::unique_ptr<PinnedMemory> Staging::free_block() {
    if (!blocks_.empty() &&
        (blocks_.size() >= kMostBlocks || blocks_.front().free_after->has_passed())) {
        Block block = std::move(blocks_.front());
        blocks_.pop_front();
        block.free_after->wait();
        return std::move(block.memory);
    }
    return std::make_unique<PinnedMemory>(kBlockBytes);
}

}  // namespace mosaicmem::cuda
