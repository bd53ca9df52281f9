// Where a kernel runs, and who makes its memory: the caller's framework, of which the core sees
// nothing but this.
#pragma once

#include <cstddef>
#include <memory>

#include "cuda/base/stream.hpp"

namespace mosaicmem::cuda {

class Execution {
  public:
    virtual ~Execution() = default;

    operator const Stream&() const { return stream; }

    // Memory that stays until the kernel is in the stream. Null for no bytes.
    virtual void* scratch(std::size_t bytes) const = 0;

    struct Owned {
        void* address;
        std::shared_ptr<const void> owner;  // the memory stays as long as this does
    };
    virtual Owned own(std::size_t bytes) const = 0;

    // Lets go of an owner once all that is in the stream now is done. Where the framework fails to,
    // the memory is kept for good: whoever releases is past the point where it could go back.
    virtual void release(std::shared_ptr<const void> owner) const noexcept = 0;

    // What keeps the stream alive.
    virtual std::shared_ptr<const void> stream_owner() const = 0;

    Stream stream{};
};

}  // namespace mosaicmem::cuda
