// Composes the canvases of a window from whole keyframes on the GPU: the counterpart of
// cpp/memory/blend.cpp and cpp/memory/canvas.cpp.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cpp/memory/answers.hpp"
#include "cpp/memory/blend.hpp"
#include "cuda/base/stream.hpp"
#include "cuda/memory/mirror.hpp"

namespace mosaicmem::cuda {

struct BlendScratch {
    float* projected;         // (views, picks, room, 5): ProjectedCell of each source part
    std::int32_t* next;       // (views, picks, room): linked lists by landing target cell
    std::int32_t* head;       // (views, picks, target cells): first source part of each list
    std::int32_t* reach;      // (views, picks): largest spread of a source part, rounded up
    unsigned* front;          // (views, target cells, 2): bits of depth, of surfaces and of fringes
    float *surface, *closed;  // (views, target cells)
    std::size_t room;         // parts of the source with the most
};

// room: parts (subcells, or cells without) of the source with the most.
std::size_t blend_workspace_bytes(std::size_t views, std::size_t cells, std::size_t picks,
                                  std::size_t room);

// targets: in device memory, rows x columns cells each. picks (views, picks): rows of the mirror,
// in summation order; -1 and duplicates are skipped. `source` holds rows of the mirror.
void blend(const Mirror& mirror, const TargetGrid* targets, std::size_t views, std::size_t rows,
           std::size_t columns, const std::int32_t* picks, std::size_t count, std::size_t room,
           const BlendOptions& options, const CanvasArrays& canvases, void* workspace,
           const Stream& stream);

// The most channels that a canvas may have.
constexpr std::size_t kMostChannels = 4096;

}  // namespace mosaicmem::cuda
