// Projects the tokens of patches into a view, and describes patches.
#pragma once

#include <optional>
#include <span>
#include <vector>

#include "cpp/memory/store_state.hpp"

namespace mosaicmem {

struct PatchInfo {
    Slot observation;  // first_slot of its observation
    std::int64_t frame_id;
    double timestamp;
    Provenance provenance;
    Affine world_from_camera;
    Intrinsics k;
    std::size_t row, column;  // in the patch grid
    Vec3 centre;              // world
};

// Tokens of patches, projected into the target view. All arrays have one entry per token.
struct ProjectedTokens {
    std::size_t channels = 0;
    std::vector<float> latents;                           // (n, channels)
    std::vector<float> projected;                         // (n, 3): u, v in pixels, z in metres
    std::vector<float> confidence;                        // (n)
    std::vector<std::int32_t> patch;                      // (n): position in the list of ids given
    std::vector<std::int32_t> source_row, source_column;  // (n): cell in the source keyframe
};

// Skips ids that are not alive.
ProjectedTokens project_tokens(const StoreState& state, std::span<const PatchId> ids,
                               const View& view);

// Returns the first id that is not alive, if any.
std::optional<PatchId> describe(const StoreState& state, std::span<const PatchId> ids,
                                std::vector<PatchInfo>& infos);

}  // namespace mosaicmem
