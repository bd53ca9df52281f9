// Finds the few keyframes of a store that selection compares cell by cell.
//
// The cost does not grow with the store. The index gives a bounded sample of the patches in each
// frustum. In each bin of the image, the keyframes with the nearest patches, which may occlude
// others, and those with the patches of highest worth become candidates. In a store of few
// keyframes, all are candidates.
#pragma once

#include <cstddef>
#include <vector>

#include "cpp/memory/keyframe_selection.hpp"

namespace mosaicmem {

// Positions of observations, ascending. `stride`: pixels per latent cell, not per cell of the
// targets, which are coarse.
std::vector<std::size_t> find_candidates(const StoreState& store,
                                         const std::vector<TargetGrid>& targets, double stride,
                                         const KeyframeParams& params, int num_threads);

}  // namespace mosaicmem
