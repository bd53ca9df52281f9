// The tensor-core attention kernel: what attention.cu launches for float16 and bfloat16.
#pragma once

#include "cuda/attention/attention.hpp"

namespace mosaicmem::cuda {

// For head_dim = value_dim = kDim, 64 or 128, and 16-byte aligned rows.
template <class T, int kDim>
void attention_on_tiles(const AttentionShape& shape, const AttentionInput<T>& input, T* out,
                        const HeadStrides& out_strides, float* lse, const Stream& stream);

}  // namespace mosaicmem::cuda
