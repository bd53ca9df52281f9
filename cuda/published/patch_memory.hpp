// The published patch memory on the GPU: the counterpart of cpp/published/patch_memory.hpp. The
// caller keeps the frames.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cuda/base/stream.hpp"

namespace mosaicmem::cuda {

struct PatchMemorySize {
    std::size_t channels;
    std::int32_t rows, columns;
};

// The frames in memory; their number is passed separately.
struct PatchFrames {
    float* latents;            // (frames, channels, rows, columns)
    float* depth;              // (frames, rows, columns)
    double* coverage;          // (frames, 3, coarse cells): world points, NaN where invalid
    float* camera_from_world;  // (frames, 4, 4)
    float* k_inverse;          // (frames, 3, 3)
};

constexpr std::size_t kPatchPicks = 5;
constexpr std::size_t kPatchDownsample = 4;

// Writes `count` frames from index `first` on. latents (channels, count, rows, columns), depth
// (count, height, width), k_inverse_double (count, 3, 3); the other matrices of the new frames must
// already be in `frames`.
void append_patch_frames(const PatchMemorySize& size, const float* latents, const float* depth,
                         std::size_t height, std::size_t width, const double* k_inverse_double,
                         std::size_t first, std::size_t count, const PatchFrames& frames,
                         const Stream& stream);

// camera_from_world (groups, 4, 4) -> picks (groups, kPatchPicks), -1 for none.
std::size_t select_pose_nearest_workspace_bytes(std::size_t count, std::size_t groups);
void select_pose_nearest(const PatchFrames& frames, std::size_t count,
                         const double* camera_from_world, std::size_t groups, std::int64_t* picks,
                         void* workspace, const Stream& stream);

// projection (groups, 3, 4): K [R | t].
std::size_t select_coverage_workspace_bytes(const PatchMemorySize& size, std::size_t count,
                                            std::size_t groups);
void select_coverage(const PatchMemorySize& size, const PatchFrames& frames, std::size_t count,
                     const double* projection, std::size_t groups, std::int64_t* picks,
                     void* workspace, const Stream& stream);

// Fuses from `count` frames; candidates that do not exist count as none (-1). camera_from_world
// (groups, 4, 4), k (groups, 3, 3), candidates (groups, each) -> latents (channels, groups, rows,
// columns) and valid (groups, rows, columns).
std::size_t fuse_patches_workspace_bytes(const PatchMemorySize& size, std::size_t groups);
void fuse_patches(const PatchMemorySize& size, const PatchFrames& frames, std::size_t count,
                  const float* camera_from_world, const float* k, std::size_t groups,
                  const std::int64_t* candidates, std::size_t each, bool keep_nearest,
                  float* latents, std::uint8_t* valid, void* workspace, const Stream& stream);

}  // namespace mosaicmem::cuda
