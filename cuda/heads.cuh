// How threads share the features of attention heads: a thread has one place in the head of one
// token, and goes through the heads, so that what belongs to the token (angles, matrices) is read
// once and stays in registers.
#pragma once

#include "heads.hpp"
#include "launch.cuh"
#include "number.cuh"

namespace mosaicmem::cuda {

constexpr std::size_t kHeadsOfThread = 8;

// Blocks for `units` threads a token.
template <class T>
Shape shape_of(const char* kernel, const HeadFeatures<T>& f, std::size_t units) {
    Shape shape = threads(kernel, f.tokens * units);
    shape.grid.y = static_cast<unsigned>(ceil_div(f.heads, kHeadsOfThread));
    shape.grid.z = static_cast<unsigned>(f.batch);
    return shape;
}

// Whether 16 bytes at a time can be read and written, everywhere.
template <class T>
bool are_rows_aligned(const HeadFeatures<T>& f) {
    const auto whole = [](const HeadStrides& s) {
        return (s.batch * sizeof(T)) % 16 == 0 && (s.head * sizeof(T)) % 16 == 0 &&
               (s.token * sizeof(T)) % 16 == 0;
    };
    return are_aligned(f.x, f.out) && whole(f.x_strides) && whole(f.out_strides);
}

// Calls visit(x, out) with the rows of a token in each of the thread's heads.
template <class T, class Visit>
__device__ __forceinline__ void for_each_head(const HeadFeatures<T>& f, std::size_t token,
                                              const Visit& visit) {
    const std::size_t first = blockIdx.y * kHeadsOfThread;
    const T* x =
        f.x + blockIdx.z * f.x_strides.batch + first * f.x_strides.head + token * f.x_strides.token;
    T* out = f.out + blockIdx.z * f.out_strides.batch + first * f.out_strides.head +
             token * f.out_strides.token;
    const std::size_t count = min(kHeadsOfThread, f.heads - first);
#pragma unroll 4
    for (std::size_t h = 0; h < count; ++h) {
        visit(x, out);
        x += f.x_strides.head;
        out += f.out_strides.head;
    }
}

}  // namespace mosaicmem::cuda
