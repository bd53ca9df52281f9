// The kernel for any dimensions, and for float: one query per warp, and in each lane the logit of
// one of 32 keys. Simple rather than fast; the fast kernel is in attention_tiles.cu.
#include "cuda/attention/attention.hpp"
#include "cuda/attention/attention_logits.cuh"
#include "cuda/attention/attention_tiles.cuh"

namespace mosaicmem::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kDimsOfLane = kMostHeadDim / 32;

// Feature d of a row, rotated with its partner.
template <class T>
__device__ float turned(const T* row, const Rotation& rotation, std::size_t token, std::size_t dim,
                        bool interleaved, std::size_t d) {
    if (!rotation.cos) return to_float(row[d]);
    const std::size_t half = dim / 2, pair = interleaved ? d / 2 : d % half;
    const bool is_first = interleaved ? d % 2 == 0 : d < half;
    const std::size_t other = interleaved ? d ^ 1 : is_first ? d + half : d - half;
    const float c = rotation.cos[token * half + pair], s = rotation.sin[token * half + pair];
    const float x = to_float(row[d]), y = to_float(row[other]);
    return is_first ? x * c - y * s : y * s + x * c;
}

__device__ float warp_max(float x) {
    for (int bits = 16; bits > 0; bits /= 2) x = fmaxf(x, __shfl_xor_sync(kAllLanes, x, bits));
    return x;
}
__device__ float warp_sum(float x) {
    for (int bits = 16; bits > 0; bits /= 2) x += __shfl_xor_sync(kAllLanes, x, bits);
    return x;
}

template <class T>
__global__ void any_dims_kernel(AttentionShape shape, AttentionInput<T> in, T* out,
                                HeadStrides out_strides, float* lse) {
    const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    float* const q = reinterpret_cast<float*>(shared_memory()) + warp * (shape.head_dim + 32);
    float* const weights = q + shape.head_dim;
    const std::size_t query = static_cast<std::size_t>(blockIdx.x) * kWarps + warp;
    if (query >= shape.queries) return;  // the whole warp
    const std::size_t batch = blockIdx.z, head = blockIdx.y,
                      key_head = head / (shape.heads / shape.key_heads);
    const T* q_row = row_of(in.q, in.q_strides, batch, head, query);
    for (std::size_t d = lane; d < shape.head_dim; d += 32)
        q[d] = turned(q_row, in.query_rotation, query, shape.head_dim, in.interleaved, d);
    __syncwarp();
    const float query_time =
        in.key_time && shape.keys > 0 ? in_half_lives(in, in.query_time[query]) : 0.0f;

    float top = MOSAICMEM_MINUS_INFINITY, total = 0, sum[kDimsOfLane] = {};
    for (std::size_t first = 0; first < shape.keys; first += 32) {
        const std::size_t key = first + lane;
        float x = key_addend(in, shape.keys, batch, key);
        if (x != MOSAICMEM_MINUS_INFINITY) {
            const T* k = row_of(in.k, in.k_strides, batch, key_head, key);
            float product = 0;
            for (std::size_t d = 0; d < shape.head_dim; ++d)
                product =
                    fmaf(q[d], turned(k, in.key_rotation, key, shape.head_dim, in.interleaved, d),
                         product);
            x = fmaf(product, in.scale * kLog2e, x);
            if (in.key_time) x -= fabsf(query_time - in_half_lives(in, in.key_time[key]));
        }
        const float new_top = fmaxf(top, warp_max(x));
        const float base = new_top == MOSAICMEM_MINUS_INFINITY ? 0.0f : new_top;
        const float keep = exp2f(top - base), weight = exp2f(x - base);
        total = total * keep + warp_sum(weight);
        top = new_top;
        weights[lane] = weight;
        __syncwarp();
#pragma unroll
        for (int i = 0; i < kDimsOfLane; ++i) sum[i] *= keep;
        for (std::size_t j = 0; j < 32 && first + j < shape.keys; ++j) {
            if (weights[j] == 0.0f) continue;  // a masked key may hold anything, even NaN
            const T* v = row_of(in.v, in.v_strides, batch, key_head, first + j);
#pragma unroll
            for (int i = 0; i < kDimsOfLane; ++i) {
                const std::size_t d = lane + 32 * static_cast<std::size_t>(i);
                if (d < shape.value_dim) sum[i] = fmaf(weights[j], to_float(v[d]), sum[i]);
            }
        }
        __syncwarp();
    }
    const float share = total > 0 ? 1.0f / total : 0.0f;
    T* out_row = row_of(out, out_strides, batch, head, query);
#pragma unroll
    for (int i = 0; i < kDimsOfLane; ++i) {
        const std::size_t d = lane + 32 * static_cast<std::size_t>(i);
        if (d >= shape.value_dim) continue;
        Chunk<T, 1> value;
        value.x[0] = sum[i] * share;
        value.store(out_row + d);
    }
    if (lse && lane == 0) {
        lse[(batch * shape.heads + head) * shape.queries + query] =
            total > 0 ? kLn2 * top + logf(total) : MOSAICMEM_MINUS_INFINITY;
    }
}

template <class T>
__global__ void merge_kernel(PartialAttention<T> a, PartialAttention<T> b, std::size_t rows,
                             std::size_t value_dim, T* out, float* lse) {
    const std::size_t width = max(value_dim, std::size_t{1});
    const std::size_t index = thread_index(), row = index / width, d = index - row * width;
    if (row >= rows) return;
    const float top = fmaxf(a.lse[row], b.lse[row]);
    const bool none = top == MOSAICMEM_MINUS_INFINITY;
    const float of_a = none ? 0.0f : expf(a.lse[row] - top),
                of_b = none ? 0.0f : expf(b.lse[row] - top);
    const float total = of_a + of_b;
    if (d == 0) lse[row] = none ? MOSAICMEM_MINUS_INFINITY : top + logf(total);
    if (value_dim == 0) return;
    Chunk<T, 1> value;
    value.x[0] =
        none ? 0.0f : of_a / total * to_float(a.out[index]) + of_b / total * to_float(b.out[index]);
    value.store(out + index);
}

template <class T>
bool is_whole(const T* at, const HeadStrides& strides) {
    return are_aligned(at) && strides.batch % 8 == 0 && strides.head % 8 == 0 &&
           strides.token % 8 == 0;
}

}  // namespace

template <class T>
bool uses_tensor_cores(const AttentionShape& shape, const AttentionInput<T>& in, const T* out,
                       const HeadStrides& out_strides) {
    if constexpr (sizeof(T) != 2) return false;
    const bool tables = are_aligned(in.query_rotation.cos, in.query_rotation.sin,
                                    in.key_rotation.cos, in.key_rotation.sin);
    return shape.head_dim == shape.value_dim && (shape.head_dim == 64 || shape.head_dim == 128) &&
           tables && is_whole(in.q, in.q_strides) && is_whole(in.k, in.k_strides) &&
           is_whole(in.v, in.v_strides) && is_whole(out, out_strides);
}

template <class T>
void attention(const AttentionShape& shape, const AttentionInput<T>& in, T* out,
               const HeadStrides& out_strides, float* lse, const Stream& stream) {
    if constexpr (sizeof(T) == 2) {
        if (uses_tensor_cores(shape, in, out, out_strides)) {
            if (shape.head_dim == 64)
                return attention_on_tiles<T, 64>(shape, in, out, out_strides, lse, stream);
            return attention_on_tiles<T, 128>(shape, in, out, out_strides, lse, stream);
        }
    }
    const Shape launched{
        dim3(blocks("attention", shape.queries, kWarps), static_cast<unsigned>(shape.heads),
             static_cast<unsigned>(shape.batch)),
        dim3(32 * kWarps), kWarps * (shape.head_dim + 32) * sizeof(float)};
    launch("attention", any_dims_kernel<T>, launched, stream, shape, in, out, out_strides, lse);
}

template <class T>
void merge_attention(const PartialAttention<T>& a, const PartialAttention<T>& b, std::size_t rows,
                     std::size_t value_dim, T* out, float* lse, const Stream& stream) {
    launch("merge_attention", merge_kernel<T>,
           threads("merge_attention", rows * std::max<std::size_t>(value_dim, 1)), stream, a, b,
           rows, value_dim, out, lse);
}

#define MOSAICMEM_ATTENTION(T)                                                                 \
    template bool uses_tensor_cores(const AttentionShape&, const AttentionInput<T>&, const T*, \
                                    const HeadStrides&);                                       \
    template void attention(const AttentionShape&, const AttentionInput<T>&, T*,               \
                            const HeadStrides&, float*, const Stream&);                        \
    template void merge_attention(const PartialAttention<T>&, const PartialAttention<T>&,      \
                                  std::size_t, std::size_t, T*, float*, const Stream&);
MOSAICMEM_ATTENTION(float)
MOSAICMEM_ATTENTION(float16)
MOSAICMEM_ATTENTION(bfloat16)

}  // namespace mosaicmem::cuda
