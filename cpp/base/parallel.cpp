#include "cpp/base/parallel.hpp"

#ifdef __linux__
#include <sched.h>
#endif

#include <algorithm>
#include <atomic>
#include <cmath>
#include <exception>
#include <fstream>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>
#include <vector>

#include "cpp/base/thread_pool.hpp"

namespace mosaicmem {
namespace {

std::atomic<bool> grain_ignored = false;

// The cores' worth of time that a container may use, or `otherwise`.
double quota_of_container(double otherwise) {
    double quota = -1, period = 0;
    if (std::ifstream file("/sys/fs/cgroup/cpu.max");
        file >> quota >> period && quota > 0 && period > 0)
        return quota / period;
    std::ifstream of_quota("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"),
        of_period("/sys/fs/cgroup/cpu/cpu.cfs_period_us");
    if (of_quota >> quota && of_period >> period && quota > 0 && period > 0) return quota / period;
    return otherwise;
}

// Of the machine, those that this process may run on, and no more than its container may use: more
// threads would wait for each other.
int usable_cores() {
    int cores = static_cast<int>(std::thread::hardware_concurrency());
#ifdef __linux__
    cpu_set_t allowed;
    if (sched_getaffinity(0, sizeof allowed, &allowed) == 0) cores = CPU_COUNT(&allowed);
    cores = static_cast<int>(std::min<double>(cores, std::ceil(quota_of_container(cores))));
#endif
    return std::max(1, cores);
}

// With threads of its own, for calls that find the pool busy.
void run_on_new_threads(std::size_t chunks, const std::function<void(std::size_t)>& run) {
    std::vector<std::jthread> workers;
    std::size_t started = 1;
    try {
        workers.reserve(chunks - 1);
        for (; started < chunks; ++started) workers.emplace_back(run, started);
    } catch (const std::system_error&) {
        // No more threads available: this thread runs the remaining chunks.
    } catch (const std::bad_alloc&) {
        // Likewise.
    }
    run(0);
    for (std::size_t chunk = started; chunk < chunks; ++chunk) run(chunk);
}

}  // namespace

void ignore_grain(bool on) { grain_ignored = on; }

int resolve_threads(int requested) {
    if (requested > 0) return requested;
    static const int cores = usable_cores();  // asking takes microseconds
    return cores;
}

void prepare_threads() {
    resolve_threads(0);
    ThreadPool::prepare();
}

void parallel_for(std::size_t n, std::size_t grain, int num_threads,
                  const std::function<void(std::size_t, std::size_t)>& body) {
    if (n == 0) return;
    if (grain_ignored) grain = 1;
    const std::size_t most = std::max<std::size_t>(1, n / std::max<std::size_t>(1, grain));
    const std::size_t threads =
        std::min<std::size_t>(most, static_cast<std::size_t>(resolve_threads(num_threads)));
    if (threads <= 1) {
        body(0, n);
        return;
    }
    std::exception_ptr failure;
    std::mutex failure_mutex;
    const std::function<void(std::size_t)> run_chunk = [&](std::size_t chunk) noexcept {
        try {
            body(n * chunk / threads, n * (chunk + 1) / threads);
        } catch (...) {
            const std::lock_guard lock(failure_mutex);
            if (!failure) failure = std::current_exception();
        }
    };
    if (!ThreadPool::try_run(threads, run_chunk)) run_on_new_threads(threads, run_chunk);
    if (failure) std::rethrow_exception(failure);
}

}  // namespace mosaicmem
