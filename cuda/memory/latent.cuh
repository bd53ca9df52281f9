// Reads latents of keyframes, whatever their storage type.
#pragma once

#include "cpp/base/tile.hpp"
#include "cuda/base/number.cuh"

namespace mosaicmem::cuda {

__device__ __forceinline__ float latent_at(const void* latents, LatentType type, std::size_t i) {
    if (type == LatentType::float32) return static_cast<const float*>(latents)[i];
    if (type == LatentType::float16) return to_float(static_cast<const float16*>(latents)[i]);
    return to_float(static_cast<const bfloat16*>(latents)[i]);
}

}  // namespace mosaicmem::cuda
