// The core's only executor: static contiguous chunks, over threads that thread_pool.hpp keeps.

#pragma once

#include <cstddef>
#include <functional>

namespace mosaicmem {

// The number of threads to use: `requested` if positive, else all cores that this process may use,
// as its affinity and the quota of its container are when the core is loaded.
int resolve_threads(int requested);

// Does once, when the core is loaded, what the first call would do: a child that is forked from
// within that call could not.
void prepare_threads();

// Calls body(begin, end) on chunks that cover [0, n) exactly once: at most one chunk per thread,
// none smaller than `grain` items. Choose a grain of about 100 microseconds of work, so that
// starting a thread pays off. Bodies must not depend on chunk boundaries. Rethrows the first
// exception of a body after all threads have ended.
void parallel_for(std::size_t n, std::size_t grain, int num_threads,
                  const std::function<void(std::size_t, std::size_t)>& body);

// For tests: while on, every grain counts as 1, so that small inputs use all threads too.
void ignore_grain(bool on);

}  // namespace mosaicmem
