// The one executor of the core: static contiguous chunks over std::thread.
// Threads live for one call, so there is no pool to hang after fork() and nothing to clash with
// torch's OpenMP.
#pragma once

#include <cstddef>
#include <functional>

namespace mosaicmem {

// The number of threads to use: `requested` if positive, else all cores.
int resolve_threads(int requested);

// Calls body(begin, end) on chunks that cover [0, n) exactly once, at most one chunk a thread, none
// smaller than `grain` items (so that a thread is worth its start: choose about 100 microseconds of
// work). Bodies must not depend on where chunks are cut. The first exception of a body is thrown
// again here, after all threads have ended.
void parallel_for(std::size_t n, std::size_t grain, int num_threads,
                  const std::function<void(std::size_t, std::size_t)>& body);

// For tests: while on, every grain counts as 1, so that small inputs run on all threads too.
void ignore_grain(bool on);

}  // namespace mosaicmem
