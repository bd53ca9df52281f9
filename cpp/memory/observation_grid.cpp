#include "cpp/memory/observation_grid.hpp"

#include <cstring>

#include "cpp/base/clones.hpp"
#include "cpp/base/half.hpp"
#include "cpp/geometry/unproject.hpp"
#include "cpp/memory/smooth_depth.hpp"

namespace mosaicmem {

namespace {

MOSAICMEM_CLONES
void widen_float16(const std::uint16_t* __restrict bits, std::size_t n, float* __restrict out) {
    for (std::size_t i = 0; i < n; ++i) out[i] = from_float16(bits[i]);
}

MOSAICMEM_CLONES
void widen_bfloat16(const std::uint16_t* __restrict bits, std::size_t n, float* __restrict out) {
    for (std::size_t i = 0; i < n; ++i) out[i] = from_bfloat16(bits[i]);
}

}  // namespace

void widen(const void* latents, LatentType type, std::size_t offset, std::size_t n, float* out) {
    if (type == LatentType::float32) {
        std::memcpy(out, static_cast<const float*>(latents) + offset, n * sizeof(float));
    } else if (type == LatentType::float16) {
        widen_float16(static_cast<const std::uint16_t*>(latents) + offset, n, out);
    } else {
        widen_bfloat16(static_cast<const std::uint16_t*>(latents) + offset, n, out);
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

std::vector<float> living_pixel_depth(const Observation& observation) {
    const Keyframe& keyframe = *observation.keyframe;
    const std::size_t n = keyframe.subcells, scale = keyframe.image_scale;
    const std::vector<float> coarse =
        keyframe.subcell_depth ? living_subcell_depth(observation) : living_depth(observation);
    const std::size_t coarse_rows = n * keyframe.rows, coarse_columns = n * keyframe.columns;
    const std::size_t rows = scale * keyframe.rows, columns = scale * keyframe.columns;
    if (n == scale) return coarse;
    const double per_pixel = static_cast<double>(n) / static_cast<double>(scale);
    std::vector<float> depth(rows * columns);
    for (std::size_t r = 0; r < rows; ++r) {
        const double v = (static_cast<double>(r) + 0.5) * per_pixel;
        const Between y(v, coarse_rows);
        const std::size_t row = static_cast<std::size_t>(v) * coarse_columns;
        for (std::size_t c = 0; c < columns; ++c) {
            const double u = (static_cast<double>(c) + 0.5) * per_pixel;
            const float own = coarse[row + static_cast<std::size_t>(u)];
            depth[r * columns + c] =
                is_valid_depth(own)
                    ? static_cast<float>(smooth_depth(coarse.data(), coarse_columns, y,
                                                      Between(u, coarse_columns), own))
                    : 0.0f;
        }
    }
    return depth;
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
