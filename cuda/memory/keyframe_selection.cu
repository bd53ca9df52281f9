#include "cuda/base/launch.cuh"
#include "cuda/base/workspace.hpp"
#include "cuda/memory/keyframe_selection.hpp"

namespace mosaicmem::cuda {
namespace {

constexpr const char* kName = "select_keyframes";
constexpr unsigned long long kNothing = ~0ull;
constexpr unsigned kLanes = 16;  // partial sums, added in the CPU's order

struct Problem {
    Mirror mirror;
    const TargetGrid* targets;
    std::size_t views, cells;
    const std::int32_t* candidates;
    std::size_t count;
    float depth_tolerance;
    ViewWeightScales scales;
    SelectionScratch scratch;

    __device__ std::size_t all() const { return views * cells; }
};

// One block per candidate and view: the worth of the nearest source cell that lands in each target
// cell.
__global__ void cover_kernel(Problem problem) {
    GridProjection& projection = *reinterpret_cast<GridProjection*>(shared_memory());
    const std::size_t v = blockIdx.y, first = (blockIdx.x * problem.views + v) * problem.cells;
    const MirroredObservation& from = problem.mirror.observations[problem.candidates[blockIdx.x]];
    const TargetGrid& target = problem.targets[v];
    const std::size_t step = coarse_step(from.rows, from.columns);
    if (threadIdx.x == 0) {
        projection = GridProjection(
            {nullptr, from.depth, from.confidence, from.rows, from.columns, from.stride, from.k,
             from.world_from_camera, from.timestamp, from.provenance},
            target, problem.scales, static_cast<double>(step));
    }
    unsigned long long* const nearest = problem.scratch.nearest + first;
    for (std::size_t cell = threadIdx.x; cell < problem.cells; cell += blockDim.x)
        nearest[cell] = kNothing;
    __syncthreads();
    const std::size_t columns = from.columns / step, n = from.rows / step * columns;
    const auto project = [&](std::size_t i) {
        const std::size_t r = i / columns, c = i % columns;
        const std::size_t at = (r * step + step / 2) * from.columns + step / 2 + c * step;
        return projection.row(r)(from.depth[at], from.confidence ? from.confidence[at] : 1.0f,
                                 static_cast<std::int32_t>(c));
    };
    for (std::size_t i = threadIdx.x; i < n; i += blockDim.x) {
        const ProjectedCell cell = project(i);
        const unsigned long long key =
            static_cast<unsigned long long>(__float_as_uint(cell.z)) << 32 | i;
        for_each_covered(cell.x, cell.y, cell.worth, cell.spread,
                         static_cast<std::int32_t>(target.rows),
                         static_cast<std::int32_t>(target.columns),
                         [&](std::size_t at) { atomicMin(&nearest[at], key); });
    }
    __syncthreads();
    for (std::size_t cell = threadIdx.x; cell < problem.cells; cell += blockDim.x) {
        const unsigned long long key = nearest[cell];
        problem.scratch.worth[first + cell] =
            key == kNothing ? 0.0f : project(static_cast<std::size_t>(key & 0xFFFFFFFFu)).worth;
    }
}

// Zeroes the worth of what is not in front of all candidates.
__global__ void front_kernel(Problem problem) {
    const std::size_t cell = thread_index();
    if (cell >= problem.all()) return;
    constexpr float kNowhere = std::numeric_limits<float>::infinity();
    const auto depth_of = [&](std::size_t i) {
        const unsigned long long key = problem.scratch.nearest[i * problem.all() + cell];
        return key == kNothing ? kNowhere : __uint_as_float(static_cast<unsigned>(key >> 32));
    };
    float front = kNowhere;
    for (std::size_t i = 0; i < problem.count; ++i) front = min(front, depth_of(i));
    const float thickness = 1 + problem.depth_tolerance;
    for (std::size_t i = 0; i < problem.count; ++i) {
        float& worth = problem.scratch.worth[i * problem.all() + cell];
        worth = worth > 0 && depth_of(i) <= front * thickness ? worth + kAnyView : 0.0f;
    }
    problem.scratch.best[cell] = 0;
}

// The sum over cells of max(worth - best, 0), by kLanes threads, each of which passes its lane;
// `memory` holds one float per lane. Only the first gets the result.
__device__ float excess(const float* worth, const float* best, std::size_t n, unsigned lane,
                        float* memory) {
    float sum = 0;
    std::size_t i = lane;
    for (; i - lane + kLanes <= n; i += kLanes) sum += max(worth[i] - best[i], 0.0f);
    memory[lane] = sum;
    __syncwarp();
    float total = 0;
    if (lane == 0) {
        for (unsigned j = 0; j < kLanes; ++j) total += memory[j];
        for (; i < n; ++i) total += max(worth[i] - best[i], 0.0f);
    }
    __syncwarp();
    return total;
}

// One block of one warp per candidate.
__global__ void gain_kernel(Problem problem) {
    float* const memory = reinterpret_cast<float*>(shared_memory());
    const unsigned lane = threadIdx.x % kLanes;  // both halves of the warp do the same
    const float gain =
        excess(problem.scratch.worth + blockIdx.x * problem.all(), problem.scratch.best,
               problem.all(), lane, memory + threadIdx.x - lane);
    if (threadIdx.x == 0) problem.scratch.gains[blockIdx.x] = gain;
}

// A single block takes the candidate with the largest gain, the first among equals.
__global__ void pick_kernel(Problem problem, std::size_t number, double least) {
    std::int32_t& pick = *reinterpret_cast<std::int32_t*>(shared_memory());
    std::int32_t* const shared = problem.scratch.shared;
    if (threadIdx.x == 0) {
        pick = -1;
        double most = least;
        const bool goes_on = number == 0 || shared[number - 1] >= 0;
        for (std::size_t i = 0; goes_on && i < problem.count; ++i) {
            const double gain = problem.scratch.gains[i];
            if (!(gain > most)) continue;  // candidates already taken gain nothing
            most = gain;
            pick = static_cast<std::int32_t>(i);
        }
        shared[number] = pick;
    }
    __syncthreads();
    if (pick < 0) return;
    const float* const worth =
        problem.scratch.worth + static_cast<std::size_t>(pick) * problem.all();
    for (std::size_t cell = threadIdx.x; cell < problem.all(); cell += blockDim.x)
        problem.scratch.best[cell] = max(problem.scratch.best[cell], worth[cell]);
}

// One block per view: selects the view's picks from those taken for the window.
__global__ void view_kernel(Problem problem, std::size_t per_window, std::size_t per_view,
                            double least, double least_further, std::int32_t* all_picks) {
    struct Memory {
        std::int32_t pick;
        float lanes[1];  // one per thread
    };
    Memory& memory = *reinterpret_cast<Memory*>(shared_memory());
    float* const gains = memory.lanes + blockDim.x;  // (per_window)
    float* const best = gains + per_window;          // (cells)
    const std::size_t v = blockIdx.x, cells = problem.cells;
    std::int32_t* const picks = all_picks + v * per_view;
    const unsigned group = threadIdx.x / kLanes, groups = blockDim.x / kLanes;
    const auto worth_of = [&](std::size_t n) {
        return problem.scratch.worth +
               (static_cast<std::size_t>(problem.scratch.shared[n]) * problem.views + v) * cells;
    };
    for (std::size_t cell = threadIdx.x; cell < cells; cell += blockDim.x) best[cell] = 0;
    for (std::size_t n = threadIdx.x; n < per_window; n += blockDim.x) gains[n] = 0;
    for (std::size_t n = threadIdx.x; n < per_view; n += blockDim.x) picks[n] = -1;
    __syncthreads();
    for (std::size_t number = 0; number < per_view; ++number) {
        for (std::size_t first = 0; first < per_window; first += groups) {
            const std::size_t n = first + group;
            const bool counts = n < per_window && problem.scratch.shared[n] >= 0;
            const float gain = excess(counts ? worth_of(n) : best, best, cells,
                                      threadIdx.x % kLanes, memory.lanes + group * kLanes);
            if (counts && threadIdx.x % kLanes == 0) gains[n] = gain;
        }
        __syncthreads();
        if (threadIdx.x == 0) {
            memory.pick = -1;
            double most = number == 0 ? least : least_further;
            for (std::size_t n = 0; n < per_window; ++n) {
                if (!(static_cast<double>(gains[n]) > most)) continue;
                most = gains[n];
                memory.pick = static_cast<std::int32_t>(n);
            }
            if (memory.pick >= 0) {
                picks[number] = problem.candidates[problem.scratch.shared[memory.pick]];
            }
        }
        __syncthreads();
        if (memory.pick < 0) return;
        const float* const worth = worth_of(static_cast<std::size_t>(memory.pick));
        for (std::size_t cell = threadIdx.x; cell < cells; cell += blockDim.x)
            best[cell] = max(best[cell], worth[cell]);
        __syncthreads();
    }
}

SelectionScratch scratch_in(Workspace& workspace, std::size_t views, std::size_t cells,
                            std::size_t candidates, std::size_t per_window) {
    SelectionScratch scratch{};
    scratch.nearest = workspace.take<unsigned long long>(candidates * views * cells);
    scratch.worth = workspace.take<float>(candidates * views * cells);
    scratch.best = workspace.take<float>(views * cells);
    scratch.gains = workspace.take<float>(candidates);
    scratch.shared = workspace.take<std::int32_t>(per_window);
    return scratch;
}

}  // namespace

std::size_t select_keyframes_workspace_bytes(std::size_t views, std::size_t cells,
                                             std::size_t candidates, std::size_t per_window) {
    Workspace counted;
    scratch_in(counted, views, cells, candidates, per_window);
    return counted.bytes();
}

void select_keyframes(const Mirror& mirror, const TargetGrid* targets, std::size_t views,
                      std::size_t cells, const std::int32_t* candidates, std::size_t count,
                      std::size_t per_window, std::size_t per_view, float depth_tolerance,
                      const ViewWeightScales& scales, std::int32_t* picks, void* workspace,
                      const Stream& stream) {
    constexpr unsigned kViewThreads = 512;
    if (count == 0) {
        fill_bytes(picks, 0xFF, views * per_view * sizeof(std::int32_t), stream);
        return;
    }
    Workspace buffer(workspace);
    const SelectionScratch scratch = scratch_in(buffer, views, cells, count, per_window);
    const Problem problem{mirror, targets,         views,  cells,  candidates,
                          count,  depth_tolerance, scales, scratch};
    const double least = kLeastGain * static_cast<double>(cells),
                 least_of_view = kLeastGainOfView * static_cast<double>(cells);
    const dim3 pairs(static_cast<unsigned>(count), static_cast<unsigned>(views));
    launch(kName, cover_kernel, {pairs, dim3(128), sizeof(GridProjection)}, stream, problem);
    launch(kName, front_kernel, threads(kName, views * cells), stream, problem);
    for (std::size_t number = 0; number < per_window; ++number) {
        launch(kName, gain_kernel,
               {dim3(static_cast<unsigned>(count)), dim3(kWarp), kWarp * sizeof(float)}, stream,
               problem);
        launch(kName, pick_kernel, {dim3(1), dim3(kBlock), sizeof(std::int32_t)}, stream, problem,
               number, least);
    }
    launch(kName, view_kernel,
           {dim3(static_cast<unsigned>(views)), dim3(kViewThreads),
            (1 + kViewThreads + per_window + cells) * sizeof(float)},
           stream, problem, per_window, per_view, least, least_of_view, picks);
}

}  // namespace mosaicmem::cuda
