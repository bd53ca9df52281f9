// The tents of projected cells over small windows of target cells, a row of four at a time: the
// usual case of for_each_tent().
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

#include "cpp/base/clones.hpp"

namespace mosaicmem {

using Quad = float __attribute__((vector_size(16)));  // of four neighbouring cells in a row
using QuadMask = std::int32_t __attribute__((vector_size(16)));

// Typed, not by memcpy, so that the compiler knows that no pointer is overwritten.
MOSAICMEM_INLINE Quad load_row(const float* at) {
    using Unaligned = float __attribute__((vector_size(16), aligned(4)));
    return *reinterpret_cast<const Unaligned*>(at);
}

MOSAICMEM_INLINE void store_row(const Quad& values, float* at) {
    using Unaligned = float __attribute__((vector_size(16), aligned(4)));
    *reinterpret_cast<Unaligned*>(at) = values;
}

MOSAICMEM_INLINE QuadMask load_row(const std::int32_t* at) {
    using Unaligned = std::int32_t __attribute__((vector_size(16), aligned(4)));
    return *reinterpret_cast<const Unaligned*>(at);
}

MOSAICMEM_INLINE void store_row(const QuadMask& values, std::int32_t* at) {
    using Unaligned = std::int32_t __attribute__((vector_size(16), aligned(4)));
    *reinterpret_cast<Unaligned*>(at) = values;
}

MOSAICMEM_INLINE Quad select(const QuadMask& mask, const Quad& yes, const Quad& no) {
    return std::bit_cast<Quad>((mask & std::bit_cast<QuadMask>(yes)) |
                               (~mask & std::bit_cast<QuadMask>(no)));
}

MOSAICMEM_INLINE Quad magnitude(const Quad& values) {
    return std::bit_cast<Quad>(std::bit_cast<QuadMask>(values) & 0x7FFFFFFF);
}

// Values of a square of cells, four in each row, of which the first kReach count.
template <std::int32_t kReach>
struct Window {
    Quad rows[kReach];
};

// Windows reach at most this far beyond a target.
constexpr std::int32_t kMargin = 4;

// The layout of planes that hold a value for each target cell, within a margin on all sides.
struct PlaneLayout {
    std::int32_t rows, columns;  // of the target

    MOSAICMEM_INLINE std::int32_t pitch() const { return columns + 2 * kMargin; }
    MOSAICMEM_INLINE std::size_t size() const {
        return static_cast<std::size_t>(rows + 2 * kMargin) * static_cast<std::size_t>(pitch());
    }
    MOSAICMEM_INLINE std::size_t at(std::int32_t r, std::int32_t c) const {
        return static_cast<std::size_t>((r + kMargin) * pitch() + c + kMargin);
    }
};

// How high a tent is above four target cells along one axis: positions first, first + 1, ...
MOSAICMEM_INLINE Quad tent_along(float x, std::int32_t first, float per_cell) {
    const Quad to = x - (static_cast<float>(first) + Quad{0, 1, 2, 3});
    const Quad height = 1.0f - magnitude(to) * per_cell;
    return select(height > 0.0f, height, Quad{});
}

}  // namespace mosaicmem
