// Threads that wait for the next call, since starting one takes as long as a small kernel.
#pragma once

#include <cstddef>
#include <functional>

namespace mosaicmem {

class ThreadPool {
  public:
    // Call it once while no other thread can fork: a child must not find this half done.
    static void prepare();

    // Calls run(i) once for each i < chunks, on the calling thread and up to chunks - 1 of the
    // pool, and returns true when all have ended; run must not throw. Returns false, with nothing
    // run, if another call has the pool.
    //
    // The pool starts threads when it first needs them, and ends them before a fork: neither parent
    // nor child is then multi-threaded because of it, and both start new ones. A fork during a call
    // does not wait for it: the child gets a pool of its own.
    static bool try_run(std::size_t chunks, const std::function<void(std::size_t)>& run);
};

}  // namespace mosaicmem
