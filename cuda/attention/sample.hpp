// Warped Latent, backward, on the GPU: the counterpart of cpp/attention/sample.hpp.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cuda/base/stream.hpp"

namespace mosaicmem::cuda {

struct SamplePlaces {
    const float* position;  // (count, 2): y, x in cell coordinates
    std::size_t count, rows, columns;
};

// See mosaicmem::bilinear_sample. T is float or double.
template <class T>
void bilinear_sample(const SamplePlaces& places, const T* grid, std::size_t channels, T* values,
                     std::uint8_t* inside, const Stream& stream);

// Its adjoint; sums in the same order as the CPU.
std::size_t bilinear_sample_adjoint_workspace_bytes(const SamplePlaces& places);
template <class T>
void bilinear_sample_adjoint(const SamplePlaces& places, const T* values, std::size_t channels,
                             T* grid, void* workspace, const Stream& stream);

}  // namespace mosaicmem::cuda
