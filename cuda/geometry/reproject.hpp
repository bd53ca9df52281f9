// Eq. 2 on the GPU: the counterpart of cpp/geometry/reproject.hpp.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cpp/base/camera.hpp"
#include "cuda/base/stream.hpp"

namespace mosaicmem::cuda {

// See mosaicmem::reproject_grid.
void reproject_grid(const float* depth, std::size_t rows, std::size_t columns, double stride,
                    const Intrinsics& source_k, const Affine& world_from_source, const View& target,
                    float* projected, std::uint8_t* valid, const Stream& stream);

}  // namespace mosaicmem::cuda
