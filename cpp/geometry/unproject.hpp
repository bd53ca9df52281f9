// Depth image to points: x_world = world_from_camera * (depth * K^-1 [u, v, 1]).
#pragma once

#include <cfloat>
#include <cstddef>
#include <cstdint>

#include "cpp/base/camera.hpp"

namespace mosaicmem {

// Depth is valid when positive and finite; NaN fails both comparisons.
MOSAICMEM_HOST_DEVICE inline bool is_valid_depth(float depth) {
    return depth > 0.0f && depth <= FLT_MAX;
}

// Every pixel: points (height, width, 3), zero where depth is invalid; valid (height, width) is 1
// or 0.
void unproject_dense(const float* depth, std::size_t height, std::size_t width, const Intrinsics& k,
                     const Affine& world_from_camera, float* points, std::uint8_t* valid,
                     int num_threads);

// Counts the valid pixels of each row into row_counts (height), which sizes the output of
// unproject_valid.
void count_valid(const float* depth, std::size_t height, std::size_t width, std::size_t* row_counts,
                 int num_threads);

// Only valid pixels, in row-major order: points (n, 3) and pixels (n), the flat index i * width + j
// of each. row_offsets (height + 1) is the exclusive prefix sum of count_valid's row_counts, then
// their total.
void unproject_valid(const float* depth, std::size_t height, std::size_t width, const Intrinsics& k,
                     const Affine& world_from_camera, const std::size_t* row_offsets, float* points,
                     std::int64_t* pixels, int num_threads);

}  // namespace mosaicmem
