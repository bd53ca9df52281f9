#include "cpp/published/patch_memory_cells.hpp"
#include "cuda/base/launch.cuh"
#include "cuda/base/workspace.hpp"
#include "cuda/published/patch_memory.hpp"

namespace mosaicmem::cuda {
namespace {

constexpr unsigned long long kNothing = ~0ull;
constexpr unsigned kSelectThreads = 256, kFuseThreads = 1024;

__device__ std::size_t sampled(std::size_t r, std::size_t c, std::size_t height, std::size_t width,
                               std::size_t rows, std::size_t columns) {
    return r * height / rows * width + c * width / columns;
}

__global__ void append_latents_kernel(const float* latents, std::size_t channels, std::size_t cells,
                                      std::size_t count, float* out) {
    const std::size_t i = thread_index();  // (frame, channel, cell)
    if (i >= count * channels * cells) return;
    const std::size_t frame = i / (channels * cells), channel = i / cells % channels,
                      cell = i % cells;
    out[i] = latents[(channel * count + frame) * cells + cell];
}

__global__ void append_depth_kernel(const float* depth, std::size_t height, std::size_t width,
                                    PatchMemorySize size, std::size_t count, float* out) {
    const std::size_t cells = static_cast<std::size_t>(size.rows) * size.columns,
                      i = thread_index();
    if (i >= count * cells) return;
    const std::size_t frame = i / cells, cell = i % cells;
    out[i] = depth[frame * height * width + sampled(cell / size.columns, cell % size.columns,
                                                    height, width, size.rows, size.columns)];
}

__global__ void append_coverage_kernel(const float* depth, std::size_t height, std::size_t width,
                                       std::size_t rows, std::size_t columns,
                                       const double* k_inverse, const float* camera_from_world,
                                       std::size_t count, double* out) {
    const std::size_t coarse = rows * columns, i = thread_index();
    if (i >= count * coarse) return;
    const std::size_t frame = i / coarse, cell = i % coarse, r = cell / columns, c = cell % columns;
    const float z = depth[frame * height * width + sampled(r, c, height, width, rows, columns)];
    double world[3];
    published_world_point(static_cast<double>(c), static_cast<double>(r), z, k_inverse + 9 * frame,
                          camera_from_world + 16 * frame, world);
    for (std::size_t j = 0; j < 3; ++j) out[(frame * 3 + j) * coarse + cell] = world[j];
}

// A key and its owner's index; ordered by key, then by index.
struct Ranked {
    double by;
    std::int64_t index;

    __device__ bool before(const Ranked& other) const {
        return by < other.by || (by == other.by && index < other.index);
    }
};

// The first of the values that a block's threads bring. `memory` holds one Ranked per thread, and
// may be reused afterwards.
__device__ Ranked first_of_block(Ranked own, Ranked* memory) {
    memory[threadIdx.x] = own;
    __syncthreads();
    for (unsigned half = blockDim.x / 2; half > 0; half /= 2) {
        if (threadIdx.x < half && memory[threadIdx.x + half].before(memory[threadIdx.x]))
            memory[threadIdx.x] = memory[threadIdx.x + half];
        __syncthreads();
    }
    const Ranked first = memory[0];
    __syncthreads();
    return first;
}

// One block per group: takes the pool of frames with the nearest viewing directions and picks by
// distance, first among those that lie apart.
__global__ void pose_nearest_kernel(PatchFrames frames, std::size_t count, const double* queries,
                                    double* keys, std::int64_t* picks) {
    constexpr std::size_t kMostPool = 20;
    Ranked* const memory = reinterpret_cast<Ranked*>(shared_memory());
    const double* const query = queries + 16 * blockIdx.x;
    double* const angle = keys + blockIdx.x * count;
    for (std::size_t i = threadIdx.x; i < count; i += blockDim.x)
        angle[i] = angle_between(frames.camera_from_world + 16 * i, query);
    const std::size_t pool =
        min(2 * min(max(count, std::size_t{kPatchPicks}), std::size_t{10}), count);
    Ranked ranked[kMostPool];  // thread 0 only
    Ranked last{-1.0, -1};
    for (std::size_t n = 0; n < pool; ++n) {
        Ranked own{std::numeric_limits<double>::infinity(),
                   std::numeric_limits<std::int64_t>::max()};
        for (std::size_t i = threadIdx.x; i < count; i += blockDim.x) {
            const Ranked one{angle[i], static_cast<std::int64_t>(i)};
            if (last.before(one) && one.before(own)) own = one;
        }
        last = first_of_block(own, memory);
        if (threadIdx.x == 0) ranked[n] = last;
    }
    if (threadIdx.x != 0) return;
    Centre centres[kMostPool];
    const Centre centre = centre_of(query);
    for (std::size_t n = 0; n < pool; ++n)
        ranked[n].by = distance(centre_of(frames.camera_from_world + 16 * ranked[n].index), centre);
    for (std::size_t n = 1; n < pool; ++n) {  // insertion sort
        const Ranked one = ranked[n];
        std::size_t at = n;
        for (; at > 0 && one.before(ranked[at - 1]); --at) ranked[at] = ranked[at - 1];
        ranked[at] = one;
    }
    for (std::size_t n = 0; n < pool; ++n)
        centres[n] = centre_of(frames.camera_from_world + 16 * ranked[n].index);
    std::int64_t* const picked = picks + kPatchPicks * blockIdx.x;
    std::size_t taken[kPatchPicks], number = 0;
    const auto is_taken = [&](std::size_t n) {
        for (std::size_t j = 0; j < number; ++j) {
            if (taken[j] == n) return true;
        }
        return false;
    };
    for (std::size_t n = 0; n < pool && number < kPatchPicks; ++n) {
        bool apart = true;
        for (std::size_t j = 0; j < number; ++j)
            apart = apart && distance(centres[n], centres[taken[j]]) >= kApart;
        if (apart) taken[number++] = n;
    }
    for (std::size_t n = 0; n < pool && number < kPatchPicks; ++n) {
        if (!is_taken(n)) taken[number++] = n;
    }
    for (std::size_t j = 0; j < kPatchPicks; ++j)
        picked[j] = j < number ? ranked[taken[j]].index : -1;
}

// One block per group and frame of the pool: the coarse cells that its points cover, one bit each.
__global__ void coverage_masks_kernel(PatchFrames frames, std::size_t pool, std::int32_t rows,
                                      std::int32_t columns, const double* projections,
                                      std::size_t words, unsigned long long* masks) {
    unsigned* const bits = reinterpret_cast<unsigned*>(shared_memory());
    for (std::size_t w = threadIdx.x; w < 2 * words; w += blockDim.x) bits[w] = 0;
    __syncthreads();
    const std::size_t frame = blockIdx.x, group = blockIdx.y,
                      coarse = static_cast<std::size_t>(rows) * columns;
    const double* const points = frames.coverage + frame * kPoolStride * 3 * coarse;
    for (std::size_t i = threadIdx.x; i < coarse; i += blockDim.x) {
        const std::int32_t cell =
            coarse_cell_of(points[i], points[coarse + i], points[2 * coarse + i],
                           projections + 12 * group, rows, columns);
        if (cell >= 0) atomicOr(&bits[cell / 32], 1u << (cell % 32));
    }
    __syncthreads();
    for (std::size_t w = threadIdx.x; w < words; w += blockDim.x) {
        masks[(group * pool + frame) * words + w] =
            bits[2 * w] | static_cast<unsigned long long>(bits[2 * w + 1]) << 32;
    }
}

// One block per group picks greedily: first by newly covered cells, then by covered area.
__global__ void coverage_picks_kernel(std::size_t pool, std::size_t words,
                                      const unsigned long long* all_masks, std::int64_t* picks) {
    Ranked* const memory = reinterpret_cast<Ranked*>(shared_memory());
    unsigned long long* const taken = reinterpret_cast<unsigned long long*>(memory + blockDim.x);
    const unsigned long long* const masks = all_masks + blockIdx.x * pool * words;
    for (std::size_t w = threadIdx.x; w < words; w += blockDim.x) taken[w] = 0;
    __syncthreads();
    std::int64_t picked[kPatchPicks];
    std::size_t number = 0;
    for (bool by_area = false; number < kPatchPicks;) {
        Ranked own{0.0, std::numeric_limits<std::int64_t>::max()};  // by: minus the gain
        for (std::size_t i = threadIdx.x; i < pool; i += blockDim.x) {
            bool is_taken = false;
            for (std::size_t j = 0; j < number; ++j)
                is_taken = is_taken || picked[j] == static_cast<std::int64_t>(i);
            if (is_taken) continue;
            int gain = 0;
            for (std::size_t w = 0; w < words; ++w)
                gain += __popcll(masks[i * words + w] & (by_area ? ~0ull : ~taken[w]));
            const Ranked one{-static_cast<double>(gain), static_cast<std::int64_t>(i)};
            if (gain > 0 && one.before(own)) own = one;
        }
        const Ranked best = first_of_block(own, memory);
        if (best.by < 0) {
            picked[number++] = best.index;
            for (std::size_t w = threadIdx.x; w < words; w += blockDim.x)
                taken[w] |= masks[best.index * words + w];
            __syncthreads();
        } else if (by_area) {
            break;
        } else {
            by_area = true;
        }
    }
    if (threadIdx.x != 0) return;
    for (std::size_t j = 0; j < kPatchPicks; ++j) {
        const std::int64_t pick = number == 0 ? -1 : picked[j < number ? j : number - 1];
        picks[kPatchPicks * blockIdx.x + j] =
            pick < 0 ? -1 : pick * static_cast<std::int64_t>(kPoolStride);
    }
}

// One block per group: candidate after candidate until enough cells are filled. Within a candidate
// the nearest cell wins, of equal depths the last.
__global__ void __launch_bounds__(kFuseThreads)
    fuse_kernel(PatchMemorySize size, PatchFrames frames, std::size_t count,
                const float* camera_from_world, const float* k, const std::int64_t* all_candidates,
                std::size_t each, bool keep_nearest, unsigned long long* all_front, float* all_best,
                std::int64_t* all_kept) {
    unsigned* const filled = reinterpret_cast<unsigned*>(shared_memory());
    const std::size_t group = blockIdx.x,
                      cells = static_cast<std::size_t>(size.rows) * size.columns;
    const std::int64_t* const candidates = all_candidates + group * each;
    unsigned long long* const front = all_front + group * cells;
    float* const best = all_best + group * cells;
    std::int64_t* const kept = all_kept + group * cells;
    if (threadIdx.x == 0) *filled = 0;
    for (std::size_t i = threadIdx.x; i < cells; i += blockDim.x) kept[i] = -1;
    const auto exists = [&](std::size_t n) {
        return candidates[n] >= 0 && static_cast<std::size_t>(candidates[n]) < count;
    };
    const auto is_new = [&](std::size_t n) {
        if (!exists(n)) return false;
        for (std::size_t j = 0; j < n; ++j) {
            if (candidates[j] == candidates[n]) return false;
        }
        return true;
    };
    bool any = false;
    for (std::size_t n = 0; n < each; ++n) any = any || exists(n);
    for (std::size_t n = 0; n < (any ? each : 1); ++n) {
        if (any && !is_new(n)) continue;
        const std::size_t frame = any ? static_cast<std::size_t>(candidates[n]) : 0;
        for (std::size_t i = threadIdx.x; i < cells; i += blockDim.x) front[i] = kNothing;
        __syncthreads();
        for (std::size_t i = threadIdx.x; i < cells; i += blockDim.x) {
            float z;
            const std::int32_t target = land_published_cell(
                static_cast<std::int32_t>(i / size.columns),
                static_cast<std::int32_t>(i % size.columns), frames.depth[frame * cells + i],
                size.rows, size.columns, frames.k_inverse + 9 * frame,
                frames.camera_from_world + 16 * frame, camera_from_world + 16 * group,
                k + 9 * group, z);
            if (target < 0) continue;
            const unsigned long long key = static_cast<unsigned long long>(__float_as_uint(z))
                                               << 32 |
                                           (0xFFFFFFFFu - static_cast<unsigned>(i));
            atomicMin(&front[target], key);
        }
        __syncthreads();
        unsigned own = 0;
        for (std::size_t i = threadIdx.x; i < cells; i += blockDim.x) {
            if (front[i] == kNothing) continue;
            const float z = __uint_as_float(static_cast<unsigned>(front[i] >> 32));
            const bool is_first = kept[i] < 0;
            if (!is_first && (keep_nearest ? !(z < best[i]) : !(z > best[i]))) continue;
            own += is_first;
            best[i] = z;
            kept[i] = static_cast<std::int64_t>(frame * cells +
                                                (0xFFFFFFFFu - static_cast<unsigned>(front[i])));
        }
        atomicAdd(filled, own);
        __syncthreads();
        const float part = static_cast<float>(*filled) / static_cast<float>(cells);
        __syncthreads();
        if (static_cast<double>(part) >= kFilled) break;
    }
}

__global__ void gather_kept_kernel(std::size_t channels, std::size_t cells, std::size_t groups,
                                   const float* latents, const std::int64_t* kept, float* out,
                                   std::uint8_t* valid) {
    const std::size_t i = thread_index(), places = groups * cells;  // (channel, group, cell)
    if (i >= channels * places) return;
    const std::size_t channel = i / places, place = i % places;
    const std::int64_t from = kept[place];
    if (channel == 0) valid[place] = from >= 0;
    const std::size_t frame = static_cast<std::size_t>(from) / cells,
                      cell = static_cast<std::size_t>(from) % cells;
    out[i] = from < 0 ? 0.0f : latents[(frame * channels + channel) * cells + cell];
}

// 64-bit words that hold one bit per coarse cell.
std::size_t words_of(const PatchMemorySize& size) {
    return ceil_div(
        static_cast<std::size_t>(size.rows / kDownsample) * (size.columns / kDownsample), 64);
}

// Per group and cell: the front of the current frame, and the cell kept of all frames, with its
// depth.
struct FuseScratch {
    unsigned long long* front;
    float* best;
    std::int64_t* kept;

    static FuseScratch carve(Workspace& workspace, std::size_t cells) {
        return {workspace.take<unsigned long long>(cells), workspace.take<float>(cells),
                workspace.take<std::int64_t>(cells)};
    }
};

std::size_t cells_of(const PatchMemorySize& size) {
    return static_cast<std::size_t>(size.rows) * static_cast<std::size_t>(size.columns);
}

}  // namespace

std::size_t select_pose_nearest_workspace_bytes(std::size_t count, std::size_t groups) {
    return groups * count * sizeof(double);
}

std::size_t select_coverage_workspace_bytes(const PatchMemorySize& size, std::size_t count,
                                            std::size_t groups) {
    return groups * ceil_div(count, kPoolStride) * words_of(size) * sizeof(unsigned long long);
}

std::size_t fuse_patches_workspace_bytes(const PatchMemorySize& size, std::size_t groups) {
    Workspace workspace;
    FuseScratch::carve(workspace, groups * cells_of(size));
    return workspace.bytes();
}

void append_patch_frames(const PatchMemorySize& size, const float* latents, const float* depth,
                         std::size_t height, std::size_t width, const double* k_inverse_double,
                         std::size_t first, std::size_t count, const PatchFrames& frames,
                         const Stream& stream) {
    constexpr const char* kName = "append_patch_frames";
    const auto rows = static_cast<std::size_t>(size.rows),
               columns = static_cast<std::size_t>(size.columns);
    const std::size_t cells = rows * columns;
    const std::size_t coarse_rows = rows / kDownsample, coarse_columns = columns / kDownsample;
    const std::size_t coarse = coarse_rows * coarse_columns;
    launch(kName, append_latents_kernel, threads(kName, count * size.channels * cells), stream,
           latents, size.channels, cells, count, frames.latents + first * size.channels * cells);
    launch(kName, append_depth_kernel, threads(kName, count * cells), stream, depth, height, width,
           size, count, frames.depth + first * cells);
    launch(kName, append_coverage_kernel, threads(kName, count * coarse), stream, depth, height,
           width, coarse_rows, coarse_columns, k_inverse_double,
           frames.camera_from_world + 16 * first, count, frames.coverage + first * 3 * coarse);
}

void select_pose_nearest(const PatchFrames& frames, std::size_t count,
                         const double* camera_from_world, std::size_t groups, std::int64_t* picks,
                         void* workspace, const Stream& stream) {
    constexpr const char* kName = "select_pose_nearest";
    double* const keys = static_cast<double*>(workspace);
    launch(kName, pose_nearest_kernel,
           {dim3(blocks(kName, groups, 1)), dim3(kSelectThreads), kSelectThreads * sizeof(Ranked)},
           stream, frames, count, camera_from_world, keys, picks);
}

void select_coverage(const PatchMemorySize& size, const PatchFrames& frames, std::size_t count,
                     const double* projection, std::size_t groups, std::int64_t* picks,
                     void* workspace, const Stream& stream) {
    constexpr const char* kName = "select_coverage";
    auto* const masks = static_cast<unsigned long long*>(workspace);
    const std::int32_t rows = size.rows / kDownsample, columns = size.columns / kDownsample;
    const std::size_t words = words_of(size);
    const std::size_t pool = ceil_div(count, kPoolStride);
    launch(kName, coverage_masks_kernel,
           {dim3(blocks(kName, pool, 1), static_cast<unsigned>(groups)), dim3(64),
            2 * words * sizeof(unsigned)},
           stream, frames, pool, rows, columns, projection, words, masks);
    launch(kName, coverage_picks_kernel,
           {dim3(blocks(kName, groups, 1)), dim3(kSelectThreads),
            kSelectThreads * sizeof(Ranked) + words * sizeof(unsigned long long)},
           stream, pool, words, masks, picks);
}

void fuse_patches(const PatchMemorySize& size, const PatchFrames& frames, std::size_t count,
                  const float* camera_from_world, const float* k, std::size_t groups,
                  const std::int64_t* candidates, std::size_t each, bool keep_nearest,
                  float* latents, std::uint8_t* valid, void* workspace, const Stream& stream) {
    constexpr const char* kName = "fuse_patches";
    const std::size_t cells = cells_of(size);
    Workspace room(workspace);
    const auto [front, best, kept] = FuseScratch::carve(room, groups * cells);
    launch(kName, fuse_kernel,
           {dim3(blocks(kName, groups, 1)), dim3(kFuseThreads), sizeof(unsigned)}, stream, size,
           frames, count, camera_from_world, k, candidates, each, keep_nearest, front, best, kept);
    launch(kName, gather_kept_kernel, threads(kName, size.channels * groups * cells), stream,
           size.channels, cells, groups, frames.latents, kept, latents, valid);
}

}  // namespace mosaicmem::cuda
