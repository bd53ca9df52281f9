// Mask, bias and time decay of logits, shared by the tensor-core kernel and the one for any
// dimensions. Logits are in units of ln 2, so that their exponentials are powers of two.
#pragma once

#include "cuda/attention/attention.hpp"
#include "cuda/base/launch.cuh"
#include "cuda/base/number.cuh"

namespace mosaicmem::cuda {

constexpr float kLog2e = 1.44269504f;
constexpr float kLn2 = 0.693147181f;
#define MOSAICMEM_MINUS_INFINITY __uint_as_float(0xFF800000u)

// The addend to the logits of a key; -infinity if the key is masked.
template <class T>
__device__ __forceinline__ float key_addend(const AttentionInput<T>& in, std::size_t keys,
                                            std::size_t batch, std::size_t key) {
    if (key >= keys) return MOSAICMEM_MINUS_INFINITY;
    const std::size_t at = batch * keys + key;
    if (in.key_mask && !in.key_mask[at]) return MOSAICMEM_MINUS_INFINITY;
    return in.key_bias ? in.key_bias[at] * kLog2e : 0.0f;
}

// A time relative to the first key, in half-lives: small, so that float is accurate. Logits
// decrease by the absolute difference of two times.
template <class T>
__device__ __forceinline__ float in_half_lives(const AttentionInput<T>& in, double time) {
    return static_cast<float>((time - in.key_time[0]) / in.half_life);
}

}  // namespace mosaicmem::cuda
