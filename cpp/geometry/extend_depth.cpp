#include "cpp/geometry/extend_depth.hpp"

#include <algorithm>
#include <limits>
#include <vector>

#include "cpp/base/parallel.hpp"
#include "cpp/geometry/unproject.hpp"

namespace mosaicmem {
namespace {

constexpr std::size_t kGrain = 4;  // rows worth a thread
constexpr std::ptrdiff_t kNone = std::numeric_limits<std::ptrdiff_t>::min();

}  // namespace

// First the nearest valid cell of each column, above or below, as in exact distance transforms;
// then, for each cell, the best of the columns within reach.
void extend_depth(const float* depth, std::size_t rows, std::size_t columns, std::size_t reach,
                  float* out, int num_threads) {
    const auto height = static_cast<std::ptrdiff_t>(rows),
               width = static_cast<std::ptrdiff_t>(columns),
               most = static_cast<std::ptrdiff_t>(std::min(reach, rows + columns));
    std::vector<std::ptrdiff_t> nearest(rows * columns, kNone);  // row in the same column
    for (std::ptrdiff_t c = 0; c < width; ++c) {
        std::ptrdiff_t last = kNone;
        for (std::ptrdiff_t r = 0; r < height; ++r) {
            if (is_valid_depth(depth[r * width + c])) last = r;
            nearest[static_cast<std::size_t>(r * width + c)] = last;
        }
        std::ptrdiff_t next = kNone;
        for (std::ptrdiff_t r = height - 1; r >= 0; --r) {
            if (is_valid_depth(depth[r * width + c])) next = r;
            std::ptrdiff_t& own = nearest[static_cast<std::size_t>(r * width + c)];
            if (next != kNone && (own == kNone || next - r < r - own)) own = next;
        }
    }
    parallel_for(rows, kGrain, num_threads, [&](std::size_t begin, std::size_t end) {
        for (auto r = static_cast<std::ptrdiff_t>(begin); r < static_cast<std::ptrdiff_t>(end);
             ++r) {
            for (std::ptrdiff_t c = 0; c < width; ++c) {
                if (is_valid_depth(depth[r * width + c])) {
                    out[r * width + c] = depth[r * width + c];
                    continue;
                }
                std::ptrdiff_t least = most * most + 1;
                out[r * width + c] = 0;
                const auto look = [&](std::ptrdiff_t column) {
                    const std::ptrdiff_t row =
                        nearest[static_cast<std::size_t>(r * width + column)];
                    if (row == kNone) return;
                    const std::ptrdiff_t away = (row - r) * (row - r) + (column - c) * (column - c);
                    if (away >= least) return;
                    least = away;
                    out[r * width + c] = depth[row * width + column];
                };
                for (std::ptrdiff_t side = 0; side <= most && side * side < least; ++side) {
                    if (c - side >= 0) look(c - side);
                    if (side > 0 && c + side < width) look(c + side);
                }
            }
        }
    });
}

}  // namespace mosaicmem
