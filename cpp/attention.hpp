// softmax(q k^T * scale + bias) v with an online softmax: the logits of one tile of keys at a time,
// never all of them.
#pragma once

#include <cstddef>
#include <cstdint>

namespace mosaicmem {

struct AttentionShape {
    std::size_t batch, heads, queries, keys, head_dim, value_dim;
};

// q (batch, heads, queries, head_dim), k (batch, heads, keys, head_dim), v (batch, heads, keys,
// value_dim). mask (batch, keys) or null: keys with 0 take no part. bias (batch, keys) or null is
// added to the logits of each key. out (batch, heads, queries, value_dim); lse (batch, heads,
// queries) or null: the log of the sum of exponentials. A query without a key gets out = 0 and lse
// = -infinity.
void attention(const AttentionShape& shape, const float* q, const float* k, const float* v,
               const std::uint8_t* mask, const float* bias, float scale, float* out, float* lse,
               int num_threads);

}  // namespace mosaicmem
