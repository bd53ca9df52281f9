// Voxel keys of points and surface normals: for the CPU and the GPU.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>

#include "cpp/base/host_device.hpp"
#include "cpp/geometry/unproject.hpp"

namespace mosaicmem {

constexpr int kAxisBits = 21;
constexpr std::int32_t kAxisHalf = 1 << (kAxisBits - 1);

// A pixel and its neighbour lie on one surface if their depths differ by less than this fraction of
// the depth.
constexpr float kSurfaceTolerance = 0.05f;

MOSAICMEM_HOST_DEVICE inline std::uint64_t mix(std::uint64_t key) {
    key *= 0x9E3779B97F4A7C15ull;  // Fibonacci hashing, high bits folded down
    return key ^ (key >> 32);
}

struct Point {
    float x, y, z;
};

MOSAICMEM_HOST_DEVICE inline Point point_at(const RowRay& row, std::size_t j, float z) {
    return {row(j, z, 0), row(j, z, 1), row(j, z, 2)};
}

MOSAICMEM_HOST_DEVICE inline bool same_surface(float a, float b) {
    return is_valid_depth(b) && std::fabs(a - b) < kSurfaceTolerance * a;
}

// The neighbour of pixel i of n that a normal is computed from: the next, or the previous at the
// border; n or more if there is none.
MOSAICMEM_HOST_DEVICE inline std::size_t neighbour_of(std::size_t i, std::size_t n) {
    return i + 1 < n ? i + 1 : i - 1;
}

// The unit normal of the surface at p with neighbours a and b in the camera frame, facing the
// camera; false if the three points are collinear.
MOSAICMEM_HOST_DEVICE inline bool normal_of(const Point& p, const Point& a, const Point& b,
                                            float normal[3]) {
    const float ax = a.x - p.x, ay = a.y - p.y, az = a.z - p.z;
    const float bx = b.x - p.x, by = b.y - p.y, bz = b.z - p.z;
    const float nx = ay * bz - az * by, ny = az * bx - ax * bz, nz = ax * by - ay * bx;
    const float length = std::sqrt(nx * nx + ny * ny + nz * nz);
    if (!(length > 0.0f)) return false;
    const bool faces = nx * p.x + ny * p.y + nz * p.z <= 0.0f;  // the camera is the origin
    const float scale = (faces ? 1.0f : -1.0f) / length;
    normal[0] = nx * scale, normal[1] = ny * scale, normal[2] = nz * scale;
    return true;
}

// floor(x / voxel_size) of each axis, biased and packed into 63 bits; false if out of range or not
// finite.
MOSAICMEM_HOST_DEVICE inline bool voxel_key(const Point& p, float inverse_size,
                                            std::uint64_t& key) {
    const float fx = std::floor(p.x * inverse_size);
    const float fy = std::floor(p.y * inverse_size);
    const float fz = std::floor(p.z * inverse_size);
    constexpr float lowest = -static_cast<float>(kAxisHalf),
                    highest = static_cast<float>(kAxisHalf) - 1;
    if (!(fx >= lowest && fx <= highest && fy >= lowest && fy <= highest && fz >= lowest &&
          fz <= highest)) {
        return false;
    }
    const auto axis = [](float f) {
        return static_cast<std::uint64_t>(static_cast<std::int32_t>(f) + kAxisHalf);
    };
    key = axis(fx) << (2 * kAxisBits) | axis(fy) << kAxisBits | axis(fz);
    return true;
}

}  // namespace mosaicmem
