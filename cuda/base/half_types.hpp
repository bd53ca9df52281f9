// The names of the half-precision formats, for those who only pass them on.
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
