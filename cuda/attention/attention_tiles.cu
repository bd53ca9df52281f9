// A block handles kQueries queries of one head, and loops over the keys, kKeys at a time. Keys of
// the next tile are copied while values are accumulated, values while logits are computed. A warp
// has 32 queries, so that each read of keys or values from shared memory feeds two products.
//
// Warped RoPE is applied to a tile of keys in shared memory by the thread that copied them there,
// together with their tokens' angles, before any other thread reads them.
#include "cuda/attention/attention_logits.cuh"
#include "cuda/attention/attention_tiles.cuh"
#include "cuda/base/ptx.cuh"

namespace mosaicmem::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kThreads = 32 * kWarps;
constexpr int kQueries = 128;  // = kThreads: one per thread in per-query steps
constexpr int kKeys = 64;
constexpr int kRowTiles = kQueries / kWarps / 16;  // tiles of 16 queries per warp
constexpr int kKeyTiles = kKeys / 8;

// A row of kDim features is cut into chunks of 8 (16 bytes). Chunk c of row r is stored at place
// c ^ (r % 8), so that the chunks c of eight rows lie in eight different places. A unit is two
// chunks half a row apart: features that rotate together under either pairing.
template <int kDim>
constexpr int kChunks = kDim / 8;
template <int kDim>
constexpr int kUnits = kChunks<kDim> / 2;

template <int kDim, class T>
__device__ __forceinline__ T* chunk_at(T* tile, int row, int chunk) {
    return tile + row * kDim + ((chunk ^ (row % 8)) * 8);
}

// The address at which a lane reads row `row` of a tile, of which it takes every other chunk from
// chunk 0 or 1 on: the one 2 i chunks later is at address ^ 32 i, since the length of a row is a
// power of two and rows are aligned to it.
template <int kDim, class T>
__device__ __forceinline__ SharedAddress lane_address(const T* tile, int row, int chunk) {
    return shared_address(chunk_at<kDim>(tile, row, chunk));
}

template <class T, int kDim>
struct SharedTiles {
    T *q, *k, *v;
    float *addend, *key_time, *query_time;
    float4* angles;  // four per unit: cos and sin of its first four pairs, then of the others

    static constexpr std::size_t bytes(bool turn_keys) {
        return sizeof(T) * kDim * (kQueries + 2 * kKeys) + sizeof(float) * (2 * kKeys + kQueries) +
               (turn_keys ? sizeof(float4) * 4 * kKeys * kUnits<kDim> : 0);
    }
    __device__ explicit SharedTiles(unsigned char* at)
        : q(reinterpret_cast<T*>(at)),
          k(q + kQueries * kDim),
          v(k + kKeys * kDim),
          addend(reinterpret_cast<float*>(v + kKeys * kDim)),
          key_time(addend + kKeys),
          query_time(key_time + kKeys),
          angles(reinterpret_cast<float4*>(query_time + kQueries)) {}
};

// The table entries of a unit's pairs: four from `first` on and four from `second` on. Interleaved,
// each chunk holds four pairs; in halves, the two chunks hold both sides of eight.
struct UnitPairs {
    int first, second;

    template <int kDim>
    __device__ static UnitPairs of(int unit, bool interleaved) {
        return interleaved ? UnitPairs{4 * unit, 4 * (unit + kUnits<kDim>)}
                           : UnitPairs{8 * unit, 8 * unit + 4};
    }
};

// Rotates the two chunks of a unit by angles[0..3]: cos, sin, cos, sin.
template <class T>
__device__ __forceinline__ void turn_unit(Chunk<T, 8>& low, Chunk<T, 8>& high,
                                          const float4 (&angles)[4], bool interleaved) {
    const float cos[8] = {angles[0].x, angles[0].y, angles[0].z, angles[0].w,
                          angles[2].x, angles[2].y, angles[2].z, angles[2].w};
    const float sin[8] = {angles[1].x, angles[1].y, angles[1].z, angles[1].w,
                          angles[3].x, angles[3].y, angles[3].z, angles[3].w};
    if (interleaved) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const float a = low.x[2 * i], b = low.x[2 * i + 1];
            low.x[2 * i] = fmaf(a, cos[i], -b * sin[i]);
            low.x[2 * i + 1] = fmaf(a, sin[i], b * cos[i]);
            const float c = high.x[2 * i], d = high.x[2 * i + 1];
            high.x[2 * i] = fmaf(c, cos[4 + i], -d * sin[4 + i]);
            high.x[2 * i + 1] = fmaf(c, sin[4 + i], d * cos[4 + i]);
        }
    } else {
#pragma unroll
        for (int i = 0; i < 8; ++i) {
            const float a = low.x[i], b = high.x[i];
            low.x[i] = fmaf(a, cos[i], -b * sin[i]);
            high.x[i] = fmaf(a, sin[i], b * cos[i]);
        }
    }
}

// Where this block works. Recomputed at each use: there are no registers to keep it in.
__device__ __forceinline__ unsigned first_query() { return blockIdx.x * kQueries; }

template <class T>
__device__ __forceinline__ T* head_of(T* x, const HeadStrides& strides, unsigned head) {
    return x + blockIdx.z * strides.batch + head * strides.head;
}

__device__ __forceinline__ unsigned key_head(const AttentionShape& shape) {
    return blockIdx.y / static_cast<unsigned>(shape.heads / shape.key_heads);
}

// Loads the queries, rotated, into shared memory; zeros beyond the last.
template <class T, int kDim>
__device__ void load_queries(const AttentionShape& shape, const AttentionInput<T>& in, T* tile) {
    const T* const q = head_of(in.q, in.q_strides, blockIdx.y);
#pragma unroll 4
    for (int i = threadIdx.x; i < kQueries * kUnits<kDim>; i += kThreads) {
        const int row = i / kUnits<kDim>, unit = i % kUnits<kDim>;
        const std::size_t query = first_query() + row;
        Chunk<T, 8> low{}, high{};
        if (query < shape.queries) {
            const T* from = q + query * in.q_strides.token;
            low = Chunk<T, 8>::load(from + 8 * unit);
            high = Chunk<T, 8>::load(from + 8 * (unit + kUnits<kDim>));
            if (in.query_rotation.cos) {
                const UnitPairs pairs = UnitPairs::of<kDim>(unit, in.interleaved);
                const auto read = [&](const float* table, int pair) {
                    return *reinterpret_cast<const float4*>(table + query * (kDim / 2) + pair);
                };
                const float4 angles[4] = {read(in.query_rotation.cos, pairs.first),
                                          read(in.query_rotation.sin, pairs.first),
                                          read(in.query_rotation.cos, pairs.second),
                                          read(in.query_rotation.sin, pairs.second)};
                turn_unit(low, high, angles, in.interleaved);
            }
        }
        low.store(chunk_at<kDim>(tile, row, unit));
        high.store(chunk_at<kDim>(tile, row, unit + kUnits<kDim>));
    }
}

// Starts copying the rows of keys or values from `first` on; zeros for masked keys, whatever they
// hold.
template <class T, int kDim>
__device__ __forceinline__ void begin_rows(const AttentionShape& shape, const AttentionInput<T>& in,
                                           const T* of_all, const HeadStrides& strides,
                                           unsigned first, T* tile) {
    const T* const rows = head_of(of_all, strides, key_head(shape));
#pragma unroll 1  // registers are full here
    for (int i = 0; i < kKeys * kUnits<kDim> / kThreads; ++i) {
        const int at = i * kThreads + static_cast<int>(threadIdx.x), row = at / kUnits<kDim>,
                  unit = at % kUnits<kDim>;
        const unsigned key = first + row;
        const bool given = key_addend(in, shape.keys, blockIdx.z, key) != MOSAICMEM_MINUS_INFINITY;
        const T* from = rows + (given ? key : 0) * strides.token;
        copy_async(chunk_at<kDim>(tile, row, unit), from + 8 * unit, given);
        copy_async(chunk_at<kDim>(tile, row, unit + kUnits<kDim>), from + 8 * (unit + kUnits<kDim>),
                   given);
    }
}

// Starts copying the angles of the units that this thread copies.
template <class T, int kDim>
__device__ __forceinline__ void begin_angles(const AttentionShape& shape,
                                             const AttentionInput<T>& in, unsigned first,
                                             float4* angles) {
    constexpr int kAll = kKeys * kUnits<kDim>;
#pragma unroll 1  // registers are full here
    for (int i = 0; i < kAll / kThreads; ++i) {
        const int at = i * kThreads + static_cast<int>(threadIdx.x), unit = at % kUnits<kDim>;
        const unsigned key = first + at / kUnits<kDim>;
        const bool given = key < shape.keys;
        const UnitPairs pairs = UnitPairs::of<kDim>(unit, in.interleaved);
        const std::size_t row = static_cast<std::size_t>(given ? key : 0) * (kDim / 2);
        copy_async(&angles[at], in.key_rotation.cos + row + pairs.first, given);
        copy_async(&angles[kAll + at], in.key_rotation.sin + row + pairs.first, given);
        copy_async(&angles[2 * kAll + at], in.key_rotation.cos + row + pairs.second, given);
        copy_async(&angles[3 * kAll + at], in.key_rotation.sin + row + pairs.second, given);
    }
}

// Rotates the keys that this thread copied.
template <class T, int kDim>
__device__ __forceinline__ void turn_keys(T* tile, const float4* angles, bool interleaved) {
    constexpr int kAll = kKeys * kUnits<kDim>;
#pragma unroll 1
    for (int i = 0; i < kAll / kThreads; ++i) {
        const int at = i * kThreads + static_cast<int>(threadIdx.x), row = at / kUnits<kDim>,
                  unit = at % kUnits<kDim>;
        T *low_at = chunk_at<kDim>(tile, row, unit),
          *high_at = chunk_at<kDim>(tile, row, unit + kUnits<kDim>);
        auto low = Chunk<T, 8>::load(low_at), high = Chunk<T, 8>::load(high_at);
        const float4 own[4] = {angles[at], angles[kAll + at], angles[2 * kAll + at],
                               angles[3 * kAll + at]};
        turn_unit(low, high, own, interleaved);
        low.store(low_at);
        high.store(high_at);
    }
}

// A thread's state for its queries: rows lane / 4 and lane / 4 + 8 of each row tile.
template <int kDim>
struct Softmax {
    float sum[kRowTiles][kDim / 8][4];  // of weighted values, in the tensor cores' layout
    float top[kRowTiles][2], weight[kRowTiles][2];

    __device__ Softmax() {
        for (int r = 0; r < kRowTiles; ++r) {
            for (int n = 0; n < kDim / 8; ++n) {
                for (int i = 0; i < 4; ++i) sum[r][n][i] = 0.0f;
            }
            for (int i = 0; i < 2; ++i) {
                top[r][i] = MOSAICMEM_MINUS_INFINITY;
                weight[r][i] = 0.0f;
            }
        }
    }
};

// q k^T of the warp's queries and a tile of keys.
template <class T, int kDim>
__device__ __forceinline__ void multiply_keys(const T* q, const T* k,
                                              float (&logit)[kRowTiles][kKeyTiles][4]) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
    for (int r = 0; r < kRowTiles; ++r) {
#pragma unroll
        for (int n = 0; n < kKeyTiles; ++n) {
#pragma unroll
            for (int i = 0; i < 4; ++i) logit[r][n][i] = 0.0f;
        }
    }
    constexpr int kRowBytes = kDim * sizeof(T);
    const SharedAddress q_at = lane_address<kDim>(q, 16 * kRowTiles * warp + lane % 16, lane / 16);
    const SharedAddress k_at = lane_address<kDim>(k, lane % 8 + 8 * (lane / 16), lane / 8 % 2);
#pragma unroll
    for (int depth = 0; depth < kDim / 16; ++depth) {
        unsigned a[kRowTiles][4];
#pragma unroll
        for (int r = 0; r < kRowTiles; ++r)
            load_matrices(a[r], (q_at ^ (32 * depth)) + 16 * r * kRowBytes);
#pragma unroll
        for (int n = 0; n < kKeyTiles; n += 2) {
            unsigned b[4];
            load_matrices(b, (k_at ^ (32 * depth)) + 8 * n * kRowBytes);
#pragma unroll
            for (int r = 0; r < kRowTiles; ++r) {
                multiply_add<T>(logit[r][n], a[r], b[0], b[1]);
                multiply_add<T>(logit[r][n + 1], a[r], b[2], b[3]);
            }
        }
    }
}

// Turns products into logits and logits into weights; rescales earlier sums to the new maximum.
template <int kDim>
__device__ __forceinline__ void weigh(float (&logit)[kRowTiles][kKeyTiles][4], const float* addend,
                                      const float* key_time, const float* query_time, float scale,
                                      Softmax<kDim>& state) {
    const int column = 2 * (threadIdx.x % 4);
    const int first_row = 16 * kRowTiles * (threadIdx.x / 32) + threadIdx.x % 32 / 4;
#pragma unroll
    for (int r = 0; r < kRowTiles; ++r) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            float top = state.top[r][half];
            const float own_time = key_time ? query_time[first_row + 16 * r + 8 * half] : 0.0f;
#pragma unroll
            for (int n = 0; n < kKeyTiles; ++n) {
#pragma unroll
                for (int i = 0; i < 2; ++i) {
                    const int key = 8 * n + column + i;
                    float& x = logit[r][n][2 * half + i];
                    x = fmaf(x, scale, addend[key]);
                    if (key_time) x -= fabsf(own_time - key_time[key]);
                    top = fmaxf(top, x);
                }
            }
            top = fmaxf(top, __shfl_xor_sync(kAllLanes, top, 1));
            top = fmaxf(top, __shfl_xor_sync(kAllLanes, top, 2));
            const float base = top == MOSAICMEM_MINUS_INFINITY ? 0.0f : top;
            const float keep = exp2_fast(state.top[r][half] - base);
            float weight = state.weight[r][half] * keep;
#pragma unroll
            for (int n = 0; n < kKeyTiles; ++n) {
#pragma unroll
                for (int i = 0; i < 2; ++i) {
                    float& x = logit[r][n][2 * half + i];
                    x = exp2_fast(x - base);
                    weight += x;
                }
            }
#pragma unroll
            for (int n = 0; n < kDim / 8; ++n) {
                state.sum[r][n][2 * half] *= keep;
                state.sum[r][n][2 * half + 1] *= keep;
            }
            state.top[r][half] = top;
            state.weight[r][half] = weight;
        }
    }
}

// Adds the values of a tile, weighted.
template <class T, int kDim>
__device__ __forceinline__ void add_values(const float (&weight)[kRowTiles][kKeyTiles][4],
                                           const T* v, Softmax<kDim>& state) {
    const int lane = threadIdx.x % 32;
    constexpr int kRowBytes = kDim * sizeof(T);
    const SharedAddress v_at = lane_address<kDim>(v, lane % 16, lane / 16);
#pragma unroll
    for (int depth = 0; depth < kKeys / 16; ++depth) {
        unsigned a[kRowTiles][4];
#pragma unroll
        for (int r = 0; r < kRowTiles; ++r) {
            const auto &left = weight[r][2 * depth], &right = weight[r][2 * depth + 1];
            a[r][0] = pack<T>(left[0], left[1]);
            a[r][1] = pack<T>(left[2], left[3]);
            a[r][2] = pack<T>(right[0], right[1]);
            a[r][3] = pack<T>(right[2], right[3]);
        }
#pragma unroll
        for (int n = 0; n < kDim / 8; n += 2) {
            unsigned b[4];
            load_matrices_transposed(b, (v_at ^ (16 * n)) + 16 * depth * kRowBytes);
#pragma unroll
            for (int r = 0; r < kRowTiles; ++r) {
                multiply_add<T>(state.sum[r][n], a[r], b[0], b[1]);
                multiply_add<T>(state.sum[r][n + 1], a[r], b[2], b[3]);
            }
        }
    }
}

// Normalises and writes the warp's queries through `tile`, in rows that no other warp reads.
template <class T, int kDim>
__device__ __forceinline__ void finish(Softmax<kDim>& state, const AttentionShape& shape,
                                       T* out_all, const HeadStrides& strides, float* lse,
                                       T* tile) {
    T* const out = head_of(out_all, strides, blockIdx.y);
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int first_row = 16 * kRowTiles * warp;
#pragma unroll
    for (int r = 0; r < kRowTiles; ++r) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            float weight = state.weight[r][half];
            weight += __shfl_xor_sync(kAllLanes, weight, 1);
            weight += __shfl_xor_sync(kAllLanes, weight, 2);
            const float share = weight > 0 ? 1.0f / weight : 0.0f;
            const int row = first_row + 16 * r + 8 * half + lane / 4;
#pragma unroll
            for (int n = 0; n < kDim / 8; ++n) {
                unsigned* to = reinterpret_cast<unsigned*>(chunk_at<kDim>(tile, row, n)) + lane % 4;
                *to = pack<T>(state.sum[r][n][2 * half] * share,
                              state.sum[r][n][2 * half + 1] * share);
            }
            if (lse && lane % 4 == 0 && first_query() + row < shape.queries) {
                lse[(blockIdx.z * shape.heads + blockIdx.y) * shape.queries + first_query() + row] =
                    weight > 0 ? kLn2 * state.top[r][half] + logf(weight)
                               : MOSAICMEM_MINUS_INFINITY;
            }
        }
    }
    __syncwarp();
    for (int i = lane; i < 16 * kRowTiles * kChunks<kDim>; i += 32) {
        const int row = first_row + i / kChunks<kDim>, chunk = i % kChunks<kDim>;
        const std::size_t query = first_query() + row;
        if (query >= shape.queries) continue;
        *reinterpret_cast<uint4*>(out + query * strides.token + 8 * chunk) =
            *reinterpret_cast<const uint4*>(chunk_at<kDim>(tile, row, chunk));
    }
}

template <class T, int kDim, bool kTurnKeys>
__global__ void __launch_bounds__(kThreads, 2)
    tiles_kernel(AttentionShape shape, AttentionInput<T> in, T* out, HeadStrides out_strides,
                 float* lse) {
    const SharedTiles<T, kDim> shared(shared_memory());
    const auto begin_keys = [&](unsigned first) {
        begin_rows<T, kDim>(shape, in, in.k, in.k_strides, first, shared.k);
        if constexpr (kTurnKeys) begin_angles<T, kDim>(shape, in, first, shared.angles);
        commit_copies();
    };
    if (shape.keys > 0) begin_keys(0);
    if (shape.keys > 0) load_queries<T, kDim>(shape, in, shared.q);

    Softmax<kDim> state;
    const bool decays = in.key_time && shape.keys > 0;
    if (decays) {
        const std::size_t query = min(first_query() + std::size_t{threadIdx.x}, shape.queries - 1);
        shared.query_time[threadIdx.x] = in_half_lives(in, in.query_time[query]);
    }
    for (unsigned first = 0; first < shape.keys; first += kKeys) {
        wait_copies<0>();
        if constexpr (kTurnKeys) turn_keys<T, kDim>(shared.k, shared.angles, in.interleaved);
        if (threadIdx.x < kKeys) {
            const std::size_t key = first + threadIdx.x;
            shared.addend[threadIdx.x] = key_addend(in, shape.keys, blockIdx.z, key);
            if (decays)
                shared.key_time[threadIdx.x] =
                    in_half_lives(in, in.key_time[min(key, shape.keys - 1)]);
        }
        __syncthreads();  // keys have arrived, and the previous values have been read
        begin_rows<T, kDim>(shape, in, in.v, in.v_strides, first, shared.v);
        commit_copies();
        float logit[kRowTiles][kKeyTiles][4];
        multiply_keys<T, kDim>(shared.q, shared.k, logit);
        weigh(logit, shared.addend, decays ? shared.key_time : nullptr, shared.query_time,
              in.scale * kLog2e, state);
        wait_copies<0>();
        __syncthreads();  // values have arrived, and the keys have been read
        if (first + kKeys < shape.keys) begin_keys(first + kKeys);
        add_values(logit, shared.v, state);
    }
    finish(state, shape, out, out_strides, lse, shared.q);
}

}  // namespace

template <class T, int kDim>
void attention_on_tiles(const AttentionShape& shape, const AttentionInput<T>& input, T* out,
                        const HeadStrides& out_strides, float* lse, const Stream& stream) {
    const bool turn_keys = input.key_rotation.cos != nullptr;
    const Shape launched{
        dim3(blocks("attention", shape.queries, kQueries), static_cast<unsigned>(shape.heads),
             static_cast<unsigned>(shape.batch)),
        dim3(kThreads), SharedTiles<T, kDim>::bytes(turn_keys)};
    launch("attention", turn_keys ? tiles_kernel<T, kDim, true> : tiles_kernel<T, kDim, false>,
           launched, stream, shape, input, out, out_strides, lse);
}

template void attention_on_tiles<float16, 64>(const AttentionShape&, const AttentionInput<float16>&,
                                              float16*, const HeadStrides&, float*, const Stream&);
template void attention_on_tiles<float16, 128>(const AttentionShape&,
                                               const AttentionInput<float16>&, float16*,
                                               const HeadStrides&, float*, const Stream&);
template void attention_on_tiles<bfloat16, 64>(const AttentionShape&,
                                               const AttentionInput<bfloat16>&, bfloat16*,
                                               const HeadStrides&, float*, const Stream&);
template void attention_on_tiles<bfloat16, 128>(const AttentionShape&,
                                                const AttentionInput<bfloat16>&, bfloat16*,
                                                const HeadStrides&, float*, const Stream&);

}  // namespace mosaicmem::cuda
