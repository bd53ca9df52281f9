// The coarse grids that keyframe selection compares: every few cells. For the CPU and the GPU.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "cpp/memory/view_weight.hpp"

namespace mosaicmem {

constexpr std::size_t kCoarseCells = 320;  // aimed for, per source or target grid
constexpr float kAnyView = 0.05f;          // bonus for any view of a cell, on top of its worth
// What a keyframe must add to those taken for a window, and to the first taken for a target, as a
// fraction of one target's cells. Further ones add little but blur.
constexpr double kLeastGain = 1e-5, kLeastGainOfView = 5e-4;

// The sampling step of the coarse grid, in cells.
MOSAICMEM_HOST_DEVICE inline std::size_t coarse_step(std::size_t rows, std::size_t columns) {
    std::size_t step = 1;
    while ((rows / step) * (columns / step) > kCoarseCells) ++step;
    return std::min(step, std::min(rows, columns));
}

inline TargetGrid on_coarse_grid(const TargetGrid& target) {
    const std::size_t step = coarse_step(target.rows, target.columns);
    TargetGrid result = target;
    result.rows = (target.rows + step - 1) / step;
    result.columns = (target.columns + step - 1) / step;
    result.stride = target.stride * static_cast<double>(step);
    return result;
}

// Selection is more tolerant than blending: with few picks, fair views must count too.
inline ViewWeightScales scales_of_choice(ViewWeightScales scales) {
    scales.field_angle *= 2;
    return scales;
}

// Calls visit(cell) for the target cells that a projected cell covers.
template <class Visit>
MOSAICMEM_HOST_DEVICE MOSAICMEM_INLINE void for_each_covered(float x, float y, float worth,
                                                             float spread, std::int32_t rows,
                                                             std::int32_t columns,
                                                             const Visit& visit) {
    const float half = 0.5f * (spread - 1);
    if (!(worth > 0 && x > -2 && y > -2 && x < static_cast<float>(columns) + 1 &&
          y < static_cast<float>(rows) + 1)) {
        return;
    }
    const std::int32_t left = std::max(floor_of(x - half + 0.5f), 0);
    const std::int32_t right = std::min(floor_of(x + half + 0.5f), columns - 1);
    const std::int32_t bottom = std::min(floor_of(y + half + 0.5f), rows - 1);
    for (std::int32_t r = std::max(floor_of(y - half + 0.5f), 0); r <= bottom; ++r) {
        for (std::int32_t c = left; c <= right; ++c)
            visit(static_cast<std::size_t>(r * columns + c));
    }
}

}  // namespace mosaicmem
