// A lock that fork() leaves free in the child, and what it guards whole.
//
// A fork copies the memory of all threads and only the thread that forks. A lock that another
// thread held would stay held in the child for ever, over data that nobody finishes writing. So
// before a fork the forking thread takes every lock of this kind: it waits for calls that are under
// way, and none begins. The parent lets go of them afterwards; the child, where nobody can hold or
// await one, makes them new.
//
// Whoever holds one must neither await another one nor the GIL, which the forking thread may hold.
#pragma once

#include <mutex>
#include <shared_mutex>

namespace mosaicmem {

// Many readers or one writer, for std::shared_lock and std::unique_lock.
class ForkSafeMutex {
  public:
    ForkSafeMutex();
    ~ForkSafeMutex();
    ForkSafeMutex(const ForkSafeMutex&) = delete;
    ForkSafeMutex& operator=(const ForkSafeMutex&) = delete;

    // Whoever wants the lock waits for the turn first. A writer keeps the turn while it waits, so
    // that readers who come later do not pass it for ever.
    void lock() {
        const std::lock_guard turn(locks_.turn);
        locks_.mutex.lock();
    }
    void unlock() { locks_.mutex.unlock(); }
    void lock_shared() {
        const std::lock_guard turn(locks_.turn);
        locks_.mutex.lock_shared();
    }
    void unlock_shared() { locks_.mutex.unlock_shared(); }

    // Around a fork: nobody else holds or awaits any part of it.
    void take() {
        locks_.turn.lock();
        locks_.mutex.lock();
    }
    void give_back() {
        locks_.mutex.unlock();
        locks_.turn.unlock();
    }
    // Instead of give_back() in the child: as if nobody had ever held it.
    void make_new();

  private:
    struct Locks {
        std::mutex turn;
        std::shared_mutex mutex;
    };

    Locks locks_;
};

}  // namespace mosaicmem
