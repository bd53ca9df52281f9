// Which grid cells a position in cell coordinates (integers at cell centres) touches: for splats
// and samples, on the CPU and the GPU.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>

#include "cpp/base/clones.hpp"
#include "cpp/base/host_device.hpp"

namespace mosaicmem {

enum class Splat {
    nearest,   // the cell a token lands in
    block,     // the 2x2 cells around it
    bilinear,  // the 2x2 cells around it, averaged by bilinear weight over the tokens at the front
               // surface
};

constexpr float kMinBilinear = 1.0f / 64;
constexpr std::uint64_t kNoToken = ~0ull;

// Positive floats order like their bits, so one 64-bit minimum picks the least by depth, then
// index.
MOSAICMEM_HOST_DEVICE inline std::uint64_t front_key(float depth, std::size_t index) {
    return static_cast<std::uint64_t>(std::bit_cast<std::uint32_t>(depth)) << 32 |
           static_cast<std::uint32_t>(index);
}

// The largest integer up to x, without the call that std::floor is on the baseline target; |x| <
// 2^31.
MOSAICMEM_HOST_DEVICE MOSAICMEM_INLINE std::int32_t floor_of(float x) {
    const auto toward_zero = static_cast<std::int32_t>(x);
    return toward_zero - (static_cast<float>(toward_zero) > x);
}

// Calls visit(cell, bilinear weight) for each grid cell that a token touches, in row-major order.
template <class Visit>
MOSAICMEM_HOST_DEVICE MOSAICMEM_INLINE void for_each_cell(float x, float y, Splat mode,
                                                          std::size_t rows, std::size_t columns,
                                                          const Visit& visit) {
    const float limit_x = static_cast<float>(columns), limit_y = static_cast<float>(rows);
    if (!(x > -1.0f && x < limit_x && y > -1.0f && y < limit_y)) return;  // NaN too
    if (mode == Splat::nearest) {
        const std::int64_t c = floor_of(x + 0.5f), r = floor_of(y + 0.5f);
        if (c < 0 || r < 0 || c >= static_cast<std::int64_t>(columns) ||
            r >= static_cast<std::int64_t>(rows))
            return;
        visit(static_cast<std::size_t>(r) * columns + static_cast<std::size_t>(c), 1.0f);
        return;
    }
    const std::int64_t column = floor_of(x), row = floor_of(y);
    const float left = static_cast<float>(column), top = static_cast<float>(row);
    for (int dy = 0; dy <= 1; ++dy) {
        for (int dx = 0; dx <= 1; ++dx) {
            const std::int64_t c = column + dx, r = row + dy;
            if (c < 0 || r < 0 || c >= static_cast<std::int64_t>(columns) ||
                r >= static_cast<std::int64_t>(rows))
                continue;
            const float wx = dx == 0 ? 1.0f - (x - left) : x - left;
            const float wy = dy == 0 ? 1.0f - (y - top) : y - top;
            if (mode == Splat::bilinear && wx * wy < kMinBilinear) continue;
            visit(static_cast<std::size_t>(r) * columns + static_cast<std::size_t>(c), wx * wy);
        }
    }
}

// The four cells around a position and their bilinear weights.
struct Corners {
    std::size_t cell[4];
    float weight[4];
};

// False if the position is outside the grid. Between the outermost cell centres and the border it
// clamps to the nearest centre.
MOSAICMEM_HOST_DEVICE inline bool corners_of(float x, float y, std::size_t rows,
                                             std::size_t columns, Corners& corners) {
    const float last_x = static_cast<float>(columns) - 1.0f;
    const float last_y = static_cast<float>(rows) - 1.0f;
    if (!(x >= -0.5f && x <= last_x + 0.5f && y >= -0.5f && y <= last_y + 0.5f)) return false;
    x = std::clamp(x, 0.0f, last_x);
    y = std::clamp(y, 0.0f, last_y);
    const auto left = static_cast<std::size_t>(x), top = static_cast<std::size_t>(y);
    const std::size_t right = std::min(left + 1, columns - 1);
    const std::size_t bottom = std::min(top + 1, rows - 1);
    const float wx = x - static_cast<float>(left), wy = y - static_cast<float>(top);
    corners = {{top * columns + left, top * columns + right, bottom * columns + left,
                bottom * columns + right},
               {(1 - wx) * (1 - wy), wx * (1 - wy), (1 - wx) * wy, wx * wy}};
    return true;
}

}  // namespace mosaicmem
