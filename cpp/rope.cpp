#include "rope.hpp"

#include <cmath>
#include <vector>

#include "parallel.hpp"
#include "simd.hpp"

namespace mosaicmem {
namespace {

template <class T>
MOSAICMEM_INLINE void rotate_interleaved(const T* x, std::size_t half, const T* cos, const T* sin,
                                         T sign, T* out) {
    for (std::size_t i = 0; i < half; ++i) {
        const T a = x[2 * i], b = x[2 * i + 1], s = sign * sin[i];
        out[2 * i] = a * cos[i] - b * s;
        out[2 * i + 1] = a * s + b * cos[i];
    }
}

template <class T>
MOSAICMEM_INLINE void rotate_split_half(const T* x, std::size_t half, const T* cos, const T* sin,
                                        T sign, T* out) {
    for (std::size_t i = 0; i < half; ++i) {
        const T a = x[i], b = x[half + i], s = sign * sin[i];
        out[i] = a * cos[i] - b * s;
        out[half + i] = a * s + b * cos[i];
    }
}

template <class T>
MOSAICMEM_INLINE void rotate_rows(const T* x, std::size_t rows, std::size_t dim, const T* cos,
                                  const T* sin, Pairing pairing, T sign, T* out) {
    const std::size_t half = dim / 2;
    for (std::size_t r = 0; r < rows; ++r) {
        if (pairing == Pairing::interleaved) {
            rotate_interleaved(x + r * dim, half, cos + r * half, sin + r * half, sign,
                               out + r * dim);
        } else {
            rotate_split_half(x + r * dim, half, cos + r * half, sin + r * half, sign,
                              out + r * dim);
        }
    }
}

MOSAICMEM_CLONES
void rotate(const float* x, std::size_t rows, std::size_t dim, const float* cos, const float* sin,
            Pairing pairing, float sign, float* out) {
    rotate_rows(x, rows, dim, cos, sin, pairing, sign, out);
}

MOSAICMEM_CLONES
void rotate(const double* x, std::size_t rows, std::size_t dim, const double* cos,
            const double* sin, Pairing pairing, double sign, double* out) {
    rotate_rows(x, rows, dim, cos, sin, pairing, sign, out);
}

}  // namespace

void rope_table(const double* positions, std::size_t n, std::span<const std::size_t> axis_dims,
                double theta, double* cos, double* sin, int num_threads) {
    std::vector<double> frequency;
    std::vector<std::size_t> axis_of_pair;
    for (std::size_t axis = 0; axis < axis_dims.size(); ++axis) {
        for (std::size_t i = 0; i < axis_dims[axis] / 2; ++i) {
            frequency.push_back(1.0 / std::pow(theta, static_cast<double>(2 * i) /
                                                          static_cast<double>(axis_dims[axis])));
            axis_of_pair.push_back(axis);
        }
    }
    const std::size_t pairs = frequency.size();
    parallel_for(n, 4096 / (pairs + 1) + 1, num_threads, [&](std::size_t begin, std::size_t end) {
        for (std::size_t token = begin; token < end; ++token) {
            for (std::size_t i = 0; i < pairs; ++i) {
                const double angle =
                    positions[token * axis_dims.size() + axis_of_pair[i]] * frequency[i];
                cos[token * pairs + i] = std::cos(angle);
                sin[token * pairs + i] = std::sin(angle);
            }
        }
    });
}

template <class T>
void rope_apply(const T* x, std::size_t batch, std::size_t n, std::size_t dim, const T* cos,
                const T* sin, Pairing pairing, bool inverse, T* out, int num_threads) {
    // Cut by tokens, so that a chunk meets its part of the tables once and keeps it in cache for
    // the whole batch.
    constexpr std::size_t kTileTokens = 32;
    const std::size_t tiles = (n + kTileTokens - 1) / kTileTokens;
    const std::size_t grain = (1 << 17) / (batch * kTileTokens * dim + 1) + 1;
    parallel_for(tiles, grain, num_threads, [&](std::size_t begin, std::size_t end) {
        for (std::size_t tile = begin; tile < end; ++tile) {
            const std::size_t first = tile * kTileTokens;
            const std::size_t count = first + kTileTokens <= n ? kTileTokens : n - first;
            for (std::size_t b = 0; b < batch; ++b) {
                const std::size_t at = (b * n + first) * dim;
                rotate(x + at, count, dim, cos + first * dim / 2, sin + first * dim / 2, pairing,
                       inverse ? T(-1) : T(1), out + at);
            }
        }
    });
}

template void rope_apply<float>(const float*, std::size_t, std::size_t, std::size_t, const float*,
                                const float*, Pairing, bool, float*, int);
template void rope_apply<double>(const double*, std::size_t, std::size_t, std::size_t,
                                 const double*, const double*, Pairing, bool, double*, int);

}  // namespace mosaicmem
