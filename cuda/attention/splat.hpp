// Warped Latent, forward, on the GPU: the counterpart of cpp/attention/splat.hpp.
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

struct SplatOptions {
    Splat mode;
    float depth_tolerance;
};

// Bytes of workspace, the same for splat and splat_adjoint.
std::size_t splat_workspace_bytes(std::size_t count, std::size_t rows, std::size_t columns,
                                  Splat mode);

// See mosaicmem::splat and mosaicmem::splat_adjoint; the results are bit-identical. T is float or
// double.
template <class T>
void splat(const SplatTokens& tokens, const SplatOptions& options, const T* latents,
           std::size_t channels, const SplatGrid& grid, T* canvas, void* workspace,
           const Stream& stream);
template <class T>
void splat_adjoint(const SplatTokens& tokens, const SplatOptions& options, const SplatGrid& grid,
                   const T* canvas, std::size_t channels, T* latents, void* workspace,
                   const Stream& stream);

}  // namespace mosaicmem::cuda
