// How threads share the features of attention heads: a thread handles one place in a token's heads
// and loops over the heads, so that per-token data (angles, matrices) is read once and stays in
// registers.
#pragma once

#include "cpp/base/heads.hpp"
#include "cuda/base/launch.cuh"
#include "cuda/base/number.cuh"

namespace mosaicmem::cuda {

constexpr std::size_t kHeadsOfThread = 8;

// Launch shape for `units` threads per token.
template <class T>
Shape shape_of(const char* kernel, const HeadFeatures<T>& f, std::size_t units) {
    Shape shape = threads(kernel, f.tokens * units);
    shape.grid.y = static_cast<unsigned>(ceil_div(f.heads, kHeadsOfThread));
    shape.grid.z = static_cast<unsigned>(f.batch);
    return shape;
}

// Whether all rows can be read and written 16 bytes at a time.
template <class T>
bool are_rows_aligned(const HeadFeatures<T>& f) {
    const auto whole = [](const HeadStrides& s) {
        return (s.batch * sizeof(T)) % 16 == 0 && (s.head * sizeof(T)) % 16 == 0 &&
               (s.token * sizeof(T)) % 16 == 0;
    };
    return are_aligned(f.x, f.out) && whole(f.x_strides) && whole(f.out_strides);
}

// For each of the thread's heads, calls read(row of x), then write(what it returned, row of out).
// kAhead heads are read before any is written, to keep memory busy; out may be x, since a thread
// reads nothing that another one writes.
template <int kAhead, class T, class Read, class Write>
__device__ __forceinline__ void for_each_head(const HeadFeatures<T>& f, std::size_t token,
                                              const Read& read, const Write& write) {
    const std::size_t first = blockIdx.y * kHeadsOfThread;
    const T* x =
        f.x + blockIdx.z * f.x_strides.batch + first * f.x_strides.head + token * f.x_strides.token;
    T* out = f.out + blockIdx.z * f.out_strides.batch + first * f.out_strides.head +
             token * f.out_strides.token;
    const std::size_t count = min(kHeadsOfThread, f.heads - first);
    for (std::size_t h = 0; h < count; h += kAhead) {
        decltype(read(x)) rows[kAhead];
#pragma unroll
        for (std::size_t i = 0; i < kAhead; ++i) {
            if (h + i < count) rows[i] = read(x + i * f.x_strides.head);
        }
#pragma unroll
        for (std::size_t i = 0; i < kAhead; ++i) {
            if (h + i < count) write(rows[i], out + i * f.out_strides.head);
        }
        x += kAhead * f.x_strides.head;
        out += kAhead * f.out_strides.head;
    }
}

}  // namespace mosaicmem::cuda
