// Each part of a source cell (the cell itself, if it has no subcells) is projected once and put
// into the list of the target cell that it lands in. Each target cell then gathers, source by
// source, the parts that land around it, in the order of their cells: sums are those of the CPU,
// and the same on every run.

#include "cpp/memory/surface.hpp"
#include "cuda/base/launch.cuh"
#include "cuda/base/workspace.hpp"
#include "cuda/memory/blend.hpp"
#include "cuda/memory/latent.cuh"

namespace mosaicmem::cuda {
namespace {

constexpr const char* kName = "blend";
constexpr unsigned kGatherWarps = 4;  // per block of gather_kernel
constexpr unsigned kGathered = 128;   // visits that a warp holds at once
constexpr unsigned kLookups = 4;      // at most, per source and target cell
constexpr unsigned kNoCell = ~0u;

struct Problem {
    Mirror mirror;
    const TargetGrid* targets;
    std::size_t rows, columns;
    const std::int32_t* picks;
    std::size_t count;  // picks per view
    BlendOptions options;
    BlendScratch scratch;

    __device__ std::size_t cells() const { return rows * columns; }

    // The row of the mirror that a pick refers to, or -1 for none and for duplicates.
    __device__ std::int32_t row_of(std::size_t v, std::size_t s) const {
        const std::int32_t* const own = picks + v * count;
        for (std::size_t i = 0; i < s; ++i) {
            if (own[i] == own[s]) return -1;
        }
        return own[s];
    }
};

__device__ SourceGrid grid_of(const MirroredObservation& from) {
    return {nullptr,
            from.depth,
            from.confidence,
            from.rows,
            from.columns,
            from.stride,
            from.k,
            from.world_from_camera,
            from.timestamp,
            from.provenance,
            from.subcell_depth,
            from.subcells};
}

// One block projects parts of one source into one view. A token is a part: those of one cell follow
// one another.
__global__ void project_parts_kernel(Problem problem) {
    GridProjection& projection = *reinterpret_cast<GridProjection*>(shared_memory());
    const std::size_t s = blockIdx.y, v = blockIdx.z, pair = v * problem.count + s;
    const std::int32_t row = problem.row_of(v, s);
    if (row < 0) return;
    const MirroredObservation& source = problem.mirror.observations[row];
    if (threadIdx.x == 0)
        projection = GridProjection(grid_of(source), problem.targets[v], problem.options.scales,
                                    1.0 / source.subcells);
    __syncthreads();
    const std::size_t i = thread_index(), n = source.subcells, of_cell = i / (n * n);
    if (of_cell >= static_cast<std::size_t>(source.rows) * source.columns) return;
    const std::size_t part_row = of_cell / source.columns * n + i % (n * n) / n,
                      part_column = of_cell % source.columns * n + i % n;
    const float depth = source.subcell_depth
                            ? source.subcell_depth[part_row * n * source.columns + part_column]
                            : source.depth[of_cell];
    const ProjectedCell cell =
        projection.row(part_row)(depth, source.confidence ? source.confidence[of_cell] : 1,
                                 static_cast<std::int32_t>(part_column));
    const std::size_t at = pair * problem.scratch.room + i;
    float* const projected = problem.scratch.projected + 5 * at;
    projected[0] = cell.x;
    projected[1] = cell.y;
    projected[2] = cell.z;
    projected[3] = cell.worth;
    projected[4] = cell.spread;
    const auto rows = static_cast<std::int32_t>(problem.rows),
               columns = static_cast<std::int32_t>(problem.columns);
    const TentCells over = tent_cells(cell.x, cell.y, cell.worth, cell.spread, rows, columns);
    if (over.left > over.right || over.top > over.bottom) return;
    unsigned* const front = problem.scratch.front + 2 * v * problem.cells();
    for (std::int32_t r = over.top; r <= over.bottom; ++r) {
        for (std::int32_t c = over.left; c <= over.right; ++c) {
            const Tent tent = tent_over(cell.x, cell.y, 1.0f / cell.spread, cell.worth < 0, r, c);
            if (!(tent.height > 0)) continue;
            atomicMin(&front[2 * (r * columns + c) + !tent.is_front], __float_as_uint(cell.z));
        }
    }
    const std::int32_t r = min(max(floor_of(cell.y), 0), rows - 1),
                       c = min(max(floor_of(cell.x), 0), columns - 1);
    std::int32_t* const head = problem.scratch.head + pair * problem.cells() + r * columns + c;
    std::int32_t before = *head;
    for (;;) {  // pushes onto the front of the list
        problem.scratch.next[at] = before;
        const std::int32_t found = atomicCAS(head, before, static_cast<std::int32_t>(i));
        if (found == before) break;
        before = found;
    }
    atomicMax(&problem.scratch.reach[pair],
              static_cast<std::int32_t>(std::ceil(max(cell.spread, 1.0f))));
}

__device__ float front_at(const Problem& problem, std::size_t v, std::ptrdiff_t r,
                          std::ptrdiff_t c) {
    const unsigned* const front =
        problem.scratch.front +
        2 * (v * problem.cells() + static_cast<std::size_t>(r) * problem.columns +
             static_cast<std::size_t>(c));
    const unsigned bits = front[0] != kNoCell ? front[0] : front[1];
    return bits == kNoCell ? kNoSurface : __uint_as_float(bits);
}

__global__ void surface_kernel(Problem problem, std::size_t views) {
    const std::size_t i = thread_index();
    if (i >= views * problem.cells()) return;
    const std::size_t v = i / problem.cells(), cell = i % problem.cells();
    const auto r = static_cast<std::ptrdiff_t>(cell / problem.columns),
               c = static_cast<std::ptrdiff_t>(cell % problem.columns);
    const float front = front_at(problem, v, r, c);
    float closed = kNoSurface;
    if (front == kNoSurface) {
        closed = close_hole(
            [&](std::ptrdiff_t y, std::ptrdiff_t x) { return front_at(problem, v, y, x); },
            static_cast<std::ptrdiff_t>(problem.rows), static_cast<std::ptrdiff_t>(problem.columns),
            r, c, problem.options.depth_tolerance);
    }
    problem.scratch.closed[i] = closed;
    problem.scratch.surface[i] = min(front, closed);
}

// A warp's memory for a target cell.
struct WarpMemory {
    unsigned token[kGathered], sorted[kGathered];
    float weight[kGathered], sorted_weight[kGathered];
    unsigned count;
    float latents[1];  // one per channel
};

__host__ __device__ constexpr std::size_t warp_bytes(std::size_t channels) {
    return (sizeof(WarpMemory) + channels * sizeof(float) + 15) / 16 * 16;
}

struct CellSums {
    float total = 0, most = 0;
    std::int32_t source = -1;
};

// Adds a visit of a source cell to the sums; the lanes share the channels.
__device__ void add_visit(const Problem& problem, const MirroredObservation& from, std::int32_t row,
                          std::size_t cell, float weight, WarpMemory& memory, CellSums& sums) {
    const std::size_t channels = problem.mirror.channels;
    for (std::size_t k = threadIdx.x % kWarp; k < channels; k += kWarp) {
        memory.latents[k] +=
            weight * latent_at(from.latents, problem.mirror.latent_type, cell * channels + k);
    }
    sums.total += weight;
    if (weight > sums.most) {
        sums.most = weight;
        sums.source = row;
    }
}

// Adds up the visits of a source cell's parts, which follow one another, and then adds the cell.
class CellVisit {
  public:
    __device__ CellVisit(const Problem& problem, const MirroredObservation& from, std::int32_t row,
                         WarpMemory& memory, CellSums& sums)
        : problem_(problem), from_(from), row_(row), memory_(memory), sums_(sums) {}

    __device__ void add(std::size_t token, float weight) {
        const std::size_t cell = token / (from_.subcells * from_.subcells);
        if (weight_ > 0 && cell != cell_) flush();
        cell_ = cell;
        weight_ += weight;
    }
    __device__ void flush() {
        if (weight_ > 0) add_visit(problem_, from_, row_, cell_, weight_, memory_, sums_);
        weight_ = 0;
    }

  private:
    const Problem& problem_;
    const MirroredObservation& from_;
    std::int32_t row_;
    WarpMemory& memory_;
    CellSums& sums_;
    std::size_t cell_ = 0;
    float weight_ = 0;
};

// Whether nothing but fringes lies over a target cell.
__device__ bool is_fringe(const Problem& problem, std::size_t v, std::size_t cell) {
    return problem.scratch.front[2 * (v * problem.cells() + cell)] == kNoCell;
}

// The weight of a part in target cell (r, c), 0 if it does not reach the cell or its surface.
__device__ float visit_weight(const Problem& problem, std::size_t pair, std::size_t token,
                              std::int32_t r, std::int32_t c, float surface, bool only_fringe) {
    const float* const projected =
        problem.scratch.projected + 5 * (pair * problem.scratch.room + token);
    const TentCells over = tent_cells(projected[0], projected[1], projected[3], projected[4],
                                      static_cast<std::int32_t>(problem.rows),
                                      static_cast<std::int32_t>(problem.columns));
    if (!over.contains(r, c)) return 0;
    const Tent tent =
        tent_over(projected[0], projected[1], 1.0f / projected[4], projected[3] < 0, r, c);
    if (!(tent.height > 0) || (tent.is_skirt && !only_fringe) ||
        std::abs(projected[2] - surface) > problem.options.depth_tolerance * surface)
        return 0;
    return tent.height * std::abs(projected[3]);
}

// Gathers the visits of parts that land around a target cell, on its surface. Returns their
// number; the memory holds at most kGathered of them.
__device__ unsigned gather(const Problem& problem, std::size_t pair, std::int32_t r, std::int32_t c,
                           float surface, bool only_fringe, WarpMemory& memory) {
    const unsigned lane = threadIdx.x % kWarp;
    const auto rows = static_cast<std::int32_t>(problem.rows),
               columns = static_cast<std::int32_t>(problem.columns);
    const std::int32_t reach = problem.scratch.reach[pair];
    if (lane == 0) memory.count = 0;
    __syncwarp();
    for (std::int32_t i = static_cast<std::int32_t>(lane); i < 4 * reach * reach; i += kWarp) {
        const std::int32_t y = r - reach + i / (2 * reach), x = c - reach + i % (2 * reach);
        if (y < 0 || x < 0 || y >= rows || x >= columns) continue;
        for (std::int32_t token = problem.scratch.head[pair * problem.cells() + y * columns + x];
             token >= 0; token = problem.scratch.next[pair * problem.scratch.room + token]) {
            const float weight = visit_weight(problem, pair, static_cast<std::size_t>(token), r, c,
                                              surface, only_fringe);
            if (!(weight > 0)) continue;
            const unsigned at = atomicAdd(&memory.count, 1u);
            if (at >= kGathered) continue;
            memory.token[at] = static_cast<unsigned>(token);
            memory.weight[at] = weight;
        }
    }
    __syncwarp();
    const unsigned count = memory.count;
    __syncwarp();  // before the next gather() resets it
    return count;
}

// Adds the gathered visits, in the order of the source cells.
__device__ void add_gathered(const Problem& problem, const MirroredObservation& from,
                             std::int32_t row, unsigned count, WarpMemory& memory, CellSums& sums) {
    for (unsigned i = threadIdx.x % kWarp; i < count; i += kWarp) {
        unsigned rank = 0;
        for (unsigned j = 0; j < count; ++j) rank += memory.token[j] < memory.token[i];
        memory.sorted[rank] = memory.token[i];
        memory.sorted_weight[rank] = memory.weight[i];
    }
    __syncwarp();
    CellVisit visit(problem, from, row, memory, sums);
    for (unsigned i = 0; i < count; ++i) visit.add(memory.sorted[i], memory.sorted_weight[i]);
    visit.flush();
    __syncwarp();
}

// Tests all parts of a source, one per lane, and adds their visits in order.
__device__ void add_crowd(const Problem& problem, const MirroredObservation& from, std::int32_t row,
                          std::size_t pair, std::int32_t r, std::int32_t c, float surface,
                          bool only_fringe, WarpMemory& memory, CellSums& sums) {
    const std::size_t parts =
        static_cast<std::size_t>(from.rows) * from.columns * from.subcells * from.subcells;
    CellVisit visit(problem, from, row, memory, sums);
    for (std::size_t first = 0; first < parts; first += kWarp) {
        const std::size_t token = first + threadIdx.x % kWarp;
        const float own =
            token < parts ? visit_weight(problem, pair, token, r, c, surface, only_fringe) : 0;
        for (unsigned mask = __ballot_sync(kAllLanes, own > 0); mask != 0; mask &= mask - 1) {
            const int lane = __ffs(static_cast<int>(mask)) - 1;
            const float weight = __shfl_sync(kAllLanes, own, lane);
            visit.add(first + static_cast<std::size_t>(lane), weight);
        }
    }
    visit.flush();
}

__device__ void add_splats(const Problem& problem, std::size_t v, std::size_t cell, float surface,
                           WarpMemory& memory, CellSums& sums) {
    const auto r = static_cast<std::int32_t>(cell / problem.columns),
               c = static_cast<std::int32_t>(cell % problem.columns);
    const bool only_fringe = is_fringe(problem, v, cell);
    for (std::size_t s = 0; s < problem.count; ++s) {
        const std::int32_t row = problem.row_of(v, s);
        if (row < 0) continue;
        const MirroredObservation& from = problem.mirror.observations[row];
        const std::size_t pair = v * problem.count + s;
        const unsigned count = gather(problem, pair, r, c, surface, only_fringe, memory);
        if (count <= kGathered) {
            add_gathered(problem, from, row, count, memory, sums);
        } else {  // a keyframe that is seen from far away
            add_crowd(problem, from, row, pair, r, c, surface, only_fringe, memory, sums);
        }
    }
}

// Lanes look up one source each, 32 at a time; then the warp adds the visits found, in order.
__device__ void add_lookups(const Problem& problem, std::size_t v, std::size_t cell, float surface,
                            WarpMemory& memory, CellSums& sums) {
    static_assert(kWarp * kLookups <= kGathered);
    const TargetGrid& target = problem.targets[v];
    const unsigned lane = threadIdx.x % kWarp;
    const Vec3 point = surface_point(target, cell, surface);
    for (std::size_t base = 0; base < problem.count; base += kWarp) {
        const std::size_t s = base + lane;
        const std::int32_t own = s < problem.count ? problem.row_of(v, s) : -1;
        unsigned found = 0;
        if (own >= 0) {
            const Lookup lookup(grid_of(problem.mirror.observations[own]), target,
                                problem.options.scales, problem.options.depth_tolerance);
            lookup(point, [&](std::size_t token, float weight) {
                memory.token[kLookups * lane + found] = static_cast<unsigned>(token);
                memory.weight[kLookups * lane + found] = weight;
                ++found;
            });
        }
        __syncwarp();
        for (unsigned i = 0; i < kWarp; ++i) {
            const unsigned visits = __shfl_sync(kAllLanes, found, static_cast<int>(i));
            const std::int32_t row = __shfl_sync(kAllLanes, own, static_cast<int>(i));
            for (unsigned j = 0; j < visits; ++j) {
                add_visit(problem, problem.mirror.observations[row], row,
                          memory.token[kLookups * i + j], memory.weight[kLookups * i + j], memory,
                          sums);
            }
        }
        __syncwarp();
    }
}

// One warp per target cell.
__global__ void gather_kernel(Problem problem, std::size_t views, CanvasArrays out) {
    const std::size_t i = thread_index() / kWarp, channels = problem.mirror.channels;
    const unsigned lane = threadIdx.x % kWarp;
    if (i >= views * problem.cells()) return;
    WarpMemory& memory = *reinterpret_cast<WarpMemory*>(shared_memory() +
                                                        threadIdx.x / kWarp * warp_bytes(channels));
    for (std::size_t k = lane; k < channels; k += kWarp) memory.latents[k] = 0;
    const std::size_t v = i / problem.cells(), cell = i % problem.cells();
    const float surface = problem.scratch.surface[i];
    CellSums sums;
    if (surface != kNoSurface) {
        const bool is_closed = problem.scratch.closed[i] != kNoSurface;
        if (is_closed || problem.options.direction == Direction::backward) {
            add_lookups(problem, v, cell, surface, memory, sums);
        } else {
            add_splats(problem, v, cell, surface, memory, sums);
        }
    }
    const bool covered = sums.total > 0;
    for (std::size_t k = lane; k < channels; k += kWarp)
        out.latents[i * channels + k] = covered ? memory.latents[k] / sums.total : 0.0f;
    if (lane != 0) return;
    out.coverage[i] = covered;
    out.depth[i] = covered ? surface : 0.0f;
    out.source[i] = sums.source;
    out.observed[i] = sums.source >= 0 &&
                      problem.mirror.observations[sums.source].provenance == Provenance::observed;
    out.weight[i] = sums.total;
}

BlendScratch scratch_in(Workspace& workspace, std::size_t views, std::size_t cells,
                        std::size_t picks, std::size_t room) {
    BlendScratch scratch{};
    scratch.room = room;
    scratch.projected = workspace.take<float>(views * picks * room * 5);
    scratch.next = workspace.take<std::int32_t>(views * picks * room);
    scratch.head = workspace.take<std::int32_t>(views * picks * cells);
    scratch.reach = workspace.take<std::int32_t>(views * picks);
    scratch.front = workspace.take<unsigned>(views * cells * 2);
    scratch.surface = workspace.take<float>(views * cells);
    scratch.closed = workspace.take<float>(views * cells);
    return scratch;
}

}  // namespace

std::size_t blend_workspace_bytes(std::size_t views, std::size_t cells, std::size_t picks,
                                  std::size_t room) {
    Workspace counted;
    scratch_in(counted, views, cells, picks, room);
    return counted.bytes();
}

void blend(const Mirror& mirror, const TargetGrid* targets, std::size_t views, std::size_t rows,
           std::size_t columns, const std::int32_t* picks, std::size_t count, std::size_t room,
           const BlendOptions& options, const CanvasArrays& canvases, void* workspace,
           const Stream& stream) {
    Workspace buffer(workspace);
    const BlendScratch scratch = scratch_in(buffer, views, rows * columns, count, room);
    const std::size_t cells = rows * columns, pairs = views * count;
    const Problem problem{mirror, targets, rows, columns, picks, count, options, scratch};
    fill_bytes(scratch.head, 0xFF, pairs * cells * sizeof(std::int32_t), stream);
    fill_bytes(scratch.reach, 0, pairs * sizeof(std::int32_t), stream);
    fill_bytes(scratch.front, 0xFF, 2 * views * cells * sizeof(unsigned), stream);
    launch(kName, project_parts_kernel,
           {dim3(blocks(kName, scratch.room, kBlock), static_cast<unsigned>(count),
                 static_cast<unsigned>(views)),
            dim3(kBlock), sizeof(GridProjection)},
           stream, problem);
    launch(kName, surface_kernel, threads(kName, views * cells), stream, problem, views);
    launch(kName, gather_kernel,
           {dim3(blocks(kName, views * cells, kGatherWarps)), dim3(kGatherWarps * kWarp),
            kGatherWarps * warp_bytes(mirror.channels)},
           stream, problem, views, canvases);
}

}  // namespace mosaicmem::cuda
