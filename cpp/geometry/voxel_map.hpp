// Streaming fusion of posed depth images into a hash map of voxels.
//
// A frame is cut into blocks of rows, and each block sums its pixels per voxel independently; then
// each shard of the map adds the sums that belong to it, block by block in order. Neither blocks
// nor shards depend on the number of threads, so neither do the sums. The cost is that of the
// frame's own points: the map is touched once per voxel and block.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "cpp/base/camera.hpp"

namespace mosaicmem {

// Sums over the points that fell into one voxel. Means are taken on export.
struct Voxel {
    std::uint64_t key;
    std::uint64_t count;
    double position[3];            // metres
    double color[3];               // 0..255
    double normal[3];              // sum of unit normals
    double first_time, last_time;  // seconds
};

// Open addressing with linear probing over indices into a dense array of voxels.
class VoxelTable {
  public:
    // The voxel of `key`; inserts an empty one if it is new.
    Voxel& at(std::uint64_t key);

    // Reserves memory, so that inserting `more` new voxels cannot fail.
    void make_room(std::size_t more);

    const std::vector<Voxel>& voxels() const { return voxels_; }
    std::size_t nbytes() const;

  private:
    void grow();

    std::vector<Voxel> voxels_;
    std::vector<std::uint32_t> slots_;  // index + 1 into voxels_, 0 = free
};

struct RgbdFrame {
    const float* depth;         // (height, width) metres
    const std::uint8_t* color;  // (height, width, 3) or null
    std::size_t height, width;
    Intrinsics k;
    Affine world_from_camera;
    double timestamp;  // seconds
};

struct ColoredPoints {
    const float* points;        // (count, 3) world, metres
    const std::uint8_t* color;  // (count, 3) or null
    const float* normals;       // (count, 3) or null
    std::size_t count;
    double timestamp;  // seconds
};

// What the points of one block of an input add to the map.
struct BlockSums {
    VoxelTable table;
    std::size_t points = 0, out_of_range = 0;
};

struct FusionCounts {
    std::size_t points = 0;        // fused
    std::size_t out_of_range = 0;  // further than 2^20 voxels from the origin: dropped
    std::size_t new_voxels = 0;
};

class VoxelMap {
  public:
    explicit VoxelMap(double voxel_size) : voxel_size_(voxel_size) {}

    // An exception leaves the map unchanged.
    FusionCounts add(const RgbdFrame& frame, int num_threads);
    FusionCounts add(const ColoredPoints& cloud, int num_threads);

    std::size_t size() const;
    std::size_t nbytes() const;

    // Voxels with at least min_count points, ordered by key: the order does not depend on how the
    // map was built.
    std::vector<const Voxel*> sorted_voxels(std::size_t min_count) const;

  private:
    static constexpr std::size_t kShards = 16;

    // Merges blocks in order; normals are transformed from the input's frame to the world.
    FusionCounts merge_all(const std::vector<BlockSums>& sums, const Affine& world_from_input,
                           double timestamp, int num_threads);

    double voxel_size_;
    std::array<VoxelTable, kShards> shards_;
};

}  // namespace mosaicmem
