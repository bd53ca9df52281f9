// Depth images to points, on the device: the twin of cpp/unproject.hpp.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "cpp/base/camera.hpp"
#include "cuda/base/stream.hpp"

namespace mosaicmem::cuda {

// depth (images, height, width) -> points (images, height, width, 3), zero where depth is invalid,
// and valid (images, height, width); one world_from_camera an image.
void unproject_dense(const float* depth, std::size_t height, std::size_t width, const Intrinsics& k,
                     std::span<const Affine> world_from_camera, float* points, std::uint8_t* valid,
                     const Stream& stream);

}  // namespace mosaicmem::cuda
