// Where a kernel runs and who allocates its memory: all that the core sees of the caller's
// framework.
#pragma once

#include <cstddef>
#include <memory>

#include "cuda/base/stream.hpp"

namespace mosaicmem::cuda {

class Execution {
  public:
    virtual ~Execution() = default;

    operator const Stream&() const { return stream; }

    // Memory that stays valid until the kernel is in the stream. Null for zero bytes.
    virtual void* scratch(std::size_t bytes) const = 0;

    struct Owned {
        void* address;
        std::shared_ptr<const void> owner;  // the memory lives as long as this does
    };
    virtual Owned own(std::size_t bytes) const = 0;

    // Drops an owner once everything now in the stream is done. Where the framework fails, the
    // memory is leaked: its callers cannot undo what they did before.
    virtual void release(std::shared_ptr<const void> owner) const noexcept = 0;

    // An owner that keeps the stream alive.
    virtual std::shared_ptr<const void> stream_owner() const = 0;

    Stream stream{};
};

}  // namespace mosaicmem::cuda
