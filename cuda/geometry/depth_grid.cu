#include "cuda/base/launch.cuh"
#include "cuda/geometry/depth_grid.hpp"

namespace mosaicmem::cuda {
namespace {

constexpr int kLargest = 0x7F7FFFFF;  // bits of the largest finite float

template <class Combine>
__device__ int over_warp(int value, const Combine& combine) {
    for (int reach = kWarp / 2; reach > 0; reach /= 2)
        value = combine(value, __shfl_xor_sync(kAllLanes, value, reach));
    return value;
}

// One warp per cell. Positive floats order like their bits, so the lower median is found by
// bisecting the range of bit patterns and counting; after the first pass the pixels come from the
// caches.
__global__ void median_depth_grid_kernel(const int* depth, std::size_t width, std::size_t stride,
                                         std::size_t rows, std::size_t columns,
                                         std::size_t min_valid, int* grid) {
    const std::size_t cell = thread_index() / kWarp;
    const unsigned lane = threadIdx.x % kWarp;
    if (cell >= rows * columns) return;
    const int* const first = depth + cell / columns * stride * width + cell % columns * stride;
    const auto for_each = [&](const auto& visit) {
        for (std::size_t i = lane; i < stride * stride; i += kWarp) {
            const int bits = first[i / stride * width + i % stride];
            if (bits > 0 && bits <= kLargest) visit(bits);
        }
    };
    const auto sum = [](int a, int b) { return a + b; };
    int low = kLargest, high = 0, valid = 0;
    for_each([&](int bits) {
        low = min(low, bits);
        high = max(high, bits);
        ++valid;
    });
    low = over_warp(low, [](int a, int b) { return min(a, b); });
    high = over_warp(high, [](int a, int b) { return max(a, b); });
    valid = over_warp(valid, sum);
    if (valid == 0 || static_cast<std::size_t>(valid) < min_valid) low = high = 0;
    const int rank = (valid - 1) / 2;
    while (low < high) {
        const int middle = low + (high - low) / 2;
        int count = 0;
        for_each([&](int bits) { count += bits <= middle; });
        if (over_warp(count, sum) > rank) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    if (lane == 0) grid[cell] = low;
}

}  // namespace

void median_depth_grid(const float* depth, std::size_t height, std::size_t width,
                       std::size_t stride, std::size_t min_valid, float* grid,
                       const Stream& stream) {
    const std::size_t rows = height / stride, columns = width / stride;
    launch("median_depth_grid", median_depth_grid_kernel,
           threads("median_depth_grid", rows * columns * kWarp), stream,
           reinterpret_cast<const int*>(depth), width, stride, rows, columns, min_valid,
           reinterpret_cast<int*>(grid));
}

}  // namespace mosaicmem::cuda
