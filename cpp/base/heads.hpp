// The memory layout of attention heads' features.
#pragma once

#include <cstddef>

#include "cpp/base/host_device.hpp"

namespace mosaicmem {

// Strides in elements between batch items, heads and tokens; the features of a token are
// contiguous.
struct HeadStrides {
    std::size_t batch, head, token;
};

// x and out (batch, heads, tokens, dim), each with its own strides; out may be x. T is float,
// double or std::uint16_t, which holds bfloat16.
template <class T>
struct HeadFeatures {
    const T* x;
    T* out;
    HeadStrides x_strides, out_strides;
    std::size_t batch, heads, tokens, dim;
};

template <class T>
MOSAICMEM_HOST_DEVICE T* row_of(T* x, const HeadStrides& strides, std::size_t b, std::size_t h,
                                std::size_t t) {
    return x + b * strides.batch + h * strides.head + t * strides.token;
}

}  // namespace mosaicmem
