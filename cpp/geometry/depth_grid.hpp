// Depth image to latent grid: each cell takes the median of the valid pixels under it. An average
// would put a cell that straddles an edge in mid-air between both surfaces; a median stays on one
// of them.
#pragma once

#include <cstddef>

namespace mosaicmem {

// grid (height / stride, width / stride): lower median of each stride x stride block of depth
// (height, width), or 0 (invalid) where fewer than min_valid of its pixels are valid. height and
// width are multiples of stride.
void median_depth_grid(const float* depth, std::size_t height, std::size_t width,
                       std::size_t stride, std::size_t min_valid, float* grid, int num_threads);

}  // namespace mosaicmem
