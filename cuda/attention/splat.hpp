// Warped Latent, forward, on the device: the twin of cpp/compose.hpp.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cpp/base/cells.hpp"
#include "cuda/base/stream.hpp"

namespace mosaicmem::cuda {

struct SplatTokens {
    const float* position;  // (count, 2): y, x in cell coordinates
    const float* depth;     // (count) metres
    const float* weight;    // (count) or null for 1
    std::size_t count;      // below 2^30
};

struct SplatGrid {
    std::size_t rows, columns;
    std::uint8_t* coverage;  // (rows, columns)
    float* depth;            // (rows, columns)
    std::int32_t* source;    // (rows, columns)
};

// Room that the caller has made: front (rows, columns), and for bilinear splats begin (rows *
// columns + 1) and entry (4 * count).
struct SplatScratch {
    unsigned long long* front;
    unsigned *begin, *entry;
};

struct SplatOptions {
    Splat mode;
    float depth_tolerance;
};

// See mosaicmem::splat and mosaicmem::splat_adjoint, of which these are the results to the last
// bit.
template <class T>
void splat(const SplatTokens& tokens, const SplatOptions& options, const T* latents,
           std::size_t channels, const SplatGrid& grid, const SplatScratch& scratch, T* canvas,
           const Stream& stream);

// total (rows, columns), and begin and entry as above, are scratch of the bilinear adjoint.
template <class T>
void splat_adjoint(const SplatTokens& tokens, const SplatOptions& options, const SplatGrid& grid,
                   const T* canvas, std::size_t channels, unsigned* begin, unsigned* entry,
                   T* total, T* latents, const Stream& stream);

}  // namespace mosaicmem::cuda
