// Pinhole intrinsics and affine transforms, in double: kernels compose them before looping over
// float32 data. Axes are OpenCV's (+x right, +y down, +z forward); pixel (row i, column j) has its
// centre at (j + 0.5, i + 0.5).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "cpp/base/clones.hpp"
#include "cpp/base/host_device.hpp"

namespace mosaicmem {

struct Vec3 {
    double x, y, z;
};

struct Intrinsics {
    double fx, fy, cx, cy;  // pixels
};

// target_from_source as a row-major 3x4 matrix [A | t]. A need not be a rotation: an edited
// observation may be scaled or mirrored.
struct Affine {
    std::array<double, 12> m;

    MOSAICMEM_HOST_DEVICE Vec3 operator()(const Vec3& p) const {
        return {m[0] * p.x + m[1] * p.y + m[2] * p.z + m[3],
                m[4] * p.x + m[5] * p.y + m[6] * p.z + m[7],
                m[8] * p.x + m[9] * p.y + m[10] * p.z + m[11]};
    }
};

// a_from_c = a_from_b * b_from_c
MOSAICMEM_HOST_DEVICE inline Affine operator*(const Affine& a, const Affine& b) {
    Affine c{};
    for (int i = 0; i < 3; ++i) {
        for (int j = 0; j < 4; ++j) {
            double sum = j == 3 ? a.m[4 * i + 3] : 0.0;
            for (int k = 0; k < 3; ++k) sum += a.m[4 * i + k] * b.m[4 * k + j];
            c.m[4 * i + j] = sum;
        }
    }
    return c;
}

// source_from_target; A must be invertible.
MOSAICMEM_HOST_DEVICE inline Affine inverse(const Affine& affine) {
    const auto& m = affine.m;
    const double cofactor[3] = {m[5] * m[10] - m[6] * m[9], m[6] * m[8] - m[4] * m[10],
                                m[4] * m[9] - m[5] * m[8]};
    const double s = 1 / (m[0] * cofactor[0] + m[1] * cofactor[1] + m[2] * cofactor[2]);
    Affine result{
        {s * cofactor[0], s * (m[2] * m[9] - m[1] * m[10]), s * (m[1] * m[6] - m[2] * m[5]), 0,
         s * cofactor[1], s * (m[0] * m[10] - m[2] * m[8]), s * (m[2] * m[4] - m[0] * m[6]), 0,
         s * cofactor[2], s * (m[1] * m[8] - m[0] * m[9]), s * (m[0] * m[5] - m[1] * m[4]), 0}};
    const Vec3 t = result({-m[3], -m[7], -m[11]});
    result.m[3] = t.x;
    result.m[7] = t.y;
    result.m[11] = t.z;
    return result;
}

// A camera with its frustum: pixels (u, v) inside [0, width) x [0, height), depths within
// [near, far].
struct View {
    Intrinsics k;
    Affine camera_from_world;
    double width, height;  // pixels
    double near, far;      // metres
};

// depth * K^-1 [u, v, 1], transformed into another frame, as a function of (u, v):
// x = depth * (u * du + v * dv + d0) + t.
struct PixelRay {
    Vec3 du, dv, d0, t;

    PixelRay() = default;
    MOSAICMEM_HOST_DEVICE PixelRay(const Intrinsics& k, const Affine& target_from_camera) {
        const auto& m = target_from_camera.m;
        du = {m[0] / k.fx, m[4] / k.fx, m[8] / k.fx};
        dv = {m[1] / k.fy, m[5] / k.fy, m[9] / k.fy};
        d0 = {m[2] - k.cx * du.x - k.cy * dv.x, m[6] - k.cx * du.y - k.cy * dv.y,
              m[10] - k.cx * du.z - k.cy * dv.z};
        t = {m[3], m[7], m[11]};
    }

    MOSAICMEM_HOST_DEVICE Vec3 direction(double u, double v) const {
        return {u * du.x + v * dv.x + d0.x, u * du.y + v * dv.y + d0.y, u * du.z + v * dv.z + d0.z};
    }

    MOSAICMEM_HOST_DEVICE Vec3 operator()(double u, double v, double depth) const {
        const Vec3 d = direction(u, v);
        return {depth * d.x + t.x, depth * d.y + t.y, depth * d.z + t.z};
    }
};

// The rays of one pixel row in float32: pixel j (centre at column j + 0.5) at depth z lies at
// z * (start + j * step) + t, per axis.
struct RowRay {
    float start[3], step[3], t[3];

    MOSAICMEM_HOST_DEVICE RowRay(const PixelRay& ray, std::size_t row) {
        const Vec3 first = ray.direction(0.5, static_cast<double>(row) + 0.5);
        const auto set = [](float(&to)[3], const Vec3& from) {
            to[0] = static_cast<float>(from.x);
            to[1] = static_cast<float>(from.y);
            to[2] = static_cast<float>(from.z);
        };
        set(start, first);
        set(step, ray.du);
        set(t, ray.t);
    }

    MOSAICMEM_HOST_DEVICE MOSAICMEM_INLINE float operator()(std::size_t j, float z,
                                                            int axis) const {
        const float column =
            static_cast<float>(static_cast<std::int32_t>(j));  // int32 converts in SIMD
        return z * (start[axis] + column * step[axis]) + t[axis];
    }
};

}  // namespace mosaicmem
