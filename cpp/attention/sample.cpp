#include "cpp/attention/sample.hpp"

#include <algorithm>

#include "cpp/base/cells.hpp"
#include "cpp/base/parallel.hpp"

namespace mosaicmem {
namespace {

bool find_corners(const SamplePlaces& places, std::size_t i, Corners& corners) {
    return corners_of(places.position[2 * i + 1], places.position[2 * i], places.rows,
                      places.columns, corners);
}

}  // namespace

template <class T>
void bilinear_sample(const SamplePlaces& places, const T* grid, std::size_t channels, T* values,
                     std::uint8_t* inside, int num_threads) {
    const std::size_t grain = (1 << 16) / (channels + 8) + 1;
    parallel_for(places.count, grain, num_threads, [&](std::size_t begin, std::size_t end) {
        Corners at;
        for (std::size_t i = begin; i < end; ++i) {
            T* out = values + i * channels;
            inside[i] = find_corners(places, i, at);
            if (!inside[i]) {
                std::fill_n(out, channels, T(0));
                continue;
            }
            const T *a = grid + at.cell[0] * channels, *b = grid + at.cell[1] * channels;
            const T *c = grid + at.cell[2] * channels, *d = grid + at.cell[3] * channels;
            for (std::size_t k = 0; k < channels; ++k) {
                out[k] = at.weight[0] * a[k] + at.weight[1] * b[k] + at.weight[2] * c[k] +
                         at.weight[3] * d[k];
            }
        }
    });
}

template <class T>
void bilinear_sample_adjoint(const SamplePlaces& places, const T* values, std::size_t channels,
                             T* grid) {
    std::fill_n(grid, places.rows * places.columns * channels, T(0));
    Corners at;
    for (std::size_t i = 0; i < places.count; ++i) {
        if (!find_corners(places, i, at)) continue;
        for (int corner = 0; corner < 4; ++corner) {
            const T weight = at.weight[corner];
            T* out = grid + at.cell[corner] * channels;
            for (std::size_t k = 0; k < channels; ++k) out[k] += weight * values[i * channels + k];
        }
    }
}

template void bilinear_sample(const SamplePlaces&, const float*, std::size_t, float*, std::uint8_t*,
                              int);
template void bilinear_sample(const SamplePlaces&, const double*, std::size_t, double*,
                              std::uint8_t*, int);
template void bilinear_sample_adjoint(const SamplePlaces&, const float*, std::size_t, float*);
template void bilinear_sample_adjoint(const SamplePlaces&, const double*, std::size_t, double*);

}  // namespace mosaicmem
