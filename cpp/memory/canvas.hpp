// Composes canvases, for targets of equal grid size, from whole observations (by first_slot) or
// from patches. Skips observations that are not in the store and patches that are not alive.
#pragma once

#include <span>
#include <vector>

#include "cpp/memory/answers.hpp"
#include "cpp/memory/blend.hpp"
#include "cpp/memory/store_state.hpp"

namespace mosaicmem {

// All return the observations used, in slot order: the table that `source` refers to.
// canvases.channels follows the rules of retrieve_tokens().
ObservationTable compose_keyframes(const StoreState& state, std::span<const TargetGrid> targets,
                                   const std::vector<std::vector<Slot>>& observations,
                                   const BlendOptions& options, const CanvasArrays& canvases,
                                   int num_threads);
ObservationTable compose_patches(const StoreState& state, std::span<const TargetGrid> targets,
                                 const std::vector<std::vector<PatchId>>& patches,
                                 const BlendOptions& options, const CanvasArrays& canvases,
                                 int num_threads);

// Composes colours, three channels in [0, 1], from the images of whole observations. Those without
// an image show nothing.
ObservationTable compose_images(const StoreState& state, std::span<const TargetGrid> targets,
                                const std::vector<std::vector<Slot>>& observations,
                                const BlendOptions& options, const CanvasArrays& canvases,
                                int num_threads);

}  // namespace mosaicmem
