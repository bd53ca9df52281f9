#include "cuda/attention/heads.cuh"
#include "cuda/attention/prope.hpp"

namespace mosaicmem::cuda {
namespace {

// Multiplies one unit of kFeatures features, which holds whole groups of kSpread four-vectors.
template <class T, class F, int kFeatures, int kSpread>
__device__ void multiply(const HeadFeatures<T>& f, const CameraMatrices<F>& m, std::size_t token,
                         unsigned first) {
    constexpr int kOfChunk = kWidth<T>, kChunks = kFeatures / kOfChunk;
    unsigned run = 0;
    while (first >= m.runs[run].end) ++run;
    const F* c =
        m.coefficient +
        (static_cast<std::size_t>(m.camera[token]) * m.groups + m.runs[run].group) * 4 * m.period;
    F of[4][kFeatures];
#pragma unroll
    for (int j = 0; j < 4; ++j) {
#pragma unroll
        for (int e = 0; e < kFeatures; ++e)
            of[j][e] = c[j * m.period + (first - m.runs[run].begin + e) % m.period];
    }
    using Part = Chunk<T, kOfChunk>;
    struct Row {
        typename Part::Raw parts[kChunks];
    };
    for_each_head<2>(
        f, token,
        [&](const T* x) {
            Row row;
#pragma unroll
            for (int chunk = 0; chunk < kChunks; ++chunk)
                row.parts[chunk] = Part::read(x + first + chunk * kOfChunk);
            return row;
        },
        [&](const Row& row, T* out) {
            F in[kFeatures];
#pragma unroll
            for (int chunk = 0; chunk < kChunks; ++chunk) {
                const auto part = Part::of(row.parts[chunk]);
#pragma unroll
                for (int e = 0; e < kOfChunk; ++e) in[chunk * kOfChunk + e] = part.x[e];
            }
#pragma unroll
            for (int chunk = 0; chunk < kChunks; ++chunk) {
                Part part;
#pragma unroll
                for (int i = 0; i < kOfChunk; ++i) {
                    const int e = chunk * kOfChunk + i, block = e - e % (4 * kSpread),
                              r = e % kSpread;
                    part.x[i] = of[0][e] * in[block + r] + of[1][e] * in[block + kSpread + r] +
                                of[2][e] * in[block + 2 * kSpread + r] +
                                of[3][e] * in[block + 3 * kSpread + r];
                }
                part.write(out + first + chunk * kOfChunk);
            }
        });
}

// Rotates kPairs split-half pairs of one quarter: (a, b) -> (a cos + b sin, b cos - a sin).
template <class T, class F, int kPairs>
__device__ void turn(const HeadFeatures<T>& f, const QuarterRotation<F>& rotation,
                     std::size_t token, unsigned pair) {
    const unsigned quarter = static_cast<unsigned>(f.dim / 4), n = quarter / 2;
    const unsigned low = 2 * quarter + (pair < n ? pair : quarter + pair - n);
    F c[kPairs], s[kPairs];
#pragma unroll
    for (int i = 0; i < kPairs; ++i) {
        c[i] = rotation.cos[token * quarter + pair + i];
        s[i] = rotation.inverse ? -rotation.sin[token * quarter + pair + i]
                                : rotation.sin[token * quarter + pair + i];
    }
    using Part = Chunk<T, kPairs>;
    struct Sides {
        typename Part::Raw a, b;
    };
    for_each_head<4>(
        f, token, [&](const T* x) { return Sides{Part::read(x + low), Part::read(x + low + n)}; },
        [&](const Sides& sides, T* out) {
            auto a = Part::of(sides.a), b = Part::of(sides.b);
#pragma unroll
            for (int i = 0; i < kPairs; ++i) {
                const F first = a.x[i], second = b.x[i];
                a.x[i] = first * c[i] + second * s[i];
                b.x[i] = second * c[i] - first * s[i];
            }
            a.write(out + low);
            b.write(out + low + n);
        });
}

// Threads per token: for the matrices, for the rotation, and to copy features that neither touches.
struct Units {
    unsigned matrices, rotations, copies;
    unsigned features;  // covered by matrices, before the rest

    __host__ __device__ unsigned count() const { return matrices + rotations + copies; }
};

template <class T, class F, int kFeatures, int kSpread, int kPairs>
__global__ void prope_kernel(HeadFeatures<T> f, CameraMatrices<F> m, QuarterRotation<F> rotation,
                             Units units) {
    const std::size_t index = thread_index(), token = index / units.count();
    if (token >= f.tokens) return;
    const unsigned unit = static_cast<unsigned>(index - token * units.count());
    if (unit < units.matrices) {
        multiply<T, F, kFeatures, kSpread>(f, m, token, unit * kFeatures);
    } else if (unit < units.matrices + units.rotations) {
        turn<T, F, kPairs>(f, rotation, token, (unit - units.matrices) * kPairs);
    } else {
        const unsigned first = units.features + (unit - units.matrices - units.rotations) * kPairs;
        using Part = Chunk<T, kPairs>;
        for_each_head<4>(
            f, token, [&](const T* x) { return Part::read(x + first); },
            [&](const typename Part::Raw& raw, T* out) { Part::of(raw).write(out + first); });
    }
}

// Any spread: one four-vector per thread, feature by feature.
template <class T, class F>
__global__ void prope_far_kernel(HeadFeatures<T> f, CameraMatrices<F> m) {
    const unsigned spread = static_cast<unsigned>(m.spread), features = m.runs[m.run_count - 1].end;
    const std::size_t vectors = features / 4, index = thread_index(), token = index / vectors;
    if (token >= f.tokens) return;
    const unsigned vector = static_cast<unsigned>(index - token * vectors);
    const unsigned first = vector / spread * 4 * spread + vector % spread;  // of its component 0
    unsigned run = 0;
    while (first >= m.runs[run].end) ++run;
    const F* c =
        m.coefficient +
        (static_cast<std::size_t>(m.camera[token]) * m.groups + m.runs[run].group) * 4 * m.period;
    using One = Chunk<T, 1>;
    struct Vector {
        typename One::Raw of[4];
    };
    for_each_head<2>(
        f, token,
        [&](const T* x) {
            Vector vector;
            for (unsigned j = 0; j < 4; ++j) vector.of[j] = One::read(x + first + j * spread);
            return vector;
        },
        [&](const Vector& vector, T* out) {
            F in[4];
            for (unsigned j = 0; j < 4; ++j) in[j] = One::of(vector.of[j]).x[0];
            for (unsigned i = 0; i < 4; ++i) {
                const unsigned e = first + i * spread;
                const F* of = c + (e - m.runs[run].begin) % m.period;
                One value;
                value.x[0] = of[0] * in[0] + of[m.period] * in[1] + of[2 * m.period] * in[2] +
                             of[3 * m.period] * in[3];
                value.write(out + e);
            }
        });
}

}  // namespace

template <class T, class F>
void prope_apply(const HeadFeatures<T>& f, const CameraMatrices<F>& m,
                 const QuarterRotation<F>& rotation, const Stream& stream) {
    if (f.dim == 0) return;
    const auto dim = static_cast<unsigned>(f.dim);
    const unsigned matrices = m.run_count == 0 ? 0 : m.runs[m.run_count - 1].end;
    const unsigned pairs = rotation.cos ? dim / 4 : 0;
    const unsigned rest = dim - matrices - 2 * pairs;
    constexpr int kWhole = kWidth<T>;
    const auto with = [&]<int kFeatures, int kSpread, int kPairs>() {
        const Units units{matrices / kFeatures, pairs / kPairs, rest / kPairs, matrices};
        launch("prope_apply", prope_kernel<T, F, kFeatures, kSpread, kPairs>,
               shape_of("prope_apply", f, units.count()), stream, f, m, rotation, units);
    };
    bool whole_runs = are_rows_aligned(f) && (pairs / 2) % kWhole == 0 && rest % kWhole == 0;
    for (unsigned i = 0; i < m.run_count; ++i) {
        whole_runs = whole_runs && m.runs[i].begin % 16 == 0 && m.runs[i].end % 16 == 0;
    }
    if (m.spread == 1 && whole_runs) {
        with.template operator()<(kWhole < 4 ? 4 : kWhole), 1, kWhole>();
    } else if (m.spread == 2 && whole_runs) {
        with.template operator()<8, 2, kWhole>();
    } else {
        const Units units{0, pairs, rest, matrices};
        if (matrices > 0)
            launch("prope_apply", prope_far_kernel<T, F>, shape_of("prope_apply", f, matrices / 4),
                   stream, f, m);
        if (units.count() > 0) {
            launch("prope_apply", prope_kernel<T, F, 8, 1, 1>,
                   shape_of("prope_apply", f, units.count()), stream, f, m, rotation, units);
        }
    }
}

template void prope_apply(const HeadFeatures<float>&, const CameraMatrices<float>&,
                          const QuarterRotation<float>&, const Stream&);
template void prope_apply(const HeadFeatures<float16>&, const CameraMatrices<float>&,
                          const QuarterRotation<float>&, const Stream&);
template void prope_apply(const HeadFeatures<bfloat16>&, const CameraMatrices<float>&,
                          const QuarterRotation<float>&, const Stream&);
template void prope_apply(const HeadFeatures<double>&, const CameraMatrices<double>&,
                          const QuarterRotation<double>&, const Stream&);

}  // namespace mosaicmem::cuda
