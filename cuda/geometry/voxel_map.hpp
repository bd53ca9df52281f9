// Streaming fusion on the device: the twin of cpp/voxel_map.hpp, over memory that the caller has
// made.
//
// A hash with open addressing, whose sums are integers: positions within the voxel, colours and
// normals in fixed point. Adding integers gives the same whatever comes first, so a map is the same
// on every run; only the slots differ.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cpp/base/camera.hpp"
#include "cuda/base/stream.hpp"

namespace mosaicmem::cuda {

// Of a slot: count, position (3), colour (3), normal (3), first and last time.
constexpr std::size_t kVoxelWords = 12;

// Positions count from the voxel's corner in parts of its edge, normals in parts of 1.
constexpr double kPositionUnit = 0x1p-40;
constexpr double kNormalUnit = 0x1p-24;

struct VoxelTable {
    unsigned long long* keys;    // (capacity), ~0 where free
    long long* words;            // (capacity, kVoxelWords)
    unsigned long long* voxels;  // (1): slots that are taken
    std::size_t
        capacity;  // a power of two, at least twice the voxels and all pixels of the next frame
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

// Moves everything into a larger table, which is clear.
void move_voxels(const VoxelTable& from, const VoxelTable& to, const Stream& stream);

// Times are kept as integers that are ordered as they are.
inline constexpr long long kNoTime = 0x7FFFFFFFFFFFFFFF;

}  // namespace mosaicmem::cuda
