// A store as kernels see it: tables that mirror it in device memory.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cpp/base/camera.hpp"
#include "cpp/base/host_device.hpp"
#include "cpp/base/tile.hpp"
#include "cpp/memory/score.hpp"

namespace mosaicmem::cuda {

constexpr std::size_t kChunk = 128;  // patches; a chunk is of one observation

struct MirroredObservation {
    Affine world_from_camera;
    Intrinsics k;
    double stride, timestamp;
    std::uint64_t first_id, first_slot;
    const void* latents;      // (rows, columns, channels), on the device or in pinned memory
    const float* depth;       // (rows, columns), 0 where nothing lives
    const float* confidence;  // or null
    std::uint32_t rows, columns, patch_size, patch_columns, patch_count, first_chunk;
    Provenance provenance;

    MOSAICMEM_HOST_DEVICE Tile tile(std::size_t patch) const {
        return tile_of(patch, patch_columns, patch_size, rows, columns);
    }
};

struct Mirror {
    const float* centres;           // (chunks, kChunk, 3) in the index, NaN where nothing lives
    const std::int32_t* chunk_row;  // (chunks) of the observations; -1: nothing there
    std::size_t chunks;
    const MirroredObservation* observations;
    Affine world_from_index;
    std::size_t channels;
    LatentType latent_type;
};

}  // namespace mosaicmem::cuda
