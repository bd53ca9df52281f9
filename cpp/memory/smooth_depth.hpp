// Depth between the centres of a grid's cells.
#pragma once

#include <algorithm>
#include <cstddef>

#include "cpp/geometry/unproject.hpp"

namespace mosaicmem {

constexpr float kSmooth = 1.2f;  // depths of one surface differ by less than this factor

// The cells on both sides of a position, and how far it is from the first to the second; clamped.
struct Between {
    std::size_t first, second;
    double part;

    Between(double position, std::size_t count) {
        const double last = static_cast<double>(count - 1);
        const double at = position > 0.5 ? std::min(position - 0.5, last) : 0;  // 0 for NaN too
        first = std::min(static_cast<std::size_t>(at), count > 1 ? count - 2 : 0);
        second = std::min(first + 1, count - 1);
        part = at - static_cast<double>(first);
    }
};

// The depth at a position: interpolated if its four neighbours are one surface, else the cell's
// own.
inline double smooth_depth(const float* depth, std::size_t columns, const Between& y,
                           const Between& x, float own) {
    const float corners[4] = {
        depth[y.first * columns + x.first], depth[y.first * columns + x.second],
        depth[y.second * columns + x.first], depth[y.second * columns + x.second]};
    if (!std::all_of(corners, corners + 4, is_valid_depth)) return own;
    const auto [least, most] = std::minmax_element(corners, corners + 4);
    if (*most >= kSmooth * *least) return own;
    const double upper = (1 - x.part) / corners[0] + x.part / corners[1];
    const double lower = (1 - x.part) / corners[2] + x.part / corners[3];
    return 1 / ((1 - y.part) * upper + y.part * lower);
}

}  // namespace mosaicmem
