// Selects the whole keyframes that best show a window of targets, strategy visible_coverage.
#pragma once

#include <span>
#include <vector>

#include "cpp/memory/store_state.hpp"
#include "cpp/memory/view_weight.hpp"

namespace mosaicmem {

struct KeyframeParams {
    std::size_t per_view, per_window;  // at most this many keyframes
    double depth_tolerance;            // relative thickness of a surface
    ViewWeightScales scales;
    bool only_images = false;  // pass over keyframes that keep no image

    bool passes_over(const Keyframe& keyframe) const {
        return scales.excludes(keyframe.provenance) || (only_images && !keyframe.image);
    }
};

constexpr std::size_t kCandidates = 96;  // per window; no more are ever picked

// For each target, the observations (by first_slot) that show it best, best first.
std::vector<std::vector<Slot>> select_keyframes(const StoreState& state,
                                                std::span<const TargetGrid> targets,
                                                const KeyframeParams& params, int num_threads);

// The observations that select_keyframes() compares cell by cell, in slot order.
std::vector<Slot> keyframe_candidates(const StoreState& state, std::span<const TargetGrid> targets,
                                      const KeyframeParams& params, int num_threads);

}  // namespace mosaicmem
