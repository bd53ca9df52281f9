#include "cpp/memory/observation_grid.hpp"

#include <cstring>

#include "cpp/base/half.hpp"

namespace mosaicmem {

void widen(const void* latents, LatentType type, std::size_t offset, std::size_t n, float* out) {
    if (type == LatentType::float32) {
        std::memcpy(out, static_cast<const float*>(latents) + offset, n * sizeof(float));
        return;
    }
    const auto* bits = static_cast<const std::uint16_t*>(latents) + offset;
    for (std::size_t i = 0; i < n; ++i) {
        out[i] = type == LatentType::float16 ? from_float16(bits[i]) : from_bfloat16(bits[i]);
    }
}

std::vector<float> depth_of(const Observation& observation, std::span<const std::size_t> patches) {
    const Keyframe& keyframe = *observation.keyframe;
    std::vector<float> depth(keyframe.rows * keyframe.columns, 0.0f);
    for (const std::size_t patch : patches) {
        const Tile cells = observation.tile(patch);
        for (std::size_t r = cells.row; r < cells.row_end; ++r) {
            const std::size_t first = r * keyframe.columns + cells.column;
            std::memcpy(&depth[first], keyframe.depth + first,
                        (cells.column_end - cells.column) * sizeof(float));
        }
    }
    return depth;
}

std::vector<float> living_depth(const Observation& observation) {
    std::vector<std::size_t> patches;
    patches.reserve(observation.alive_count);
    observation.for_each_alive([&](std::size_t patch) { patches.push_back(patch); });
    return depth_of(observation, patches);
}

SourceGrid grid_of(const Observation& observation) {
    const Keyframe& keyframe = *observation.keyframe;
    const bool is_float = keyframe.latent_type == LatentType::float32;
    return {is_float ? static_cast<const float*>(keyframe.latents) : nullptr,
            keyframe.depth,
            keyframe.confidence,
            keyframe.rows,
            keyframe.columns,
            keyframe.stride,
            keyframe.k,
            observation.world_from_camera,
            keyframe.timestamp,
            keyframe.provenance};
}

}  // namespace mosaicmem
