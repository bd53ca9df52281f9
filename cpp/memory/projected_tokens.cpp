#include "cpp/memory/projected_tokens.hpp"

#include "cpp/geometry/reproject.hpp"
#include "cpp/geometry/unproject.hpp"
#include "cpp/memory/observation_grid.hpp"

namespace mosaicmem {

ProjectedTokens project_tokens(const StoreState& state, std::span<const PatchId> ids,
                               const View& view) {
    ProjectedTokens tokens;
    tokens.channels = state.channels();
    for (std::size_t i = 0; i < ids.size(); ++i) {
        const std::size_t at = state.at_id(ids[i]);
        if (at == StoreState::kNowhere) continue;
        const Observation& observation = *state.observations()[at];
        const Keyframe& keyframe = *observation.keyframe;
        const Tile cells = observation.tile(ids[i] - observation.first_id);
        const Reprojection reproject(keyframe.k, observation.world_from_camera, view);
        for (std::size_t r = cells.row; r < cells.row_end; ++r) {
            for (std::size_t c = cells.column; c < cells.column_end; ++c) {
                const std::size_t cell = r * keyframe.columns + c;
                std::array<float, 3> p;
                if (!is_valid_depth(keyframe.depth[cell]) ||
                    !reproject((static_cast<double>(c) + 0.5) * keyframe.stride,
                               (static_cast<double>(r) + 0.5) * keyframe.stride,
                               keyframe.depth[cell], p[0], p[1], p[2])) {
                    continue;
                }
                const std::size_t end = tokens.latents.size();
                tokens.latents.resize(end + keyframe.channels);
                widen(keyframe.latents, keyframe.latent_type, cell * keyframe.channels,
                      keyframe.channels, &tokens.latents[end]);
                tokens.projected.insert(tokens.projected.end(), p.begin(), p.end());
                tokens.confidence.push_back(keyframe.confidence ? keyframe.confidence[cell] : 1.0f);
                tokens.patch.push_back(static_cast<std::int32_t>(i));
                tokens.source_row.push_back(static_cast<std::int32_t>(r));
                tokens.source_column.push_back(static_cast<std::int32_t>(c));
            }
        }
    }
    return tokens;
}

std::optional<PatchId> describe(const StoreState& state, std::span<const PatchId> ids,
                                std::vector<PatchInfo>& infos) {
    infos.clear();
    infos.reserve(ids.size());
    for (const PatchId id : ids) {
        const std::size_t at = state.at_id(id);
        if (at == StoreState::kNowhere) return id;
        const Observation& observation = *state.observations()[at];
        const Keyframe& keyframe = *observation.keyframe;
        const std::size_t patch = id - observation.first_id;
        PatchInfo info{observation.first_slot,
                       keyframe.frame_id,
                       keyframe.timestamp,
                       keyframe.provenance,
                       observation.world_from_camera,
                       keyframe.k,
                       patch / observation.patch_columns,
                       patch % observation.patch_columns,
                       {}};
        observation.centre(patch, info.centre);
        infos.push_back(info);
    }
    return std::nullopt;
}

}  // namespace mosaicmem
