// An observation's grid, as a source of tokens.
#pragma once

#include <span>
#include <vector>

#include "cpp/memory/observation.hpp"
#include "cpp/memory/view_weight.hpp"

namespace mosaicmem {

// out[0..n) = latents[offset .. offset + n) as float32.
void widen(const void* latents, LatentType type, std::size_t offset, std::size_t n, float* out);

// The depth of the keyframe's cells, 0 in patches that are not alive, or not in `patches`.
std::vector<float> living_depth(const Observation& observation);
std::vector<float> depth_of(const Observation& observation, std::span<const std::size_t> patches);

// The same of its subcells; empty if it has none.
std::vector<float> living_subcell_depth(const Observation& observation);
std::vector<float> subcell_depth_of(const Observation& observation,
                                    std::span<const std::size_t> patches);

// The depth of each pixel of the keyframe's image, (image_scale rows, image_scale columns), from
// that of its subcells or cells: smooth within surfaces. 0 in patches that are not alive.
std::vector<float> living_pixel_depth(const Observation& observation);

// The keyframe with its own depth, and its latents if they are float32, else null.
SourceGrid grid_of(const Observation& observation);

}  // namespace mosaicmem
