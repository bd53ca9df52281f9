#include "cpp/attention/rope.hpp"

#include <algorithm>
#include <cmath>
#include <type_traits>
#include <vector>

#include "cpp/base/parallel.hpp"
#include "cpp/simd/levels.hpp"

namespace mosaicmem {
namespace {

void rotate_tile(const HeadFeatures<float>& f, const RotaryTask& task) {
    kernels().rope_float32(f, task);
}

void rotate_tile(const HeadFeatures<std::uint16_t>& f, const RotaryTask& task) {
    kernels().rope_bfloat16(f, task);
}

// For gradients and references: precise, not fast.
void rotate_tile(const HeadFeatures<double>& f, std::size_t first, std::size_t last,
                 const double* cos, const double* sin, Pairing pairing, double sign) {
    const std::size_t half = f.dim / 2;
    for (std::size_t row = 0; row < f.batch * f.heads; ++row) {
        for (std::size_t t = first; t < last; ++t) {
            const double* x = row_of(f.x, f.x_strides, row / f.heads, row % f.heads, t);
            double* out = row_of(f.out, f.out_strides, row / f.heads, row % f.heads, t);
            for (std::size_t i = 0; i < half; ++i) {
                const std::size_t p = pairing == Pairing::interleaved ? 2 * i : i;
                const std::size_t q = pairing == Pairing::interleaved ? 2 * i + 1 : half + i;
                const double a = x[p], b = x[q];
                const double c = cos[t * half + i], s = sign * sin[t * half + i];
                out[p] = a * c - b * s;
                out[q] = a * s + b * c;
            }
        }
    }
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

template <class T, class F>
void rope_apply(const HeadFeatures<T>& f, const F* cos, const F* sin, Pairing pairing, bool inverse,
                int num_threads) {
    const bool stream = !std::is_same_v<T, double> && should_stream(f) &&
                        (pairing == Pairing::interleaved || halves_at_vectors(f.dim / 2));
    const std::size_t tiles = (f.tokens + kTokenTile - 1) / kTokenTile;
    parallel_for(tiles, encode_grain(f), num_threads, [&](std::size_t begin, std::size_t end) {
        for (std::size_t tile = begin; tile < end; ++tile) {
            const std::size_t first = tile * kTokenTile;
            const std::size_t last = std::min(first + kTokenTile, f.tokens);
            if constexpr (std::is_same_v<T, double>) {
                rotate_tile(f, first, last, cos, sin, pairing, inverse ? -1.0 : 1.0);
            } else {
                rotate_tile(
                    f, {first, last, cos, sin, pairing == Pairing::interleaved, inverse, stream});
            }
        }
        if (stream) kernels().end_streaming();
    });
}

template void rope_apply(const HeadFeatures<float>&, const float*, const float*, Pairing, bool,
                         int);
template void rope_apply(const HeadFeatures<std::uint16_t>&, const float*, const float*, Pairing,
                         bool, int);
template void rope_apply(const HeadFeatures<double>&, const double*, const double*, Pairing, bool,
                         int);

}  // namespace mosaicmem
