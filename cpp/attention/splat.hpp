// Warped Latent, forward: splats tokens into a target grid with a z-buffer.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cpp/base/cells.hpp"

namespace mosaicmem {

// Positions, depths and weights of one target frame's tokens.
struct SplatTokens {
    const float* position;  // (count, 2): y, x in cell coordinates, integers at cell centres
    const float* depth;     // (count) metres
    const float* weight;    // (count) positive, or null for 1; used by bilinear
    std::size_t count;
};

struct SplatGrid {
    std::size_t rows, columns;
    std::uint8_t* coverage;  // (rows, columns)
    float* depth;            // (rows, columns) of the front surface, 0 where uncovered
    std::int32_t* source;    // (rows, columns) index of the nearest token, -1 where uncovered
};

struct SplatOptions {
    Splat mode;
    float depth_tolerance;
};

// latents (count, channels) -> canvas (rows, columns, channels), zero where uncovered; also fills
// `grid`. The front token of a cell is the smallest by (depth, index); `nearest` and `block` copy
// it. `bilinear` averages all tokens within depth_tolerance (relative) of it, by weight times
// bilinear weight, ignoring bilinear weights under kMinBilinear. Tokens whose position or depth is
// not finite, or depth <= 0, are skipped. T is float or double.
template <class T>
void splat(const SplatTokens& tokens, const SplatOptions& options, const T* latents,
           std::size_t channels, const SplatGrid& grid, T* canvas);

// The adjoint of splat with respect to latents: the gradient of canvas -> the gradient of latents.
// `grid` is as splat filled it.
template <class T>
void splat_adjoint(const SplatTokens& tokens, const SplatOptions& options, const SplatGrid& grid,
                   const T* canvas, std::size_t channels, T* latents);

}  // namespace mosaicmem
