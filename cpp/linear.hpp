// Dense projection: y = x W^T + b.
#pragma once

#include <cstddef>

namespace mosaicmem {

// x (n, in), weight (out, in), bias (out) or null, y (n, out); float32.
void linear(const float* x, const float* weight, const float* bias, std::size_t n, std::size_t in,
            std::size_t out, float* y, int num_threads);

}  // namespace mosaicmem
