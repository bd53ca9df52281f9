// softmax(q k^T * scale + bias) v with an online softmax: holds the logits of one tile of keys at a
// time, never all of them.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cpp/base/heads.hpp"

namespace mosaicmem {

struct AttentionShape {
    std::size_t batch, heads, key_heads;  // key_heads divides heads
    std::size_t queries, keys, head_dim, value_dim;
};

// Head h of the queries reads head h / (heads / key_heads) of keys and values.
template <class T>
struct AttentionInput {
    const T *q, *k, *v;  // (batch, heads, queries, head_dim), (batch, key_heads, keys, ...)
    HeadStrides q_strides, k_strides, v_strides;
    const std::uint8_t* key_mask;  // (batch, keys) or null: keys with 0 are ignored
    const float* key_bias;         // (batch, keys) or null: added to the logits of a key
    // (queries) and (keys), or null: adds ln(0.5) |t_q - t_k| / half_life to the logits.
    const double *query_time, *key_time;
    double half_life;
    float scale;
};

// T is float or std::uint16_t, which holds bfloat16; sums are float32. out (batch, heads, queries,
// value_dim); lse (batch, heads, queries) or null: the log of the sum of exponentials. A query
// without a key gets out = 0 and lse = -infinity.
template <class T>
void attention(const AttentionShape& shape, const AttentionInput<T>& input, T* out,
               const HeadStrides& out_strides, float* lse, int num_threads);

// Merges attention over the keys of a with attention over the keys of b; out (rows, value_dim), lse
// (rows). T as above.
template <class T>
struct PartialAttention {
    const T* out;
    const float* lse;
};
template <class T>
void merge_attention(const PartialAttention<T>& a, const PartialAttention<T>& b, std::size_t rows,
                     std::size_t value_dim, T* out, float* lse);

}  // namespace mosaicmem
