#include "cpp/attention/prope.hpp"

#include <algorithm>
#include <type_traits>

#include "cpp/base/parallel.hpp"
#include "cpp/simd/levels.hpp"

namespace mosaicmem {
namespace {

void encode_tile(const HeadFeatures<float>& f, const CameraTask& task) {
    kernels().prope_float32(f, task);
}

void encode_tile(const HeadFeatures<std::uint16_t>& f, const CameraTask& task) {
    kernels().prope_bfloat16(f, task);
}

void multiply(const double* x, const MatrixRun& run, const CameraMatrices<double>& m,
              std::size_t camera, double* out) {
    const double* c = m.coefficient + (camera * m.groups + run.group) * 4 * m.period;
    for (std::size_t block = run.begin; block < run.end; block += 4 * m.spread) {
        for (std::size_t r = 0; r < m.spread; ++r) {
            double v[4];
            for (std::size_t j = 0; j < 4; ++j) v[j] = x[block + j * m.spread + r];
            for (std::size_t i = 0; i < 4; ++i) {
                const std::size_t e = block + i * m.spread + r;
                const double* of = c + (e - run.begin) % m.period;
                out[e] = of[0] * v[0] + of[m.period] * v[1] + of[2 * m.period] * v[2] +
                         of[3 * m.period] * v[3];
            }
        }
    }
}

// For gradients and references: precise, not fast.
void encode_row(const double* x, std::size_t dim, std::size_t t, const CameraMatrices<double>& m,
                const QuarterRotation<double>& turn, double* out) {
    std::size_t done = 0;
    for (const MatrixRun& run : m.runs) {
        multiply(x, run, m, static_cast<std::size_t>(m.camera[t]), out);
        done = run.end;
    }
    if (!turn.cos) {
        std::copy(x + done, x + dim, out + done);
        return;
    }
    const std::size_t quarter = dim / 4, n = dim / 8;
    for (std::size_t i = 0; i < quarter; ++i) {
        const std::size_t p = dim / 2 + (i < n ? i : quarter + i - n), q = p + n;
        const double a = x[p], b = x[q], c = turn.cos[t * quarter + i];
        const double s = turn.inverse ? -turn.sin[t * quarter + i] : turn.sin[t * quarter + i];
        out[p] = a * c + b * s;
        out[q] = b * c - a * s;
    }
}

// Whether everything that a kernel writes of a head is vector-aligned.
template <class F>
bool lies_at_vectors(std::size_t dim, const CameraMatrices<F>& matrices,
                     const QuarterRotation<F>& rotation) {
    return std::all_of(
               matrices.runs.begin(), matrices.runs.end(),
               [](const MatrixRun& run) { return at_vectors(run.begin) && at_vectors(run.end); }) &&
           (!rotation.cos || halves_at_vectors(dim / 8));
}

}  // namespace

template <class T, class F>
void prope_apply(const HeadFeatures<T>& f, const CameraMatrices<F>& matrices,
                 const QuarterRotation<F>& rotation, int num_threads) {
    const bool stream = !std::is_same_v<T, double> && should_stream(f) &&
                        lies_at_vectors(f.dim, matrices, rotation);
    const std::size_t tiles = (f.tokens + kTokenTile - 1) / kTokenTile;
    parallel_for(tiles, encode_grain(f), num_threads, [&](std::size_t begin, std::size_t end) {
        for (std::size_t tile = begin; tile < end; ++tile) {
            const std::size_t first = tile * kTokenTile;
            const std::size_t last = std::min(first + kTokenTile, f.tokens);
            if constexpr (std::is_same_v<T, double>) {
                for (std::size_t row = 0; row < f.batch * f.heads; ++row) {
                    for (std::size_t t = first; t < last; ++t) {
                        encode_row(row_of(f.x, f.x_strides, row / f.heads, row % f.heads, t), f.dim,
                                   t, matrices, rotation,
                                   row_of(f.out, f.out_strides, row / f.heads, row % f.heads, t));
                    }
                }
            } else {
                encode_tile(f, {first, last, matrices, rotation, stream});
            }
        }
        if (stream) kernels().end_streaming();
    });
}

template void prope_apply(const HeadFeatures<float>&, const CameraMatrices<float>&,
                          const QuarterRotation<float>&, int);
template void prope_apply(const HeadFeatures<std::uint16_t>&, const CameraMatrices<float>&,
                          const QuarterRotation<float>&, int);
template void prope_apply(const HeadFeatures<double>&, const CameraMatrices<double>&,
                          const QuarterRotation<double>&, int);

}  // namespace mosaicmem
