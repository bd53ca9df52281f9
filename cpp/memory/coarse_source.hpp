// The coarse grid of a source, and what it covers of those of targets.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "cpp/memory/view_weight.hpp"

namespace mosaicmem {

// Every step-th cell of every step-th row of a source, to be projected into several targets.
class CoarseSource {
  public:
    CoarseSource(const SourceGrid& source, std::size_t step);

    // One entry per sampled cell, followed by some that are worth nothing.
    void project(const TargetGrid& target, const ViewWeightScales& scales,
                 ProjectedCells& cells) const;

  private:
    SourceGrid source_;
    std::size_t step_, rows_, columns_;
    // Of whole vectors of cells, so that no loop has a remainder.
    std::vector<float> depth_, trust_;
    std::vector<std::int32_t> column_;
};

// Records the nearest source cell that lands in each cell of a target: its depth and its worth.
// `covered` is memory to work in.
void cover(const ProjectedCells& projected, const TargetGrid& target,
           std::vector<std::int32_t>& covered, float* depth, float* worth);

}  // namespace mosaicmem
