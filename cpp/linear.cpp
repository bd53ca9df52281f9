#include "linear.hpp"

#include <algorithm>
#include <vector>

#include "matmul_tile.hpp"
#include "parallel.hpp"

namespace mosaicmem {
namespace {

// All rows of x against one panel of kTileColumns outputs; panel (in, kTileColumns).
MOSAICMEM_CLONES
void project_panel(const float* x, std::size_t n, std::size_t in, const float* panel,
                   std::size_t columns, std::size_t out, float* y) {
    for (std::size_t first = 0; first < n; first += kTileRows) {
        const std::size_t rows = n - first < kTileRows ? n - first : kTileRows;
        float acc[kTileRows][kTileColumns] = {};
        matmul_tile(x + first * in, in, rows, panel, kTileColumns, in, acc);
        for (std::size_t r = 0; r < rows; ++r) {
            for (std::size_t c = 0; c < columns; ++c) y[(first + r) * out + c] = acc[r][c];
        }
    }
}

}  // namespace

void linear(const float* x, const float* weight, std::size_t n, std::size_t in, std::size_t out,
            float* y, int num_threads) {
    const std::size_t panels = (out + kTileColumns - 1) / kTileColumns;
    const std::size_t grain = (1 << 22) / (n * in * kTileColumns + 1) + 1;
    parallel_for(panels, grain, num_threads, [&](std::size_t begin, std::size_t end) {
        std::vector<float> panel(in * kTileColumns);
        for (std::size_t p = begin; p < end; ++p) {
            const std::size_t first = p * kTileColumns;
            const std::size_t columns = std::min(kTileColumns, out - first);
            for (std::size_t c = 0; c < kTileColumns; ++c) {
                for (std::size_t i = 0; i < in; ++i) {
                    panel[i * kTileColumns + c] = c < columns ? weight[(first + c) * in + i] : 0.0f;
                }
            }
            project_panel(x, n, in, panel.data(), columns, out, y + first);
        }
    });
}

}  // namespace mosaicmem
