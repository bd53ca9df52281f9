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

namespace {

// The parts of `values`, scale x scale for each cell, that belong to patches; 0 elsewhere.
std::vector<float> part_of(const Observation& observation, const float* values, std::size_t scale,
                           std::span<const std::size_t> patches) {
    const std::size_t columns = scale * observation.keyframe->columns;
    std::vector<float> part(scale * observation.keyframe->rows * columns, 0.0f);
    for (const std::size_t patch : patches) {
        const Tile cells = observation.tile(patch);
        for (std::size_t r = scale * cells.row; r < scale * cells.row_end; ++r) {
            const std::size_t first = r * columns + scale * cells.column;
            std::memcpy(&part[first], values + first,
                        scale * (cells.column_end - cells.column) * sizeof(float));
        }
    }
    return part;
}

std::vector<std::size_t> living_patches(const Observation& observation) {
    std::vector<std::size_t> patches;
    patches.reserve(observation.alive_count);
    observation.for_each_alive([&](std::size_t patch) { patches.push_back(patch); });
    return patches;
}

}  // namespace

std::vector<float> depth_of(const Observation& observation, std::span<const std::size_t> patches) {
    return part_of(observation, observation.keyframe->depth, 1, patches);
}

std::vector<float> living_depth(const Observation& observation) {
    return depth_of(observation, living_patches(observation));
}

std::vector<float> subcell_depth_of(const Observation& observation,
                                    std::span<const std::size_t> patches) {
    const Keyframe& keyframe = *observation.keyframe;
    if (!keyframe.subcell_depth) return {};
    return part_of(observation, keyframe.subcell_depth, keyframe.subcells, patches);
}

std::vector<float> living_subcell_depth(const Observation& observation) {
    return subcell_depth_of(observation, living_patches(observation));
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
            keyframe.provenance,
            keyframe.subcell_depth,
            keyframe.subcells};
}

}  // namespace mosaicmem
