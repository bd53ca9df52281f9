#include "cuda/attention/heads.cuh"
#include "cuda/attention/rope.hpp"

namespace mosaicmem::cuda {
namespace {

template <class F>
__global__ void rope_table_kernel(const double* positions, std::size_t n, AxisDims axis_dims,
                                  std::size_t pairs, double theta, F* cos, F* sin) {
    const std::size_t index = thread_index(), token = index / pairs;
    if (token >= n) return;
    std::size_t i = index % pairs, axis = 0;
    while (i >= axis_dims.dims[axis] / 2) i -= axis_dims.dims[axis++] / 2;
    const double exponent = static_cast<double>(2 * i) / static_cast<double>(axis_dims.dims[axis]);
    const double angle = positions[token * axis_dims.axes + axis] * (1.0 / pow(theta, exponent));
    cos[index] = static_cast<F>(::cos(angle));
    sin[index] = static_cast<F>(::sin(angle));
}

// kPairs pairs of a token per thread: 2 * kPairs neighbouring features if interleaved, else kPairs
// neighbours in each half.
template <class T, class F, int kPairs, bool kInterleaved>
__global__ void rope_kernel(HeadFeatures<T> f, const F* cos, const F* sin, bool inverse) {
    const std::size_t half = f.dim / 2, units = half / kPairs;
    const std::size_t index = thread_index(), token = index / units;
    if (token >= f.tokens) return;
    const std::size_t pair = (index - token * units) * kPairs;
    F c[kPairs], s[kPairs];
#pragma unroll
    for (int i = 0; i < kPairs; ++i) {
        c[i] = cos[token * half + pair + i];
        s[i] = inverse ? -sin[token * half + pair + i] : sin[token * half + pair + i];
    }
    if constexpr (kInterleaved) {
        using Both = Chunk<T, 2 * kPairs>;
        for_each_head<4>(
            f, token, [&](const T* x) { return Both::read(x + 2 * pair); },
            [&](const typename Both::Raw& raw, T* out) {
                auto both = Both::of(raw);
#pragma unroll
                for (int i = 0; i < kPairs; ++i) {
                    const F a = both.x[2 * i], b = both.x[2 * i + 1];
                    both.x[2 * i] = a * c[i] - b * s[i];
                    both.x[2 * i + 1] = a * s[i] + b * c[i];
                }
                both.write(out + 2 * pair);
            });
    } else {
        using Part = Chunk<T, kPairs>;
        struct Halves {
            typename Part::Raw low, high;
        };
        for_each_head<4>(
            f, token,
            [&](const T* x) { return Halves{Part::read(x + pair), Part::read(x + half + pair)}; },
            [&](const Halves& halves, T* out) {
                auto low = Part::of(halves.low), high = Part::of(halves.high);
#pragma unroll
                for (int i = 0; i < kPairs; ++i) {
                    const F a = low.x[i], b = high.x[i];
                    low.x[i] = a * c[i] - b * s[i];
                    high.x[i] = a * s[i] + b * c[i];
                }
                low.write(out + pair);
                high.write(out + half + pair);
            });
    }
}

// One pair per thread: for features that are not 16-byte aligned.
template <class T, class F>
__global__ void rope_pair_kernel(HeadFeatures<T> f, const F* cos, const F* sin, bool interleaved,
                                 bool inverse) {
    const std::size_t half = f.dim / 2;
    const std::size_t index = thread_index(), token = index / half;
    if (token >= f.tokens) return;
    const std::size_t i = index - token * half;
    const std::size_t p = interleaved ? 2 * i : i, q = interleaved ? p + 1 : half + i;
    const F c = cos[index], s = inverse ? -sin[index] : sin[index];
    using One = Chunk<T, 1>;
    struct Pair {
        typename One::Raw first, second;
    };
    for_each_head<4>(
        f, token, [&](const T* x) { return Pair{One::read(x + p), One::read(x + q)}; },
        [&](const Pair& raw, T* out) {
            auto a = One::of(raw.first), b = One::of(raw.second);
            const F first = a.x[0], second = b.x[0];
            a.x[0] = first * c - second * s;
            b.x[0] = first * s + second * c;
            a.write(out + p);
            b.write(out + q);
        });
}

}  // namespace

template <class F>
void rope_table(const double* positions, std::size_t n, const AxisDims& axis_dims, double theta,
                F* cos, F* sin, const Stream& stream) {
    std::size_t pairs = 0;
    for (std::size_t axis = 0; axis < axis_dims.axes; ++axis) pairs += axis_dims.dims[axis] / 2;
    if (pairs == 0) return;
    launch("rope_table", rope_table_kernel<F>, threads("rope_table", n * pairs), stream, positions,
           n, axis_dims, pairs, theta, cos, sin);
}

template <class T, class F>
void rope_apply(const HeadFeatures<T>& f, const F* cos, const F* sin, bool interleaved,
                bool inverse, const Stream& stream) {
    if (f.dim == 0) return;
    const std::size_t half = f.dim / 2;
    constexpr int kNeighbours = kWidth<T> / 2;
    if (interleaved && half % kNeighbours == 0 && are_rows_aligned(f)) {
        launch("rope_apply", rope_kernel<T, F, kNeighbours, true>,
               shape_of("rope_apply", f, half / kNeighbours), stream, f, cos, sin, inverse);
    } else if (!interleaved && half % kWidth<T> == 0 && are_rows_aligned(f)) {
        launch("rope_apply", rope_kernel<T, F, kWidth<T>, false>,
               shape_of("rope_apply", f, half / kWidth<T>), stream, f, cos, sin, inverse);
    } else {
        launch("rope_apply", rope_pair_kernel<T, F>, shape_of("rope_apply", f, half), stream, f,
               cos, sin, interleaved, inverse);
    }
}

template void rope_table(const double*, std::size_t, const AxisDims&, double, float*, float*,
                         const Stream&);
template void rope_table(const double*, std::size_t, const AxisDims&, double, double*, double*,
                         const Stream&);
template void rope_apply(const HeadFeatures<float>&, const float*, const float*, bool, bool,
                         const Stream&);
template void rope_apply(const HeadFeatures<float16>&, const float*, const float*, bool, bool,
                         const Stream&);
template void rope_apply(const HeadFeatures<bfloat16>&, const float*, const float*, bool, bool,
                         const Stream&);
template void rope_apply(const HeadFeatures<double>&, const double*, const double*, bool, bool,
                         const Stream&);

}  // namespace mosaicmem::cuda
