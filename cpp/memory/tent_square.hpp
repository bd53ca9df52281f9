// The tents of projected cells over the 2x2 target cells around them, four at a time: the usual
// case of for_each_tent().
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>

#include "cpp/base/clones.hpp"
#include "cpp/memory/surface.hpp"

namespace mosaicmem {

using Quad = float __attribute__((vector_size(16)));  // of 2x2 cells, row by row
using QuadMask = std::int32_t __attribute__((vector_size(16)));

// The 2x2 values at the upper left value `at`, in rows of `columns`.
MOSAICMEM_INLINE Quad load_quad(const float* at, std::ptrdiff_t columns) {
    using Halves = double __attribute__((vector_size(16)));
    Halves rows;
    double row;
    std::memcpy(&row, at, sizeof row);
    rows[0] = row;
    std::memcpy(&row, at + columns, sizeof row);
    rows[1] = row;
    return std::bit_cast<Quad>(rows);
}

MOSAICMEM_INLINE void store_quad(const Quad& values, float* at, std::ptrdiff_t columns) {
    float rows[4];
    std::memcpy(rows, &values, sizeof rows);
    std::memcpy(at, rows, 2 * sizeof(float));
    std::memcpy(at + columns, rows + 2, 2 * sizeof(float));
}

MOSAICMEM_INLINE Quad load_row(const float* at) {
    Quad values;
    std::memcpy(&values, at, sizeof values);
    return values;
}

MOSAICMEM_INLINE void store_row(const Quad& values, float* at) {
    std::memcpy(at, &values, sizeof values);
}

MOSAICMEM_INLINE Quad select(const QuadMask& mask, const Quad& yes, const Quad& no) {
    return std::bit_cast<Quad>((mask & std::bit_cast<QuadMask>(yes)) |
                               (~mask & std::bit_cast<QuadMask>(no)));
}

struct TentSquare {
    std::int32_t left, top;  // of the four cells
    float dx, dy, per_cell;

    // Whether the four cells exist and are all that the part reaches.
    MOSAICMEM_INLINE static bool fits(float x, float y, float spread, std::int32_t rows,
                                      std::int32_t columns) {
        return (spread <= 1.0f) & (x >= 0) & (y >= 0) & (x < static_cast<float>(columns - 1)) &
               (y < static_cast<float>(rows - 1));
    }
    MOSAICMEM_INLINE TentSquare(float x, float y, float spread)
        : left(static_cast<std::int32_t>(x)),
          top(static_cast<std::int32_t>(y)),
          dx(x - static_cast<float>(left)),
          dy(y - static_cast<float>(top)),
          per_cell(1.0f / spread) {}

    // The heights of the tents, and of skirts in full (see tent_at()).
    MOSAICMEM_INLINE Quad heights() const {
        const Quad x = 1.0f - Quad{dx, 1.0f - dx, dx, 1.0f - dx} * per_cell;
        const Quad y = 1.0f - Quad{dy, dy, 1.0f - dy, 1.0f - dy} * per_cell;
        return select(y > 0.0f, y, Quad{}) * select(x > 0.0f, x, Quad{});
    }
    MOSAICMEM_INLINE Quad skirts() const {
        const float far_x = 1.0f - dx, far_y = 1.0f - dy;
        const Quad wide = Quad{far_y, far_y, dy, dy} * Quad{far_x, dx, far_x, dx};
        return per_cell > 1.0f ? wide : Quad{};
    }
};

// The tent of a projected cell that reaches at most four target cells along each axis, a row at a
// time.
struct TentRows {
    std::int32_t left, top, bottom;
    float y, per_cell;
    Quad across;  // heights along a row

    // Whether four cells exist from the leftmost on, and all rows.
    MOSAICMEM_INLINE static bool fits(float x, float y, float spread, std::int32_t rows,
                                      std::int32_t columns) {
        return (spread <= 2.0f) & (x >= spread) & (y >= spread) &
               (x < static_cast<float>(columns) - 4.0f) &
               (y < static_cast<float>(rows) - 1.0f - spread);
    }
    MOSAICMEM_INLINE TentRows(float x, float y_of_centre, float spread)
        : left(static_cast<std::int32_t>(x - spread) + 1),
          top(static_cast<std::int32_t>(y_of_centre - spread) + 1),
          bottom(static_cast<std::int32_t>(y_of_centre + spread)),
          y(y_of_centre),
          per_cell(1.0f / spread) {
        const auto first = static_cast<float>(left);
        const Quad to = x - Quad{first, first + 1.0f, first + 2.0f, first + 3.0f};
        const Quad height = 1.0f - select(to < 0.0f, -to, to) * per_cell;
        across = select(height > 0.0f, height, Quad{});
    }
    MOSAICMEM_INLINE Quad heights(std::int32_t row) const {
        const float dy = y - static_cast<float>(row);
        return std::max(1.0f - (dy < 0 ? -dy : dy) * per_cell, 0.0f) * across;
    }
};

}  // namespace mosaicmem
