#include "cpp/geometry/voxel_map.hpp"

#include <algorithm>
#include <limits>

#include "cpp/base/parallel.hpp"
#include "cpp/geometry/unproject.hpp"
#include "cpp/geometry/voxel_geometry.hpp"

namespace mosaicmem {
namespace {

constexpr std::size_t kBlockRows = 16;
constexpr std::size_t kBlockPoints = 1 << 14;
constexpr std::size_t kSerial = 1 << 12;  // voxels that are merged by one thread
std::size_t shard_of(std::uint64_t key, std::size_t shards) { return (mix(key) >> 24) % shards; }

constexpr Affine kIdentity = {{1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0}};

// Points of rows [first, last) in the camera frame, where coordinates are small: normals are
// differences of points, which float32 cannot resolve far from the world's origin. Invalid pixels
// give meaningless points.
void unproject_rows(const RgbdFrame& frame, std::size_t first, std::size_t last, Point* points) {
    const PixelRay ray(frame.k, kIdentity);
    for (std::size_t i = first; i < last; ++i) {
        const RowRay row(ray, i);
        for (std::size_t j = 0; j < frame.width; ++j) {
            points[(i - first) * frame.width + j] =
                point_at(row, j, frame.depth[i * frame.width + j]);
        }
    }
}

// The unit normal, in the camera frame, of the surface at (i, j) from its right and lower
// neighbours (left and upper at the border), facing the camera; false where a neighbour is missing
// or lies on another surface.
bool surface_normal(const RgbdFrame& frame, const Point* points, std::size_t first, std::size_t i,
                    std::size_t j, float normal[3]) {
    const std::size_t ni = neighbour_of(i, frame.height), nj = neighbour_of(j, frame.width);
    if (ni >= frame.height || nj >= frame.width) return false;  // one row or one column
    const float z = frame.depth[i * frame.width + j];
    if (!same_surface(z, frame.depth[i * frame.width + nj]) ||
        !same_surface(z, frame.depth[ni * frame.width + j])) {
        return false;
    }
    return normal_of(points[(i - first) * frame.width + j], points[(i - first) * frame.width + nj],
                     points[(ni - first) * frame.width + j], normal);
}

void sum_block(const RgbdFrame& frame, std::size_t first, std::size_t last, float inverse_size,
               BlockSums& sums) {
    // One more row than the block, on the side of the neighbours that normals need.
    const std::size_t from = last == frame.height && first > 0 ? first - 1 : first;
    const std::size_t to = std::min(last + 1, frame.height);
    std::vector<Point> points((to - from) * frame.width);
    unproject_rows(frame, from, to, points.data());
    const PixelRay ray(frame.k, frame.world_from_camera);
    std::uint64_t last_key = ~0ull;
    Voxel* voxel = nullptr;
    for (std::size_t i = first; i < last; ++i) {
        const RowRay row(ray, i);
        for (std::size_t j = 0; j < frame.width; ++j) {
            const std::size_t pixel = i * frame.width + j;
            if (!is_valid_depth(frame.depth[pixel])) continue;
            const Point p = point_at(row, j, frame.depth[pixel]);
            std::uint64_t key;
            if (!voxel_key(p, inverse_size, key)) {
                ++sums.out_of_range;
                continue;
            }
            if (key != last_key) voxel = &sums.table.at(key);  // neighbours mostly share a voxel
            last_key = key;
            ++sums.points;
            ++voxel->count;
            voxel->position[0] += p.x, voxel->position[1] += p.y, voxel->position[2] += p.z;
            if (frame.color) {
                const std::uint8_t* rgb = frame.color + 3 * pixel;
                voxel->color[0] += rgb[0], voxel->color[1] += rgb[1], voxel->color[2] += rgb[2];
            }
            float n[3];
            if (surface_normal(frame, points.data(), from, i, j, n)) {
                voxel->normal[0] += n[0], voxel->normal[1] += n[1], voxel->normal[2] += n[2];
            }
        }
    }
}

void sum_points(const ColoredPoints& cloud, std::size_t first, std::size_t last, float inverse_size,
                BlockSums& sums) {
    for (std::size_t i = first; i < last; ++i) {
        const float* p = cloud.points + 3 * i;
        std::uint64_t key;
        if (!voxel_key({p[0], p[1], p[2]}, inverse_size, key)) {
            ++sums.out_of_range;
            continue;
        }
        Voxel& voxel = sums.table.at(key);
        ++sums.points;
        ++voxel.count;
        for (std::size_t axis = 0; axis < 3; ++axis) {
            voxel.position[axis] += p[axis];
            if (cloud.color) voxel.color[axis] += cloud.color[3 * i + axis];
            if (cloud.normals) voxel.normal[axis] += cloud.normals[3 * i + axis];
        }
    }
}

// Adds a block's sums to the map's, and transforms normals from the input's frame to the world.
void merge(const Voxel& from, const Affine& world_from_input, double timestamp, Voxel& into) {
    const auto& m = world_from_input.m;
    into.count += from.count;
    for (std::size_t axis = 0; axis < 3; ++axis) {
        into.position[axis] += from.position[axis];
        into.color[axis] += from.color[axis];
        into.normal[axis] += m[4 * axis] * from.normal[0] + m[4 * axis + 1] * from.normal[1] +
                             m[4 * axis + 2] * from.normal[2];
    }
    into.first_time = std::min(into.first_time, timestamp);
    into.last_time = std::max(into.last_time, timestamp);
}

}  // namespace

Voxel& VoxelTable::at(std::uint64_t key) {
    if (2 * (voxels_.size() + 1) > slots_.size()) grow();
    const std::size_t mask = slots_.size() - 1;
    std::size_t slot = mix(key) & mask;
    while (slots_[slot] != 0) {
        Voxel& voxel = voxels_[slots_[slot] - 1];
        if (voxel.key == key) return voxel;
        slot = (slot + 1) & mask;
    }
    voxels_.push_back({key,
                       0,
                       {},
                       {},
                       {},
                       std::numeric_limits<double>::infinity(),
                       -std::numeric_limits<double>::infinity()});
    slots_[slot] = static_cast<std::uint32_t>(voxels_.size());
    return voxels_.back();
}

void VoxelTable::make_room(std::size_t more) {
    const std::size_t size = voxels_.size() + more;
    if (voxels_.capacity() < size) voxels_.reserve(std::max(2 * voxels_.size(), size));
    while (2 * size > slots_.size()) grow();
}

void VoxelTable::grow() {
    slots_.assign(std::max<std::size_t>(1024, 2 * slots_.size()), 0);
    const std::size_t mask = slots_.size() - 1;
    for (std::size_t i = 0; i < voxels_.size(); ++i) {
        std::size_t slot = mix(voxels_[i].key) & mask;
        while (slots_[slot] != 0) slot = (slot + 1) & mask;
        slots_[slot] = static_cast<std::uint32_t>(i + 1);
    }
}

std::size_t VoxelTable::nbytes() const {
    return voxels_.capacity() * sizeof(Voxel) + slots_.capacity() * sizeof(std::uint32_t);
}

FusionCounts VoxelMap::add(const RgbdFrame& frame, int num_threads) {
    const std::size_t blocks = (frame.height + kBlockRows - 1) / kBlockRows;
    const std::size_t grain = (1 << 14) / (kBlockRows * frame.width + 1) + 1;
    const float inverse_size = static_cast<float>(1.0 / voxel_size_);
    std::vector<BlockSums> sums(blocks);
    parallel_for(blocks, grain, num_threads, [&](std::size_t begin, std::size_t end) {
        for (std::size_t b = begin; b < end; ++b) {
            const std::size_t first = b * kBlockRows;
            sum_block(frame, first, std::min(first + kBlockRows, frame.height), inverse_size,
                      sums[b]);
        }
    });
    return merge_all(sums, frame.world_from_camera, frame.timestamp, num_threads);
}

FusionCounts VoxelMap::add(const ColoredPoints& cloud, int num_threads) {
    const float inverse_size = static_cast<float>(1.0 / voxel_size_);
    std::vector<BlockSums> sums((cloud.count + kBlockPoints - 1) / kBlockPoints);
    parallel_for(sums.size(), 1, num_threads, [&](std::size_t begin, std::size_t end) {
        for (std::size_t b = begin; b < end; ++b) {
            const std::size_t first = b * kBlockPoints;
            sum_points(cloud, first, std::min(first + kBlockPoints, cloud.count), inverse_size,
                       sums[b]);
        }
    });
    return merge_all(sums, kIdentity, cloud.timestamp, num_threads);
}

FusionCounts VoxelMap::merge_all(const std::vector<BlockSums>& sums, const Affine& world_from_input,
                                 double timestamp, int num_threads) {
    std::size_t voxels = 0;
    for (const BlockSums& block : sums) voxels += block.table.voxels().size();
    std::array<std::size_t, kShards> most_new{};
    for (const BlockSums& block : sums) {
        for (const Voxel& voxel : block.table.voxels()) ++most_new[shard_of(voxel.key, kShards)];
    }
    for (std::size_t shard = 0; shard < kShards; ++shard) shards_[shard].make_room(most_new[shard]);

    const std::size_t before = size();
    parallel_for(kShards, voxels > kSerial ? 1 : kShards, num_threads,
                 [&](std::size_t begin, std::size_t end) {
                     for (const BlockSums& block : sums) {
                         for (const Voxel& voxel : block.table.voxels()) {
                             const std::size_t shard = shard_of(voxel.key, kShards);
                             if (shard < begin || shard >= end) continue;
                             merge(voxel, world_from_input, timestamp,
                                   shards_[shard].at(voxel.key));
                         }
                     }
                 });

    FusionCounts counts;
    for (const BlockSums& block : sums) {
        counts.points += block.points;
        counts.out_of_range += block.out_of_range;
    }
    counts.new_voxels = size() - before;
    return counts;
}

std::size_t VoxelMap::size() const {
    std::size_t total = 0;
    for (const VoxelTable& shard : shards_) total += shard.voxels().size();
    return total;
}

std::size_t VoxelMap::nbytes() const {
    std::size_t total = 0;
    for (const VoxelTable& shard : shards_) total += shard.nbytes();
    return total;
}

std::vector<const Voxel*> VoxelMap::sorted_voxels(std::size_t min_count) const {
    std::vector<const Voxel*> voxels;
    voxels.reserve(size());
    for (const VoxelTable& shard : shards_) {
        for (const Voxel& voxel : shard.voxels()) {
            if (voxel.count >= min_count) voxels.push_back(&voxel);
        }
    }
    std::sort(voxels.begin(), voxels.end(),
              [](const Voxel* a, const Voxel* b) { return a->key < b->key; });
    return voxels;
}

}  // namespace mosaicmem
