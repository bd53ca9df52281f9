#include "cpp/attention/linear.hpp"

#include <algorithm>
#include <vector>

#include "cpp/base/parallel.hpp"
#include "cpp/simd/levels.hpp"

namespace mosaicmem {

void linear(const float* x, const float* weight, std::size_t n, std::size_t in, std::size_t out,
            float* y, int num_threads) {
    const Kernels& with = kernels();
    const std::size_t width = with.panel_columns, panels = (out + width - 1) / width;
    const std::size_t grain = (1 << 22) / (n * in * width + 1) + 1;
    parallel_for(panels, grain, num_threads, [&](std::size_t begin, std::size_t end) {
        std::vector<float> panel(in * width), scratch(with.scratch_project(in));
        for (std::size_t p = begin; p < end; ++p) {
            const std::size_t first = p * width;
            const std::size_t columns = std::min(width, out - first);
            for (std::size_t c = 0; c < width; ++c) {
                for (std::size_t i = 0; i < in; ++i) {
                    panel[i * width + c] = c < columns ? weight[(first + c) * in + i] : 0.0f;
                }
            }
            with.project(x, n, in, panel.data(), columns, out, y + first, scratch.data());
        }
    });
}

}  // namespace mosaicmem
