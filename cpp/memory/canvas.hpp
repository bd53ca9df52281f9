// Canvases of targets of equal grids, composed from whole observations (by first_slot) or from
// patches; those that are not in the store, or do not live, are skipped.
#pragma once

#include <span>
#include <vector>

#include "cpp/memory/answers.hpp"
#include "cpp/memory/blend.hpp"
#include "cpp/memory/store_state.hpp"

namespace mosaicmem {

// Both return the observations in use, in the order of their slots: the table of `source`. Room for
// channels is as of retrieve_tokens().
ObservationTable compose_keyframes(const StoreState& state, std::span<const TargetGrid> targets,
                                   const std::vector<std::vector<Slot>>& observations,
                                   const BlendOptions& options, const CanvasArrays& canvases,
                                   int num_threads);
ObservationTable compose_patches(const StoreState& state, std::span<const TargetGrid> targets,
                                 const std::vector<std::vector<PatchId>>& patches,
                                 const BlendOptions& options, const CanvasArrays& canvases,
                                 int num_threads);

}  // namespace mosaicmem
