#include "cpp/geometry/depth_grid.hpp"

#include <cstdint>

#include "cpp/base/aligned.hpp"
#include "cpp/base/parallel.hpp"
#include "cpp/simd/levels.hpp"

namespace mosaicmem {

void median_depth_grid(const float* depth, std::size_t height, std::size_t width,
                       std::size_t stride, std::size_t min_valid, float* grid, int num_threads) {
    const std::size_t rows = height / stride;
    const std::size_t columns = width / stride;
    const std::size_t grain = (1 << 17) / (width * stride + 1) + 1;
    const Kernels& level = kernels();
    parallel_for(rows, grain, num_threads, [&](std::size_t begin, std::size_t end) {
        const auto scratch = aligned_array<std::int32_t>(stride * stride * kMostLanes);
        for (std::size_t r = begin; r < end; ++r) {
            level.median_row(depth + r * stride * width, width, stride, columns, min_valid,
                             scratch.get(), grid + r * columns);
        }
    });
}

}  // namespace mosaicmem
