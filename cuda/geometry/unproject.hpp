// Depth images to points, on the GPU: the counterpart of cpp/geometry/unproject.hpp.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "cpp/base/camera.hpp"
#include "cuda/base/stream.hpp"

namespace mosaicmem::cuda {

// depth (images, height, width) -> points (images, height, width, 3), zero where depth is invalid,
// and valid (images, height, width); one world_from_camera per image.
void unproject_dense(const float* depth, std::size_t height, std::size_t width, const Intrinsics& k,
                     std::span<const Affine> world_from_camera, float* points, std::uint8_t* valid,
                     const Stream& stream);

// Fills offsets (height + 1) with the number of valid pixels in all rows before each, and returns
// the total. Waits for the GPU, since the caller needs the total to allocate the points.
std::size_t count_valid(const float* depth, std::size_t height, std::size_t width,
                        std::int64_t* offsets, const Stream& stream);

// Only valid pixels, in row-major order: points (n, 3) and pixels (n), the flat index
// i * width + j of each; offsets are those of count_valid.
void unproject_valid(const float* depth, std::size_t height, std::size_t width, const Intrinsics& k,
                     const Affine& world_from_camera, const std::int64_t* offsets, float* points,
                     std::int64_t* pixels, const Stream& stream);

}  // namespace mosaicmem::cuda
