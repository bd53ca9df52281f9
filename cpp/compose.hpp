// Warped Latent, forward: splats tokens into a target grid with a z-buffer.
#pragma once

#include <cstddef>
#include <cstdint>

namespace mosaicmem {

enum class Splat {
    nearest,   // the cell a token lands in
    block,     // the 2x2 cells around it
    bilinear,  // the 2x2 cells around it, averaged by bilinear weight over the tokens at the front
               // surface
};

// Tokens of one target frame.
struct SplatTokens {
    const float* latents;   // (count, channels)
    const float* position;  // (count, 2): x, y in cell coordinates, integers at cell centres
    const float* depth;     // (count) metres
    const float* weight;    // (count) positive, or null for 1; used by bilinear
    std::size_t count, channels;
};

struct SplatGrid {
    std::size_t rows, columns;
    float* canvas;           // (rows, columns, channels), zero where uncovered
    std::uint8_t* coverage;  // (rows, columns)
    float* depth;            // (rows, columns) of the front surface, 0 where uncovered
    std::int32_t* source;    // (rows, columns) index of the nearest token, -1 where uncovered
};

// The front token of a cell is the least by (depth, index); `nearest` and `block` copy it.
// `bilinear` averages all tokens within depth_tolerance (relative) of it, by weight times bilinear
// weight; bilinear weights under kMinBilinear count for nothing. Tokens whose position or depth is
// not finite, or depth <= 0, are passed over.
constexpr float kMinBilinear = 1.0f / 64;
void splat(const SplatTokens& tokens, Splat mode, float depth_tolerance, const SplatGrid& grid);

}  // namespace mosaicmem
