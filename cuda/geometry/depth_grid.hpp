// Depth on the latent grid, on the GPU: the counterpart of cpp/geometry/depth_grid.hpp.
#pragma once

#include <cstddef>

#include "cuda/base/stream.hpp"

namespace mosaicmem::cuda {

// See mosaicmem::median_depth_grid.
void median_depth_grid(const float* depth, std::size_t height, std::size_t width,
                       std::size_t stride, std::size_t min_valid, float* grid,
                       const Stream& stream);

}  // namespace mosaicmem::cuda
