// Streaming fusion on the GPU: the counterpart of cpp/geometry/voxel_map.hpp, in memory that the
// caller allocates.
//
// A hash table with open addressing and integer sums: positions within the voxel, colours and
// normals in fixed point. Integer sums do not depend on the order of additions, so a map is the
// same on every run; only the slots differ.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cpp/base/camera.hpp"
#include "cuda/base/stream.hpp"

namespace mosaicmem::cuda {

// Words of a slot: count, position (3), colour (3), normal (3), first and last time.
constexpr std::size_t kVoxelWords = 12;

// Units of the fixed-point sums: positions count from the voxel's corner as a fraction of its edge,
// normals as a fraction of 1.
constexpr double kPositionUnit = 0x1p-40;
constexpr double kNormalUnit = 0x1p-24;

struct VoxelTable {
    unsigned long long* keys;    // (capacity), ~0 where free
    long long* words;            // (capacity, kVoxelWords)
    unsigned long long* voxels;  // (1): number of occupied slots
    std::size_t
        capacity;  // a power of two, at least twice (the voxels plus all pixels of the next frame)
};

struct RgbdFrame {
    const float* depth;         // (height, width) metres
    const std::uint8_t* color;  // (height, width, 3) or null
    std::size_t height, width;
    Intrinsics k;
    Affine world_from_camera;
    double timestamp;  // seconds
};

void clear_voxels(const VoxelTable& table, const Stream& stream);

// Adds a frame. counts (3): points fused, points out of range, new voxels.
void add_voxels(const VoxelTable& table, const RgbdFrame& frame, double voxel_size,
                unsigned long long* counts, const Stream& stream);

// Moves all voxels into a larger table, which must be clear.
void move_voxels(const VoxelTable& from, const VoxelTable& to, const Stream& stream);

// Times are stored as integers of the same order.
inline constexpr long long kNoTime = 0x7FFFFFFFFFFFFFFF;

}  // namespace mosaicmem::cuda
