#include "cpp/geometry/depth_grid.hpp"

#include <cstdint>
#include <cstring>
#include <vector>

#include "cpp/base/clones.hpp"
#include "cpp/base/parallel.hpp"

namespace mosaicmem {
namespace {

constexpr std::int32_t kInvalid = INT32_MAX;
constexpr std::int32_t kLargest = 0x7F7FFFFF;  // bits of the largest finite float

// Positive floats order like their bits, so the k-th smallest is found by bisecting the range of
// bit patterns and counting, which vectorises where sorting does not. Invalid pixels (not in
// (0, largest]) become kInvalid and are never counted.
MOSAICMEM_CLONES
std::int32_t lower_median_bits(std::int32_t* bits, std::size_t n, std::size_t min_valid) {
    std::int32_t low = kInvalid, high = 0, valid = 0;
    for (std::size_t i = 0; i < n; ++i) {
        const bool ok = bits[i] > 0 && bits[i] <= kLargest;
        bits[i] = ok ? bits[i] : kInvalid;
        valid += ok;
        low = bits[i] < low ? bits[i] : low;
        const std::int32_t counted = ok ? bits[i] : 0;
        high = counted > high ? counted : high;
    }
    if (valid == 0 || static_cast<std::size_t>(valid) < min_valid) return 0;
    const std::int32_t rank = (valid - 1) / 2;
    while (low < high) {
        const std::int32_t middle = low + (high - low) / 2;
        std::int32_t count = 0;
        for (std::size_t i = 0; i < n; ++i) count += bits[i] <= middle;
        if (count > rank) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    return low;
}

}  // namespace

void median_depth_grid(const float* depth, std::size_t height, std::size_t width,
                       std::size_t stride, std::size_t min_valid, float* grid, int num_threads) {
    const std::size_t rows = height / stride;
    const std::size_t columns = width / stride;
    const std::size_t grain = (1 << 17) / (width * stride + 1) + 1;
    parallel_for(rows, grain, num_threads, [&](std::size_t begin, std::size_t end) {
        std::vector<std::int32_t> cell(stride * stride);
        for (std::size_t r = begin; r < end; ++r) {
            for (std::size_t c = 0; c < columns; ++c) {
                for (std::size_t i = 0; i < stride; ++i) {
                    std::memcpy(&cell[i * stride], depth + (r * stride + i) * width + c * stride,
                                stride * sizeof(float));
                }
                const std::int32_t median = lower_median_bits(cell.data(), cell.size(), min_valid);
                std::memcpy(grid + r * columns + c, &median, sizeof median);
            }
        }
    });
}

}  // namespace mosaicmem
