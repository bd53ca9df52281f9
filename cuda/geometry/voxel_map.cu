#include <bit>

#include "cpp/geometry/voxel_geometry.hpp"
#include "cuda/base/launch.cuh"
#include "cuda/geometry/voxel_map.hpp"

namespace mosaicmem::cuda {
namespace {

constexpr unsigned long long kFree = ~0ull;
constexpr std::size_t kRun = 8;  // neighbouring pixels per thread, most of which share a voxel

// Maps times to integers of the same order.
long long ordered(double time) {
    const auto bits = std::bit_cast<long long>(time + 0.0);  // -0 becomes 0
    return bits < 0 ? bits ^ kNoTime : bits;
}

// The slot of a key; claims one if the key is new.
__device__ std::size_t slot_of(const VoxelTable& table, unsigned long long key, bool& is_new) {
    const std::size_t mask = table.capacity - 1;
    for (std::size_t slot = mix(key) & mask;; slot = (slot + 1) & mask) {
        const unsigned long long there = atomicCAS(&table.keys[slot], kFree, key);
        is_new = there == kFree;
        if (is_new) atomicAdd(table.voxels, 1ull);
        if (is_new || there == key) return slot;
    }
}

// A thread's sums for one voxel.
struct Sums {
    unsigned long long key = kFree;
    long long words[kVoxelWords - 2] = {};
};

__device__ void add_word(long long* to, long long value) {
    atomicAdd(reinterpret_cast<unsigned long long*>(to), static_cast<unsigned long long>(value));
}

__device__ void flush(const VoxelTable& table, const Sums& sums, long long time,
                      unsigned long long* counts) {
    if (sums.key == kFree) return;
    bool is_new;
    long long* const words = table.words + slot_of(table, sums.key, is_new) * kVoxelWords;
    for (std::size_t i = 0; i < kVoxelWords - 2; ++i) {
        if (sums.words[i] != 0) add_word(&words[i], sums.words[i]);
    }
    atomicMin(&words[kVoxelWords - 2], time);
    atomicMax(&words[kVoxelWords - 1], time);
    if (is_new) atomicAdd(&counts[2], 1ull);
}

struct FrameRays {
    PixelRay camera, world;
    double turn[9];  // for normals: the linear part of world_from_camera
};

__device__ bool pixel_normal(const RgbdFrame& frame, const PixelRay& camera, std::size_t i,
                             std::size_t j, float normal[3]) {
    const std::size_t ni = neighbour_of(i, frame.height), nj = neighbour_of(j, frame.width);
    if (ni >= frame.height || nj >= frame.width) return false;
    const float z = frame.depth[i * frame.width + j], right = frame.depth[i * frame.width + nj],
                below = frame.depth[ni * frame.width + j];
    if (!same_surface(z, right) || !same_surface(z, below)) return false;
    const RowRay row(camera, i);
    return normal_of(point_at(row, j, z), point_at(row, nj, right),
                     point_at(RowRay(camera, ni), j, below), normal);
}

__global__ void add_kernel(VoxelTable table, RgbdFrame frame, FrameRays rays, double voxel_size,
                           long long time, unsigned long long* counts) {
    const std::size_t runs = (frame.width + kRun - 1) / kRun, index = thread_index(),
                      i = index / runs;
    if (i >= frame.height) return;
    const float inverse_size = static_cast<float>(1.0 / voxel_size);
    const RowRay row(rays.world, i);
    const std::size_t first = index % runs * kRun, last = min(first + kRun, frame.width);
    unsigned long long points = 0, out_of_range = 0;
    Sums sums;
    for (std::size_t j = first; j < last; ++j) {
        const std::size_t pixel = i * frame.width + j;
        if (!is_valid_depth(frame.depth[pixel])) continue;
        const Point p = point_at(row, j, frame.depth[pixel]);
        std::uint64_t key;
        if (!voxel_key(p, inverse_size, key)) {
            ++out_of_range;
            continue;
        }
        ++points;
        if (key != sums.key) {
            flush(table, sums, time, counts);
            sums = Sums{};
            sums.key = key;
        }
        ++sums.words[0];
        const float at[3] = {p.x, p.y, p.z};
        for (int axis = 0; axis < 3; ++axis) {
            const auto corner =
                static_cast<double>(static_cast<std::int64_t>(key >> (kAxisBits * (2 - axis)) &
                                                              ((1u << kAxisBits) - 1)) -
                                    kAxisHalf);
            sums.words[1 + axis] +=
                llrint((static_cast<double>(at[axis]) / voxel_size - corner) / kPositionUnit);
            if (frame.color) sums.words[4 + axis] += frame.color[3 * pixel + axis];
        }
        float n[3];
        if (pixel_normal(frame, rays.camera, i, j, n)) {
            for (int axis = 0; axis < 3; ++axis) {
                const double* m = rays.turn + 3 * axis;
                sums.words[7 + axis] +=
                    llrint((m[0] * n[0] + m[1] * n[1] + m[2] * n[2]) / kNormalUnit);
            }
        }
    }
    flush(table, sums, time, counts);
    if (points > 0) atomicAdd(&counts[0], points);
    if (out_of_range > 0) atomicAdd(&counts[1], out_of_range);
}

__global__ void clear_kernel(VoxelTable table) {
    const std::size_t slot = thread_index();
    if (slot >= table.capacity) return;
    table.keys[slot] = kFree;
    long long* const words = table.words + slot * kVoxelWords;
    for (std::size_t i = 0; i < kVoxelWords - 2; ++i) words[i] = 0;
    words[kVoxelWords - 2] = kNoTime;
    words[kVoxelWords - 1] = -kNoTime;
}

__global__ void move_kernel(VoxelTable from, VoxelTable to) {
    const std::size_t slot = thread_index();
    if (slot >= from.capacity || from.keys[slot] == kFree) return;
    bool is_new;
    const std::size_t target = slot_of(to, from.keys[slot], is_new);
    for (std::size_t i = 0; i < kVoxelWords; ++i)
        to.words[target * kVoxelWords + i] = from.words[slot * kVoxelWords + i];
}

}  // namespace

void clear_voxels(const VoxelTable& table, const Stream& stream) {
    fill_bytes(table.voxels, 0, sizeof *table.voxels, stream);
    launch("clear_voxels", clear_kernel, threads("clear_voxels", table.capacity), stream, table);
}

void add_voxels(const VoxelTable& table, const RgbdFrame& frame, double voxel_size,
                unsigned long long* counts, const Stream& stream) {
    fill_bytes(counts, 0, 3 * sizeof(unsigned long long), stream);
    const Affine identity{{1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0}};
    const auto& m = frame.world_from_camera.m;
    const FrameRays rays{PixelRay(frame.k, identity),
                         PixelRay(frame.k, frame.world_from_camera),
                         {m[0], m[1], m[2], m[4], m[5], m[6], m[8], m[9], m[10]}};
    launch("add_voxels", add_kernel,
           threads("add_voxels", frame.height * ceil_div(frame.width, kRun)), stream, table, frame,
           rays, voxel_size, ordered(frame.timestamp), counts);
}

void move_voxels(const VoxelTable& from, const VoxelTable& to, const Stream& stream) {
    launch("move_voxels", move_kernel, threads("move_voxels", from.capacity), stream, from, to);
}

}  // namespace mosaicmem::cuda
