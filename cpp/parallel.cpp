#include "parallel.hpp"

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace mosaicmem {

int resolve_threads(int requested) {
    if (requested > 0) return requested;
    if (const char* text = std::getenv("MOSAICMEM_NUM_THREADS")) {
        int value = 0;
        std::from_chars(text, text + std::strlen(text), value);
        if (value > 0) return value;
    }
    return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

void parallel_for(std::size_t n, std::size_t grain, int num_threads,
                  const std::function<void(std::size_t, std::size_t)>& body) {
    if (n == 0) return;
    const std::size_t most = std::max<std::size_t>(1, n / std::max<std::size_t>(1, grain));
    const std::size_t threads = std::min<std::size_t>(most, resolve_threads(num_threads));
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
    workers.reserve(threads - 1);
    for (std::size_t chunk = 1; chunk < threads; ++chunk) workers.emplace_back(run_chunk, chunk);
    run_chunk(0);
    workers.clear();  // joins
    if (failure) std::rethrow_exception(failure);
}

}  // namespace mosaicmem
