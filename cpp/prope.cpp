#include "prope.hpp"

#include "parallel.hpp"
#include "simd.hpp"

namespace mosaicmem {
namespace {

template <class T>
MOSAICMEM_INLINE void multiply_blocks(const T* x, std::size_t blocks, const T* m, T* out) {
    for (std::size_t b = 0; b < blocks; ++b) {
        const T v0 = x[4 * b], v1 = x[4 * b + 1], v2 = x[4 * b + 2], v3 = x[4 * b + 3];
        for (int row = 0; row < 4; ++row) {
            out[4 * b + row] =
                m[4 * row] * v0 + m[4 * row + 1] * v1 + m[4 * row + 2] * v2 + m[4 * row + 3] * v3;
        }
    }
}

template <class T>
MOSAICMEM_INLINE void rotate_quarter(const T* x, std::size_t half, const T* cos, const T* sin,
                                     T sign, T* out) {
    for (std::size_t i = 0; i < half; ++i) {
        const T a = x[i], b = x[half + i], s = sign * sin[i];
        out[i] = a * cos[i] + b * s;
        out[half + i] = b * cos[i] - a * s;
    }
}

template <class T>
MOSAICMEM_INLINE void apply_token(const T* x, std::size_t dim, const T* matrix, const T* cos,
                                  const T* sin, T sign, T* out) {
    const std::size_t eighth = dim / 8, quarter = dim / 4, half = dim / 2;
    multiply_blocks(x, eighth, matrix, out);
    rotate_quarter(x + half, eighth, cos, sin, sign, out + half);
    rotate_quarter(x + half + quarter, eighth, cos + eighth, sin + eighth, sign,
                   out + half + quarter);
}

MOSAICMEM_CLONES
void token(const float* x, std::size_t dim, const float* matrix, const float* cos, const float* sin,
           float sign, float* out) {
    apply_token(x, dim, matrix, cos, sin, sign, out);
}

MOSAICMEM_CLONES
void token(const double* x, std::size_t dim, const double* matrix, const double* cos,
           const double* sin, double sign, double* out) {
    apply_token(x, dim, matrix, cos, sin, sign, out);
}

}  // namespace

template <class T>
void prope_apply(const T* x, std::size_t batch, std::size_t n, std::size_t dim, const T* matrices,
                 const std::int32_t* camera, const T* cos, const T* sin, bool inverse, T* out,
                 int num_threads) {
    const std::size_t quarter = dim / 4;
    parallel_for(
        batch * n, (1 << 17) / (dim + 1) + 1, num_threads, [&](std::size_t begin, std::size_t end) {
            for (std::size_t row = begin; row < end; ++row) {
                const std::size_t t = row % n;
                token(x + row * dim, dim, matrices + 16 * static_cast<std::size_t>(camera[t]),
                      cos + t * quarter, sin + t * quarter, inverse ? T(-1) : T(1),
                      out + row * dim);
            }
        });
}

template void prope_apply<float>(const float*, std::size_t, std::size_t, std::size_t, const float*,
                                 const std::int32_t*, const float*, const float*, bool, float*,
                                 int);
template void prope_apply<double>(const double*, std::size_t, std::size_t, std::size_t,
                                  const double*, const std::int32_t*, const double*, const double*,
                                  bool, double*, int);

}  // namespace mosaicmem
