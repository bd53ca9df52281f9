#include "cpp/base/thread_pool.hpp"

#include <pthread.h>
#include <signal.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>
#include <vector>

namespace mosaicmem {
namespace {

// A call. Whoever is free takes the next chunk, so a thread that wakes late delays nobody.
struct Job {
    const std::function<void(std::size_t)>& run;
    const std::size_t chunks;
    std::atomic<std::size_t> next = 0;

    void take_chunks() {
        for (std::size_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < chunks;) run(i);
    }
};

// How long a waiting thread spins before it sleeps. Waking one takes longer than a small kernel, up
// to 70 microseconds on a virtual machine, and calls often follow each other closely.
constexpr std::chrono::microseconds kSpin{100};

class Workers {
  public:
    void run(Job& job) {
        start(job.chunks - 1);
        const std::size_t helpers = std::min(job.chunks - 1, threads_.size());
        {
            const std::lock_guard lock(mutex_);
            job_ = &job;
            wanted_ = helpers;
            jobs_.fetch_add(1, std::memory_order_relaxed);
        }
        helpers == 1 ? has_job_.notify_one() : has_job_.notify_all();
        job.take_chunks();
        {
            const std::lock_guard lock(mutex_);
            job_ = nullptr;
        }
        spin_until([this] { return active_.load(std::memory_order_relaxed) == 0; });
        std::unique_lock lock(mutex_);
        is_idle_.wait(lock, [this] { return active_ == 0; });
    }

    void end() {
        {
            const std::lock_guard lock(mutex_);
            is_ending_ = true;
            jobs_.fetch_add(1, std::memory_order_relaxed);
        }
        has_job_.notify_all();
        for (std::thread& each : threads_) each.join();
        threads_.clear();
        is_ending_ = false;
    }

  private:
    // Signals are for the threads of the program, but for those that a thread's own fault raises:
    // blocked, they would end the process before its handlers could report anything.
    void start(std::size_t count) {
        if (threads_.size() >= count) return;
        sigset_t all, before;
        sigfillset(&all);
        for (const int fault : {SIGBUS, SIGFPE, SIGILL, SIGSEGV}) sigdelset(&all, fault);
        pthread_sigmask(SIG_SETMASK, &all, &before);
        try {
            threads_.reserve(count);
            while (threads_.size() < count) threads_.emplace_back([this] { work(); });
        } catch (const std::system_error&) {
            // No more threads available: those that there are, and the caller, take all chunks.
        } catch (const std::bad_alloc&) {
            // Likewise.
        }
        pthread_sigmask(SIG_SETMASK, &before, nullptr);
    }

    void work() {
        std::unique_lock lock(mutex_);
        for (;;) {
            has_job_.wait(lock, [this] { return is_ending_ || (job_ && wanted_ > 0); });
            if (is_ending_) return;
            Job& job = *job_;
            --wanted_;
            ++active_;
            lock.unlock();
            job.take_chunks();
            lock.lock();
            if (--active_ == 0) is_idle_.notify_one();
            const std::uint64_t before = jobs_.load(std::memory_order_relaxed);
            lock.unlock();
            spin_until([&] { return jobs_.load(std::memory_order_relaxed) != before; });
            lock.lock();
        }
    }

    template <class Found>
    static void spin_until(const Found& found) {
        const auto end = std::chrono::steady_clock::now() + kSpin;
        while (!found() && std::chrono::steady_clock::now() < end) {
            std::this_thread::yield();  // whoever else wants the core has it
        }
    }

    std::mutex mutex_;
    std::condition_variable has_job_, is_idle_;
    Job* job_ = nullptr;
    std::size_t wanted_ = 0;               // threads that may still join the job
    std::atomic<std::size_t> active_ = 0;  // threads that have; changed under the mutex
    bool is_ending_ = false;
    std::atomic<std::uint64_t> jobs_ = 0;  // so far, changed under the mutex
    std::vector<std::thread> threads_;     // of whoever owns the pool
};

struct Pool {
    std::mutex owner;  // held by the call that has the pool
    Workers workers;
};

// Never destroyed: its threads wait until the process ends.
std::atomic<Pool*> pool = nullptr;
thread_local bool is_held = false;  // by this thread, which forks

// A pool that a call has is left to it: a fork waits for no kernel.
void before_fork() {
    Pool* const own = pool.load();
    is_held = own && own->owner.try_lock();
    if (is_held) own->workers.end();
}

void in_parent() {
    if (is_held) pool.load()->owner.unlock();
}

// The thread that locked the owner is the one that survives. A pool that was busy has threads that
// exist only in the parent: it is left behind.
void in_child() {
    if (is_held) {
        pool.load()->owner.unlock();
    } else if (pool.load()) {
        pool.store(new (std::nothrow) Pool);
    }
}

Pool* the_pool() {
    static const bool is_ready = [] {
        auto made = std::make_unique<Pool>();  // first: a retry must not register twice
        if (pthread_atfork(before_fork, in_parent, in_child)) throw std::bad_alloc();
        pool.store(made.release());
        return true;
    }();
    return is_ready ? pool.load() : nullptr;
}

}  // namespace

void ThreadPool::prepare() { the_pool(); }

bool ThreadPool::try_run(std::size_t chunks, const std::function<void(std::size_t)>& run) {
    Pool* const own = the_pool();
    if (!own) return false;
    const std::unique_lock owner(own->owner, std::try_to_lock);
    if (!owner) return false;
    Job job{run, chunks};
    own->workers.run(job);
    return true;
}

}  // namespace mosaicmem
