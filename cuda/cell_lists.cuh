// Lists of what falls into each cell, in one order always, so that sums over them are the same on
// every run: threads count, a scan gives each cell its room, threads fill it in any order, and each
// cell is sorted.
#pragma once

#include "launch.cuh"

namespace mosaicmem::cuda {

// begin (cells + 1) and entry (at most `most` of all cells), as scratch that the caller has made;
// then the entries of a cell are entry[begin[c]] .. entry[begin[c + 1]], ascending.
struct CellLists {
    unsigned *begin, *entry;
};

namespace detail {

constexpr unsigned kScanThreads = 1024;

// for_each(item, visit) calls visit(cell, entry) for each cell that an item falls into. The item is
// that of the thread.
template <class ForEach>
__global__ void count_cells_kernel(ForEach for_each, std::size_t items, unsigned* count) {
    const std::size_t item = thread_index();
    if (item >= items) return;
    for_each(item, [=](std::size_t cell, unsigned) { atomicAdd(&count[cell], 1u); });
}

// value[i] becomes the sum of those before it; one block.
static __global__ void __launch_bounds__(kScanThreads) scan_kernel(unsigned* value, std::size_t n) {
    unsigned* const sums = reinterpret_cast<unsigned*>(shared_memory());
    unsigned before = 0;
    for (std::size_t first = 0; first < n; first += kScanThreads) {
        const std::size_t i = first + threadIdx.x;
        const unsigned own = i < n ? value[i] : 0u;
        sums[threadIdx.x] = own;
        __syncthreads();
        for (unsigned reach = 1; reach < kScanThreads; reach *= 2) {
            const unsigned more = threadIdx.x >= reach ? sums[threadIdx.x - reach] : 0u;
            __syncthreads();
            sums[threadIdx.x] += more;
            __syncthreads();
        }
        if (i < n) value[i] = before + sums[threadIdx.x] - own;
        before += sums[kScanThreads - 1];
        __syncthreads();
    }
}

// Turns each begin into the end of its cell, which is the begin of the next.
template <class ForEach>
__global__ void fill_cells_kernel(ForEach for_each, std::size_t items, unsigned* cursor,
                                  unsigned* entry) {
    const std::size_t item = thread_index();
    if (item >= items) return;
    for_each(item, [=](std::size_t cell, unsigned value) {
        entry[atomicAdd(&cursor[cell], 1u)] = value;
    });
}

// Heap sort: no worse where everything falls into one cell.
__device__ inline void sort(unsigned* values, unsigned n) {
    const auto sink = [&](unsigned hole, unsigned size) {
        const unsigned value = values[hole];
        for (unsigned child = 2 * hole + 1; child < size; child = 2 * hole + 1) {
            if (child + 1 < size && values[child] < values[child + 1]) ++child;
            if (values[child] <= value) break;
            values[hole] = values[child];
            hole = child;
        }
        values[hole] = value;
    };
    for (unsigned i = n / 2; i-- > 0;) sink(i, n);
    for (unsigned size = n; size > 1; --size) {
        const unsigned top = values[0];
        values[0] = values[size - 1];
        values[size - 1] = top;
        sink(0, size - 1);
    }
}

static __global__ void sort_cells_kernel(CellLists lists, std::size_t cells) {
    const std::size_t cell = thread_index();
    if (cell >= cells) return;
    const unsigned begin = lists.begin[cell];
    sort(lists.entry + begin, lists.begin[cell + 1] - begin);
}

}  // namespace detail

// Each entry is below 2^32, and so is their number.
template <class ForEach>
void fill_lists(const char* name, const ForEach& for_each, std::size_t items, std::size_t cells,
                const CellLists& lists, const Stream& stream) {
    // Counted and scanned one place further on, so that filling leaves every begin where it
    // belongs.
    unsigned* const ends = lists.begin + 1;
    fill_bytes(lists.begin, 0, (cells + 1) * sizeof(unsigned), stream);
    launch(name, detail::count_cells_kernel<ForEach>, threads(name, items), stream, for_each, items,
           ends);
    launch(name, detail::scan_kernel,
           {dim3(1), dim3(detail::kScanThreads), detail::kScanThreads * sizeof(unsigned)}, stream,
           ends, cells);
    launch(name, detail::fill_cells_kernel<ForEach>, threads(name, items), stream, for_each, items,
           ends, lists.entry);
    launch(name, detail::sort_cells_kernel, threads(name, cells), stream, lists, cells);
}

}  // namespace mosaicmem::cuda
