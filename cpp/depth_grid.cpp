#include "depth_grid.hpp"

#include <algorithm>
#include <vector>

#include "parallel.hpp"
#include "unproject.hpp"

namespace mosaicmem {

void median_depth_grid(const float* depth, std::size_t height, std::size_t width,
                       std::size_t stride, std::size_t min_valid, float* grid, int num_threads) {
    const std::size_t rows = height / stride;
    const std::size_t columns = width / stride;
    const std::size_t grain = (1 << 14) / (width * stride + 1) + 1;
    parallel_for(rows, grain, num_threads, [&](std::size_t begin, std::size_t end) {
        std::vector<float> cell(stride * stride);
        for (std::size_t r = begin; r < end; ++r) {
            for (std::size_t c = 0; c < columns; ++c) {
                std::size_t count = 0;
                for (std::size_t i = r * stride; i < (r + 1) * stride; ++i) {
                    for (std::size_t j = c * stride; j < (c + 1) * stride; ++j) {
                        const float z = depth[i * width + j];
                        cell[count] = z;
                        count += is_valid_depth(z);
                    }
                }
                float median = 0.0f;
                if (count > 0 && count >= min_valid) {
                    const auto middle = cell.begin() + static_cast<std::ptrdiff_t>((count - 1) / 2);
                    std::nth_element(cell.begin(), middle,
                                     cell.begin() + static_cast<std::ptrdiff_t>(count));
                    median = *middle;
                }
                grid[r * columns + c] = median;
            }
        }
    });
}

}  // namespace mosaicmem
