// A lock that survives fork(): in the child it is free, and the data it guards is consistent.
//
// A fork copies the memory of all threads, but only the forking thread. A lock that another thread
// held would stay locked in the child for ever, over half-written data. So before a fork the
// forking thread takes every lock of this kind: calls under way finish, and none begins. Afterwards
// the parent releases the locks; the child, which has no other threads, re-creates them.
//
// While holding one, wait neither for another one nor for the GIL, which the forking thread may
// hold.
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

    // Every locker takes the turn first. A writer keeps it while it waits, so that later readers
    // cannot starve it.
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

    // Around a fork: holds both mutexes, so that no other thread holds either.
    void take() {
        locks_.turn.lock();
        locks_.mutex.lock();
    }
    void give_back() {
        locks_.mutex.unlock();
        locks_.turn.unlock();
    }
    // In the child, instead of give_back(): re-creates the lock, unlocked.
    void make_new();

  private:
    struct Locks {
        std::mutex turn;
        std::shared_mutex mutex;
    };

    Locks locks_;
};

}  // namespace mosaicmem
