#include "cpp/geometry/unproject.hpp"
#include "cuda/attention/splat.hpp"
#include "cuda/base/cell_lists.cuh"

namespace mosaicmem::cuda {
namespace {

__device__ void for_each_cell_of(const SplatTokens& tokens, std::size_t i, const SplatGrid& grid,
                                 Splat mode, const auto& visit) {
    for_each_cell(tokens.position[2 * i + 1], tokens.position[2 * i], mode, grid.rows, grid.columns,
                  visit);
}

__global__ void splat_front_kernel(SplatTokens tokens, Splat mode, SplatGrid grid,
                                   unsigned long long* front) {
    const std::size_t i = thread_index();
    if (i >= tokens.count || !is_valid_depth(tokens.depth[i])) return;
    const unsigned long long key = front_key(tokens.depth[i], i);
    for_each_cell_of(tokens, i, grid, mode,
                     [=](std::size_t cell, float) { atomicMin(&front[cell], key); });
}

__global__ void resolve_kernel(SplatTokens tokens, SplatGrid grid,
                               const unsigned long long* front) {
    const std::size_t cell = thread_index();
    if (cell >= grid.rows * grid.columns) return;
    const bool covered = front[cell] != kNoToken;
    const std::size_t token = front[cell] & 0xFFFFFFFFull;
    grid.coverage[cell] = covered;
    grid.depth[cell] = covered ? tokens.depth[token] : 0.0f;
    grid.source[cell] = covered ? static_cast<std::int32_t>(token) : -1;
}

// Neighbouring threads handle neighbouring channels of one cell.
template <class T>
__global__ void copy_front_kernel(SplatGrid grid, const T* latents, std::size_t channels,
                                  T* canvas) {
    const std::size_t index = thread_index(), cell = index / channels;
    if (cell >= grid.rows * grid.columns) return;
    const std::int32_t source = grid.source[cell];
    canvas[index] =
        source < 0 ? T(0) : latents[static_cast<std::size_t>(source) * channels + index % channels];
}

// The weight of a token in a cell that it touches by `bilinear`; 0 behind the front surface.
__device__ float front_weight(const SplatTokens& tokens, std::size_t i, const SplatGrid& grid,
                              float tolerance, std::size_t cell, float bilinear) {
    if (tokens.depth[i] > grid.depth[cell] * (1.0f + tolerance)) return 0.0f;
    return (tokens.weight ? tokens.weight[i] : 1.0f) * bilinear;
}

// Entries are token indices.
struct ForEachFront {
    SplatTokens tokens;
    SplatGrid grid;
    float tolerance;

    __device__ void operator()(std::size_t i, const auto& visit) const {
        if (!is_valid_depth(tokens.depth[i])) return;
        for_each_cell_of(tokens, i, grid, Splat::bilinear, [&](std::size_t cell, float bilinear) {
            if (front_weight(tokens, i, grid, tolerance, cell, bilinear) > 0)
                visit(cell, static_cast<unsigned>(i));
        });
    }

    // For a token on the list of the cell.
    __device__ float weight(std::size_t i, std::size_t wanted) const {
        float weight = 0;
        for_each_cell_of(tokens, i, grid, Splat::bilinear, [&](std::size_t cell, float bilinear) {
            if (cell == wanted) weight = front_weight(tokens, i, grid, tolerance, cell, bilinear);
        });
        return weight;
    }
};

template <class T>
__device__ T total_weight(const ForEachFront& tokens, const CellLists& lists, std::size_t cell) {
    T total = 0;
    for (unsigned e = lists.begin[cell]; e < lists.begin[cell + 1]; ++e) {
        total += tokens.weight(lists.entry[e], cell);
    }
    return total;
}

template <class T>
__global__ void average_front_kernel(ForEachFront tokens, CellLists lists, const T* latents,
                                     std::size_t channels, T* canvas) {
    const std::size_t index = thread_index(), cell = index / channels;
    if (cell >= tokens.grid.rows * tokens.grid.columns) return;
    T sum = 0, total = 0;
    for (unsigned e = lists.begin[cell]; e < lists.begin[cell + 1]; ++e) {
        const std::size_t i = lists.entry[e];
        const float weight = tokens.weight(i, cell);
        sum += weight * latents[i * channels + index % channels];
        total += weight;
    }
    canvas[index] = tokens.grid.source[cell] < 0 ? T(0) : sum / total;
}

template <class T>
__global__ void total_kernel(ForEachFront tokens, CellLists lists, T* total) {
    const std::size_t cell = thread_index();
    if (cell < tokens.grid.rows * tokens.grid.columns)
        total[cell] = total_weight<T>(tokens, lists, cell);
}

// A token gathers from the cells that it touches, so that no two threads add to one place.
template <class T>
__global__ void splat_adjoint_kernel(SplatTokens tokens, SplatOptions options, SplatGrid grid,
                                     const T* canvas, std::size_t channels, const T* total,
                                     T* latents) {
    const std::size_t index = thread_index(), i = index / channels, k = index % channels;
    if (i >= tokens.count) return;
    T sum = 0;
    if (is_valid_depth(tokens.depth[i])) {
        for_each_cell_of(tokens, i, grid, options.mode, [&](std::size_t cell, float bilinear) {
            if (options.mode != Splat::bilinear) {
                if (grid.source[cell] == static_cast<std::int32_t>(i))
                    sum += canvas[cell * channels + k];
                return;
            }
            const float weight =
                front_weight(tokens, i, grid, options.depth_tolerance, cell, bilinear);
            if (weight > 0) sum += weight / total[cell] * canvas[cell * channels + k];
        });
    }
    latents[index] = sum;
}

// Per cell: the front key, or in the adjoint the sum of weights; for averages also the list of
// tokens on the front surface.
struct SplatScratch {
    unsigned long long* front;
    CellLists lists;

    static SplatScratch carve(Workspace& workspace, std::size_t count, std::size_t cells,
                              Splat mode) {
        SplatScratch scratch{workspace.take<unsigned long long>(cells), {}};
        if (mode == Splat::bilinear) scratch.lists = CellLists::carve(workspace, cells, 4 * count);
        return scratch;
    }
};

}  // namespace

std::size_t splat_workspace_bytes(std::size_t count, std::size_t rows, std::size_t columns,
                                  Splat mode) {
    Workspace workspace;
    SplatScratch::carve(workspace, count, rows * columns, mode);
    return workspace.bytes();
}

template <class T>
void splat(const SplatTokens& tokens, const SplatOptions& options, const T* latents,
           std::size_t channels, const SplatGrid& grid, T* canvas, void* workspace,
           const Stream& stream) {
    const std::size_t cells = grid.rows * grid.columns;
    Workspace room(workspace);
    const SplatScratch scratch = SplatScratch::carve(room, tokens.count, cells, options.mode);
    fill_bytes(scratch.front, 0xFF, cells * sizeof(unsigned long long), stream);
    launch("splat", splat_front_kernel, threads("splat", tokens.count), stream, tokens,
           options.mode, grid, scratch.front);
    launch("splat", resolve_kernel, threads("splat", cells), stream, tokens, grid, scratch.front);
    if (channels == 0) return;
    if (options.mode != Splat::bilinear) {
        launch("splat", copy_front_kernel<T>, threads("splat", cells * channels), stream, grid,
               latents, channels, canvas);
        return;
    }
    const ForEachFront front{tokens, grid, options.depth_tolerance};
    fill_lists("splat", front, tokens.count, cells, scratch.lists, stream);
    launch("splat", average_front_kernel<T>, threads("splat", cells * channels), stream, front,
           scratch.lists, latents, channels, canvas);
}

template <class T>
void splat_adjoint(const SplatTokens& tokens, const SplatOptions& options, const SplatGrid& grid,
                   const T* canvas, std::size_t channels, T* latents, void* workspace,
                   const Stream& stream) {
    if (channels == 0) return;
    const std::size_t cells = grid.rows * grid.columns;
    Workspace room(workspace);
    const SplatScratch scratch = SplatScratch::carve(room, tokens.count, cells, options.mode);
    T* const total = reinterpret_cast<T*>(scratch.front);
    if (options.mode == Splat::bilinear) {
        const ForEachFront front{tokens, grid, options.depth_tolerance};
        fill_lists("splat_adjoint", front, tokens.count, cells, scratch.lists, stream);
        launch("splat_adjoint", total_kernel<T>, threads("splat_adjoint", cells), stream, front,
               scratch.lists, total);
    }
    launch("splat_adjoint", splat_adjoint_kernel<T>,
           threads("splat_adjoint", tokens.count * channels), stream, tokens, options, grid, canvas,
           channels, total, latents);
}

template void splat(const SplatTokens&, const SplatOptions&, const float*, std::size_t,
                    const SplatGrid&, float*, void*, const Stream&);
template void splat_adjoint(const SplatTokens&, const SplatOptions&, const SplatGrid&, const float*,
                            std::size_t, float*, void*, const Stream&);
template void splat(const SplatTokens&, const SplatOptions&, const double*, std::size_t,
                    const SplatGrid&, double*, void*, const Stream&);
template void splat_adjoint(const SplatTokens&, const SplatOptions&, const SplatGrid&,
                            const double*, std::size_t, double*, void*, const Stream&);

}  // namespace mosaicmem::cuda
