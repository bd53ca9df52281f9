// Lists of the entries that fall into each cell, always in the same order, so that sums over them
// are reproducible: threads count, a scan gives each cell its range, threads fill it in any order,
// and each cell is sorted.
#pragma once

#include "cuda/base/launch.cuh"
#include "cuda/base/workspace.hpp"

namespace mosaicmem::cuda {

// In scratch: begin (cells + 1) and entry (at most `most` over all cells). Once filled, cell c has
// the entries entry[begin[c]] up to, but not including, entry[begin[c + 1]], ascending.
struct CellLists {
    unsigned *begin, *entry;

    static CellLists carve(Workspace& workspace, std::size_t cells, std::size_t most) {
        return {workspace.take<unsigned>(cells + 1), workspace.take<unsigned>(most)};
    }
};

namespace detail {

constexpr unsigned kScanThreads = 1024;
constexpr unsigned kScanned = 8;

// for_each(item, visit) calls visit(cell, entry) for each cell that an item falls into; one thread
// per item.
template <class ForEach>
__global__ void count_cells_kernel(ForEach for_each, std::size_t items, unsigned* count) {
    const std::size_t item = thread_index();
    if (item >= items) return;
    for_each(item, [=](std::size_t cell, unsigned) { atomicAdd(&count[cell], 1u); });
}

// Inclusive prefix sum over the warp.
__device__ __forceinline__ unsigned sum_up_to(unsigned own) {
    const unsigned lane = threadIdx.x % kWarp;
    for (unsigned reach = 1; reach < kWarp; reach *= 2) {
        const unsigned more = __shfl_up_sync(kAllLanes, own, reach);
        if (lane >= reach) own += more;
    }
    return own;
}

// Exclusive prefix sum in place, by one block; a thread handles kScanned values at a time.
static __global__ void __launch_bounds__(kScanThreads) scan_kernel(unsigned* value, std::size_t n) {
    unsigned* const warp_sums = reinterpret_cast<unsigned*>(shared_memory());
    static_assert(kScanThreads == kWarp * kWarp);  // one warp holds the sums of all
    const unsigned warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
    unsigned before = 0;
    for (std::size_t base = 0; base < n; base += kScanThreads * kScanned) {
        const std::size_t first = base + threadIdx.x * kScanned;
        unsigned values[kScanned], own = 0;
#pragma unroll
        for (unsigned i = 0; i < kScanned; ++i) {
            values[i] = first + i < n ? value[first + i] : 0u;
            own += values[i];
        }
        const unsigned up_to_own = sum_up_to(own);
        if (lane == kWarp - 1) warp_sums[warp] = up_to_own;
        __syncthreads();
        const unsigned up_to_warp = sum_up_to(warp_sums[lane]);
        const unsigned up_to_last_warp =
            __shfl_sync(kAllLanes, up_to_warp, static_cast<int>((warp + kWarp - 1) % kWarp));
        unsigned sum = before + (warp > 0 ? up_to_last_warp : 0u) + up_to_own - own;
#pragma unroll
        for (unsigned i = 0; i < kScanned; ++i) {
            if (first + i < n) value[first + i] = sum;
            sum += values[i];
        }
        before += __shfl_sync(kAllLanes, up_to_warp, kWarp - 1);
        __syncthreads();
    }
}

// Advances each begin to the end of its cell, which is the begin of the next.
template <class ForEach>
__global__ void fill_cells_kernel(ForEach for_each, std::size_t items, unsigned* cursor,
                                  unsigned* entry) {
    const std::size_t item = thread_index();
    if (item >= items) return;
    for_each(item, [=](std::size_t cell, unsigned value) {
        entry[atomicAdd(&cursor[cell], 1u)] = value;
    });
}

// Bitonic merge sort, by all lanes of a warp. The first step of each merge reverses the second
// half, so that all steps put the smaller value first and n need not be a power of two.
__device__ inline void sort(unsigned* values, unsigned n) {
    const unsigned lane = threadIdx.x % kWarp;
    const auto order = [=](unsigned a, unsigned b) {
        if (b >= n || values[a] <= values[b]) return;
        const unsigned greater = values[a];
        values[a] = values[b];
        values[b] = greater;
    };
    for (unsigned half = 1; half < n; half *= 2) {
        for (unsigned i = lane; i / half * 2 * half < n; i += kWarp) {
            const unsigned first = i / half * 2 * half, at = i % half;
            order(first + at, first + 2 * half - 1 - at);
        }
        __syncwarp();
        for (unsigned reach = half / 2; reach > 0; reach /= 2) {
            for (unsigned i = lane; i / reach * 2 * reach < n; i += kWarp) {
                const unsigned a = i / reach * 2 * reach + i % reach;
                order(a, a + reach);
            }
            __syncwarp();
        }
    }
}

// One warp per cell.
static __global__ void sort_cells_kernel(CellLists lists, std::size_t cells) {
    const std::size_t cell = thread_index() / kWarp;
    if (cell >= cells) return;
    const unsigned begin = lists.begin[cell];
    sort(lists.entry + begin, lists.begin[cell + 1] - begin);
}

}  // namespace detail

// Every entry must be below 2^32, and so must their number.
template <class ForEach>
void fill_lists(const char* name, const ForEach& for_each, std::size_t items, std::size_t cells,
                const CellLists& lists, const Stream& stream) {
    // Counts are stored and scanned shifted by one, so that filling leaves every begin at its final
    // value.
    unsigned* const ends = lists.begin + 1;
    fill_bytes(lists.begin, 0, (cells + 1) * sizeof(unsigned), stream);
    launch(name, detail::count_cells_kernel<ForEach>, threads(name, items), stream, for_each, items,
           ends);
    launch(name, detail::scan_kernel,
           {dim3(1), dim3(detail::kScanThreads), kWarp * sizeof(unsigned)}, stream, ends, cells);
    launch(name, detail::fill_cells_kernel<ForEach>, threads(name, items), stream, for_each, items,
           ends, lists.entry);
    launch(name, detail::sort_cells_kernel, threads(name, cells * kWarp), stream, lists, cells);
}

}  // namespace mosaicmem::cuda
