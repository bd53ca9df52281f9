#include "cpp/base/parallel.hpp"

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>
#include <vector>

namespace mosaicmem {
namespace {

std::atomic<bool> grain_ignored = false;

}  // namespace

void ignore_grain(bool on) { grain_ignored = on; }

int resolve_threads(int requested) {
    if (requested > 0) return requested;
    return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
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
    const auto run_chunk = [&](std::size_t chunk) noexcept {
        try {
            body(n * chunk / threads, n * (chunk + 1) / threads);
        } catch (...) {
            const std::lock_guard lock(failure_mutex);
            if (!failure) failure = std::current_exception();
        }
    };
    std::vector<std::jthread> workers;
    std::size_t started = 1;
    try {
        workers.reserve(threads - 1);
        for (; started < threads; ++started) workers.emplace_back(run_chunk, started);
    } catch (const std::system_error&) {
        // No more threads available: this thread runs the remaining chunks.
    } catch (const std::bad_alloc&) {
        // Likewise.
    }
    run_chunk(0);
    for (std::size_t chunk = started; chunk < threads; ++chunk) run_chunk(chunk);
    workers.clear();  // joins
    if (failure) std::rethrow_exception(failure);
}

}  // namespace mosaicmem
