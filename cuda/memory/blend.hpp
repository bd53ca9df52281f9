// Canvases of a window from whole keyframes, on the device: the twin of cpp/blend.cpp and
// cpp/mosaic.cpp.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cpp/memory/blend.hpp"
#include "cuda/base/stream.hpp"
#include "cuda/memory/mirror.hpp"

namespace mosaicmem::cuda {

struct BlendScratch {
    float* projected;         // (views, picks, room, 5): of each source cell; see ProjectedCell
    std::int32_t* next;       // (views, picks, room): lists of source cells by where they land
    std::int32_t* head;       // (views, picks, target cells)
    std::int32_t* reach;      // (views, picks): target cells that a source cell may reach
    unsigned* front;          // (views, target cells, 2): bits of depth, of surfaces and of fringes
    float *surface, *closed;  // (views, target cells)
    std::size_t room;         // cells of the largest source
};

// (views, rows, columns), latents (..., channels); source is a row of the mirror.
struct BlendedOnDevice {
    float* latents;
    std::uint8_t* coverage;
    float* depth;
    std::int32_t* source;
    float* weight;
};

// Targets are in device memory, of rows x columns cells each. picks (views, picks): rows of the
// mirror, in the order in which they count; -1 and what is given twice are skipped.
void blend(const Mirror& mirror, const TargetGrid* targets, std::size_t views, std::size_t rows,
           std::size_t columns, const std::int32_t* picks, std::size_t count,
           const BlendOptions& options, const BlendScratch& scratch, const BlendedOnDevice& blended,
           const Stream& stream);

// Channels that a canvas may have.
constexpr std::size_t kMostChannels = 4096;

}  // namespace mosaicmem::cuda
