// Dense projection: y = x W^T.
//
// A BLAS may be faster at the product alone. But its threads spin for tens of milliseconds after
// it, and take from the attention that follows more than the product gains (see
// bench_attention.py).
#pragma once

#include <cstddef>

namespace mosaicmem {

// x (n, in), weight (out, in), y (n, out); float32.
void linear(const float* x, const float* weight, std::size_t n, std::size_t in, std::size_t out,
            float* y, int num_threads);

}  // namespace mosaicmem
