#include "cpp/base/fork_safe_mutex.hpp"

#include <pthread.h>

#include <memory>
#include <new>
#include <set>
#ifdef __SANITIZE_THREAD__
#include <sanitizer/tsan_interface.h>
#endif

namespace mosaicmem {
namespace {

// Every ForkSafeMutex of the process. Never destroyed, so it outlives them all.
struct Registry {
    std::mutex mutex;
    std::set<ForkSafeMutex*> locks;
};

Registry& registry();

void take_all() {
    registry().mutex.lock();
    for (ForkSafeMutex* lock : registry().locks) lock->take();
}

void release_all() {
    for (ForkSafeMutex* lock : registry().locks) lock->give_back();
    registry().mutex.unlock();
}

void make_all_new() {
    for (ForkSafeMutex* lock : registry().locks) lock->make_new();
    registry().mutex.unlock();  // the thread that locked it is the one that survives the fork
}

Registry& registry() {
    static Registry& all = []() -> Registry& {
        auto made = std::make_unique<Registry>();  // first: a retry must not register twice
        if (pthread_atfork(take_all, release_all, make_all_new)) throw std::bad_alloc();
        return *made.release();
    }();
    return all;
}

}  // namespace

ForkSafeMutex::ForkSafeMutex() {
    const std::lock_guard guard(registry().mutex);
    registry().locks.insert(this);
}

ForkSafeMutex::~ForkSafeMutex() {
    const std::lock_guard guard(registry().mutex);
    registry().locks.erase(this);
}

// Runs no destructors: the old locks may be held by threads that exist only in the parent.
void ForkSafeMutex::make_new() {
#ifdef __SANITIZE_THREAD__
    for (void* const lock : {static_cast<void*>(&locks_.mutex), static_cast<void*>(&locks_.turn)}) {
        __tsan_mutex_pre_unlock(lock, 0);
        __tsan_mutex_post_unlock(lock, 0);
    }
#endif
    new (&locks_) Locks;
}

}  // namespace mosaicmem
