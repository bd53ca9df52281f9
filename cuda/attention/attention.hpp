// softmax(q k^T * scale + bias) v on the GPU: the counterpart of cpp/attention/attention.hpp.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cpp/base/heads.hpp"
#include "cuda/base/stream.hpp"

namespace mosaicmem::cuda {

struct AttentionShape {
    std::size_t batch, heads, key_heads;  // key_heads divides heads
    std::size_t queries, keys, head_dim, value_dim;
};

// cos and sin (tokens, head_dim / 2), or null: Warped RoPE, applied while loading the features.
struct Rotation {
    const float *cos, *sin;
};

template <class T>
struct AttentionInput {
    const T *q, *k, *v;
    HeadStrides q_strides, k_strides, v_strides;
    const std::uint8_t* key_mask;         // (batch, keys) or null
    const float* key_bias;                // (batch, keys) or null
    const double *query_time, *key_time;  // (queries) and (keys), or null
    double half_life;
    float scale;
    Rotation query_rotation, key_rotation;
    bool interleaved;  // pairing of both rotations
};

// Limit of the kernel for any dimensions.
constexpr std::size_t kMostHeadDim = 512;

// Whether the tensor cores can be used: float16 or bfloat16, both dimensions 64 or both 128, and
// all rows 16-byte aligned.
template <class T>
bool uses_tensor_cores(const AttentionShape& shape, const AttentionInput<T>& input, const T* out,
                       const HeadStrides& out_strides);

// See mosaicmem::attention. T is float, float16 or bfloat16; sums are float. head_dim and value_dim
// are at most kMostHeadDim.
template <class T>
void attention(const AttentionShape& shape, const AttentionInput<T>& input, T* out,
               const HeadStrides& out_strides, float* lse, const Stream& stream);

// See mosaicmem::merge_attention.
template <class T>
struct PartialAttention {
    const T* out;
    const float* lse;
};
template <class T>
void merge_attention(const PartialAttention<T>& a, const PartialAttention<T>& b, std::size_t rows,
                     std::size_t value_dim, T* out, float* lse, const Stream& stream);

}  // namespace mosaicmem::cuda
