// Types of the half-precision formats, for code that only passes them on.
#pragma once

#include <cstdint>

namespace mosaicmem::cuda {

struct bfloat16 {
    std::uint16_t bits;
};
struct float16 {
    std::uint16_t bits;
};

}  // namespace mosaicmem::cuda
