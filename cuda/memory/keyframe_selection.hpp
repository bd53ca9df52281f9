// Selects the whole keyframes that best show a window, on the GPU: the counterpart of what
// cpp/memory/keyframe_selection.cpp does cell by cell. Candidates come from the index on the host.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cpp/memory/coarse_grid.hpp"
#include "cuda/base/stream.hpp"
#include "cuda/memory/mirror.hpp"

namespace mosaicmem::cuda {

struct SelectionScratch {
    unsigned long long* nearest;  // (candidates, views, cells)
    float* worth;                 // (candidates, views, cells)
    float* best;                  // (views, cells)
    float* gains;                 // (candidates)
    std::int32_t* shared;         // (per_window): positions among the candidates, -1 for none
};

constexpr std::size_t kMostCoarseCells = 1 << 15;  // per target, to fit into shared memory

std::size_t select_keyframes_workspace_bytes(std::size_t views, std::size_t cells,
                                             std::size_t candidates, std::size_t per_window);

// targets: on the coarse grid, in device memory, `cells` cells each. candidates: rows of the
// mirror, in device memory. picks (views, per_view): rows of the mirror, best first, then -1.
void select_keyframes(const Mirror& mirror, const TargetGrid* targets, std::size_t views,
                      std::size_t cells, const std::int32_t* candidates, std::size_t count,
                      std::size_t per_window, std::size_t per_view, float depth_tolerance,
                      const ViewWeightScales& scales, std::int32_t* picks, void* workspace,
                      const Stream& stream);

}  // namespace mosaicmem::cuda
