// A store as kernels see it: tables that mirror it in device memory.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cpp/base/camera.hpp"
#include "cpp/base/host_device.hpp"
#include "cpp/base/tile.hpp"
#include "cpp/memory/score.hpp"

namespace mosaicmem::cuda {

constexpr std::size_t kChunk = 128;  // patches; a chunk belongs to one observation

struct MirroredObservation {
    Affine world_from_camera;
    Intrinsics k;
    double stride, timestamp;
    std::uint64_t first_id, first_slot;
    const void* latents;         // (rows, columns, channels), in device or pinned memory
    const float* depth;          // (rows, columns), 0 in dead patches
    const float* confidence;     // or null
    const float* subcell_depth;  // (subcells rows, subcells columns), 0 in dead patches; or null
    std::uint32_t rows, columns, patch_size, patch_columns, patch_count, first_chunk;
    std::uint32_t subcells;  // along the edge of a cell; 1 without subcell_depth
    Provenance provenance;

    MOSAICMEM_HOST_DEVICE Tile tile(std::size_t patch) const {
        return tile_of(patch, patch_columns, patch_size, rows, columns);
    }
};

struct Mirror {
    const float* centres;           // (chunks, kChunk, 3) in index coordinates, NaN if dead
    const std::int32_t* chunk_row;  // (chunks) row in `observations`; -1: free
    std::size_t chunks;
    const MirroredObservation* observations;
    Affine world_from_index;
    std::size_t channels;
    LatentType latent_type;
};

}  // namespace mosaicmem::cuda
