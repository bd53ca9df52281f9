// Canvases in the colours of the scene: each pixel takes the colour of the surface point that it
// sees from the image of the keyframe that its cell is mostly from.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "cpp/base/camera.hpp"
#include "cpp/memory/view_weight.hpp"

namespace mosaicmem {

struct ColorSource {
    const std::uint8_t* pixels;  // (rows, columns, 3); null: no image
    std::size_t rows, columns;
    double scale;  // pixels of it for each pixel of the keyframe's camera
    Intrinsics k;
    Affine camera_from_world;
};

// depth and source (rows, columns) are those of the target's canvas; source -1 is uncovered.
// `others` (rows, columns, 3) are the colours of cells whose source has no image. out is
// (scale rows, scale columns, 3), in [0, 1]; zero where uncovered. Between neighbouring cells of
// one surface, inverse depth is interpolated, which is exact for planes.
void color_canvas(const TargetGrid& target, const float* depth, const std::int32_t* source,
                  const float* others, std::span<const ColorSource> sources, std::size_t scale,
                  float* out, int num_threads);

}  // namespace mosaicmem
