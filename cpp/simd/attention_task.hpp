// An attention kernel's task: a group of queries of one head against all keys of that head.
#pragma once

#include <cstddef>
#include <cstdint>

namespace mosaicmem {

constexpr std::size_t kPanelQueries = 48;  // a multiple of all vector widths and of kOutRows
constexpr std::size_t kGroupPanels = 4;    // panels that share one pass over the keys
constexpr std::size_t kKeyTile = 128;

constexpr std::size_t round_up(std::size_t n, std::size_t to) { return (n + to - 1) / to * to; }

struct AttentionTask {
    // float32 or bfloat16, depending on the kernel. Strides are in elements, from row to row; the
    // elements of a row are contiguous.
    const void *q, *k, *v;
    void* out;
    std::size_t q_stride, k_stride, v_stride, out_stride;
    std::size_t queries;  // at most kGroupPanels * kPanelQueries
    std::size_t keys, head_dim, value_dim;
    float scale;
    const std::uint8_t* key_mask;  // (keys) or null
    const float* key_bias;         // (keys) or null
    // Both or neither, in half-lives times ln 2: adds -|t_q - t_k| to the logits.
    const float *query_time, *key_time;
    float* lse;      // (queries) or null
    float* scratch;  // Kernels::scratch_*() floats, 64-byte aligned, zero before the first task
};

}  // namespace mosaicmem
