// The published patch memory's arithmetic per cell, in its order of operations: for the CPU and the
// GPU. Compile without contraction of a * b + c, so that it rounds as the published code does.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>

#include "cpp/base/clones.hpp"
#include "cpp/base/host_device.hpp"

namespace mosaicmem {

constexpr double kStride = 16;           // pixels per latent cell
constexpr std::int32_t kDownsample = 4;  // latent cells per coarse cell along each axis
constexpr std::size_t kPoolStride = 2;   // coverage considers every second frame
constexpr double kApart = 0.1;           // metres between picks
constexpr double kFilled = 0.95;         // fusion stops once this part of the cells is filled
constexpr double kLeastSource = 1e-3;    // metres
constexpr double kLeastTarget = 1e-2;    // metres

// Rounds to the nearest integer, ties to even, without the function call that rint costs below
// SSE4.1. Inexact beyond 2^22 (float) and 2^51 (double), but never back below that bound.
MOSAICMEM_HOST_DEVICE MOSAICMEM_INLINE float round_even(float x) {
    constexpr float shift = 12582912.0f;  // 1.5 * 2^23
    return (x + shift) - shift;
}
MOSAICMEM_HOST_DEVICE MOSAICMEM_INLINE double round_even(double x) {
    constexpr double shift = 6755399441055744.0;  // 1.5 * 2^52
    return (x + shift) - shift;
}

using Centre = std::array<double, 3>;

template <class T>
MOSAICMEM_HOST_DEVICE Centre centre_of(const T* m) {  // -R^T t
    Centre centre{};
    for (std::size_t i = 0; i < 3; ++i) {
        for (std::size_t j = 0; j < 3; ++j)
            centre[i] -= static_cast<double>(m[4 * j + i]) * static_cast<double>(m[4 * j + 3]);
    }
    return centre;
}

MOSAICMEM_HOST_DEVICE inline double distance(const Centre& a, const Centre& b) {
    const double x = a[0] - b[0], y = a[1] - b[1], z = a[2] - b[2];
    return std::sqrt(x * x + y * y + z * z);
}

// Degrees between two viewing directions, the third rows of the rotations.
template <class T>
MOSAICMEM_HOST_DEVICE double angle_between(const T* memory, const double* query) {
    double dot = 0, a2 = 0, b2 = 0;
    for (std::size_t i = 8; i < 11; ++i) {
        const double a = static_cast<double>(memory[i]), b = query[i];
        dot += a * b;
        a2 += a * a;
        b2 += b * b;
    }
    const double cosine = dot / ((std::sqrt(a2) + 1e-12) * (std::sqrt(b2) + 1e-12));
    return std::acos(std::clamp(cosine, -1.0, 1.0)) * (180 / 3.14159265358979323846);
}

// The world point of coarse cell (c, r) of a frame; NaN where depth is invalid. m:
// camera_from_world (4, 4).
MOSAICMEM_HOST_DEVICE inline void published_world_point(double c, double r, float z,
                                                        const double* k_inverse, const float* m,
                                                        double (&world)[3]) {
    const double* k = k_inverse;
    const double u = kStride * kDownsample * c, v = kStride * kDownsample * r;
    double p[3];
    for (std::size_t j = 0; j < 3; ++j) {
        p[j] = (k[3 * j] * u + k[3 * j + 1] * v + k[3 * j + 2]) * static_cast<double>(z) -
               static_cast<double>(m[4 * j + 3]);
    }
    const bool valid =
        z > static_cast<float>(kLeastSource) && z <= std::numeric_limits<float>::max();
    for (std::size_t j = 0; j < 3; ++j) {
        const double at = static_cast<double>(m[j]) * p[0] + static_cast<double>(m[4 + j]) * p[1] +
                          static_cast<double>(m[8 + j]) * p[2];
        world[j] = valid ? at : std::numeric_limits<double>::quiet_NaN();
    }
}

// The coarse cell, of rows x columns, that a world point covers in a view, or -1. m: rows of
// K [R | t] (3, 4).
MOSAICMEM_HOST_DEVICE MOSAICMEM_INLINE std::int32_t coarse_cell_of(double x, double y, double z,
                                                                   const double* m,
                                                                   std::int32_t rows,
                                                                   std::int32_t columns) {
    const double u = m[0] * x + m[1] * y + m[2] * z + m[3];
    const double v = m[4] * x + m[5] * y + m[6] * z + m[7];
    const double depth = m[8] * x + m[9] * y + m[10] * z + m[11];
    const double column = round_even(u / depth / kStride);
    const double row = round_even(v / depth / kStride);
    const bool covers = (depth > kLeastTarget) & (row >= 0) & (row < kDownsample * rows) &
                        (column >= 0) & (column < kDownsample * columns);
    const auto r = static_cast<std::int32_t>(covers ? row : 0.0);
    const auto c = static_cast<std::int32_t>(covers ? column : 0.0);
    return covers ? r / kDownsample * columns + c / kDownsample : -1;
}

// The view cell that cell (r, c) of a frame lands in, or -1, and its depth there. In float32.
MOSAICMEM_HOST_DEVICE MOSAICMEM_INLINE std::int32_t land_published_cell(
    std::int32_t r, std::int32_t c, float depth, std::int32_t rows, std::int32_t columns,
    const float* k_inverse, const float* memory, const float* query, const float* k, float& z_out) {
    const float *a = k_inverse, *m = memory, *q = query;
    const float u = static_cast<float>(kStride) * static_cast<float>(c);
    const float v = static_cast<float>(kStride) * static_cast<float>(r);
    const float px = (a[0] * u + a[1] * v + a[2]) * depth - m[3];
    const float py = (a[3] * u + a[4] * v + a[5]) * depth - m[7];
    const float pz = (a[6] * u + a[7] * v + a[8]) * depth - m[11];
    const float wx = m[0] * px + m[4] * py + m[8] * pz;
    const float wy = m[1] * px + m[5] * py + m[9] * pz;
    const float wz = m[2] * px + m[6] * py + m[10] * pz;
    const float x = q[0] * wx + q[1] * wy + q[2] * wz + q[3];
    const float y = q[4] * wx + q[5] * wy + q[6] * wz + q[7];
    const float z = q[8] * wx + q[9] * wy + q[10] * wz + q[11];
    const float nx = x / z, ny = y / z;
    const float column = round_even((k[0] * nx + k[1] * ny + k[2]) / static_cast<float>(kStride));
    const float row = round_even((k[3] * nx + k[4] * ny + k[5]) / static_cast<float>(kStride));
    const bool inside = (z > static_cast<float>(kLeastTarget)) &
                        (z < std::numeric_limits<float>::infinity()) & (row >= 0) &
                        (row <= static_cast<float>(rows - 1)) & (column >= 0) &
                        (column <= static_cast<float>(columns - 1));
    z_out = z;
    return inside ? static_cast<std::int32_t>(inside ? row : 0.0f) * columns +
                        static_cast<std::int32_t>(inside ? column : 0.0f)
                  : -1;
}

}  // namespace mosaicmem
