// Fibers for CUDA threads; see cuda_runtime.h.
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <numeric>
#include <random>
#include <vector>

#include "context.hpp"

#if defined(MOSAICMEM_SANITIZE)
#include <sanitizer/common_interface_defs.h>
#endif

dim3 gridDim, blockDim, blockIdx, threadIdx;

namespace cuda_emulator {
namespace {

constexpr std::size_t kStackBytes = 256 << 10;
constexpr std::size_t kMostSharedBytes = 227 << 10;  // sm_90's limit
constexpr std::size_t kSharedAlignment = 1024;
constexpr unsigned kMostThreads = 1024;
constexpr std::size_t kMostExchanged = 64;  // bytes per lane

struct Copy {
    void* to;
    const void* from;
    std::size_t n, zeros;
};

enum class State { ready, at_block_barrier, at_warp_barrier };

// A fiber runs threads of a block one after another; a waiting thread keeps its fiber.
struct Fiber {
    Context context;
    std::unique_ptr<char[]> stack = std::make_unique<char[]>(kStackBytes);
    void* fake_stack = nullptr;
    State state = State::ready;
    bool has_thread = false;
    unsigned thread = 0;
    std::deque<std::vector<Copy>> groups;
    std::vector<Copy> open;
};

struct Warp {
    std::vector<unsigned char> values[2];
    unsigned round[kWarp] = {};  // collectives that each lane has completed
};

[[noreturn]] void fail(const char* what) {
    std::fprintf(stderr, "CUDA emulator: block (%u, %u, %u), thread (%u, %u, %u): %s\n", blockIdx.x,
                 blockIdx.y, blockIdx.z, threadIdx.x, threadIdx.y, threadIdx.z, what);
    std::abort();
}

class Emulator {
  public:
    cudaError_t run(dim3 grid, dim3 block, std::size_t shared_bytes,
                    const std::function<void()>& body) {
        const std::lock_guard lock(mutex_);
        const unsigned threads = block.x * block.y * block.z;
        if (threads == 0 || threads > kMostThreads || shared_bytes > kMostSharedBytes ||
            grid.x > 0x7FFFFFFF || grid.y > 65535 || grid.z > 65535 || grid.x == 0 || grid.y == 0 ||
            grid.z == 0) {
            return cudaErrorInvalidConfiguration;
        }
        gridDim = grid, blockDim = block;
        body_ = &body;
        std::vector<std::size_t> blocks(static_cast<std::size_t>(grid.x) * grid.y * grid.z);
        std::iota(blocks.begin(), blocks.end(), 0);
        std::shuffle(blocks.begin(), blocks.end(), order_);
        for (const std::size_t i : blocks) {
            blockIdx = {static_cast<unsigned>(i % grid.x),
                        static_cast<unsigned>(i / grid.x % grid.y),
                        static_cast<unsigned>(i / grid.x / grid.y)};
            shared_.assign(shared_bytes + kSharedAlignment,
                           0xFF);  // unwritten shared memory reads as NaN
            run_block(threads);
        }
        return cudaSuccess;
    }

    unsigned char* shared() {
        const auto at = reinterpret_cast<std::uintptr_t>(shared_.data());
        return shared_.data() + (kSharedAlignment - at % kSharedAlignment) % kSharedAlignment;
    }

    void wait(State state) {
        Fiber& fiber = *fibers_[current_];
        fiber.state = state;
        switch_to_scheduler(fiber);
    }

    const void* exchange(unsigned mask, const void* mine, std::size_t size) {
        const unsigned lane = fibers_[current_]->thread % kWarp;
        if (mask != ~0u) fail("a collective of less than a warp, which the emulator does not know");
        Warp& warp = warps_[fibers_[current_]->thread / kWarp];
        std::vector<unsigned char>& values = warp.values[warp.round[lane]++ % 2];
        if (size > kMostExchanged) fail("a collective brings too much");
        values.resize(kWarp * kMostExchanged);
        std::memcpy(values.data() + lane * size, mine, size);
        wait(State::at_warp_barrier);
        return values.data();
    }

    Fiber& current() { return *fibers_[current_]; }

  private:
    void run_block(unsigned threads) {
        waiting_.resize(threads);
        std::iota(waiting_.begin(), waiting_.end(), 0u);
        std::shuffle(waiting_.begin(), waiting_.end(), order_);
        warps_.assign((threads + kWarp - 1) / kWarp, {});
        warp_order_.resize(warps_.size());
        std::iota(warp_order_.begin(), warp_order_.end(), 0);
        std::shuffle(warp_order_.begin(), warp_order_.end(), order_);
        fiber_of_.assign(threads, kNone);
        returned_.assign(threads, false);
        returned_count_ = 0;
        std::vector<std::size_t> ready;
        while (returned_count_ < threads) {
            ready.clear();
            for (std::size_t i = 0; i < fibers_.size(); ++i) {
                if (fibers_[i]->has_thread && fibers_[i]->state == State::ready) ready.push_back(i);
            }
            if (ready.empty() && !waiting_.empty()) ready.push_back(free_fiber());
            if (ready.empty() && !release()) fail("a barrier that some threads never reach");
            std::shuffle(ready.begin(), ready.end(), order_);
            for (const std::size_t i : ready) resume(i);
        }
    }

    std::size_t free_fiber() {
        for (std::size_t i = 0; i < fibers_.size(); ++i) {
            if (!fibers_[i]->has_thread) return i;
        }
        fibers_.push_back(std::make_unique<Fiber>());
        Fiber& fiber = *fibers_.back();
        fiber.context.begin(fiber.stack.get(), kStackBytes, &Emulator::enter);
        return fibers_.size() - 1;
    }

    // Resumes threads whose barrier is complete: of warps one at a time, in a fixed order, so that
    // some run as far ahead of others as the block's barriers allow. False if there are none.
    bool release() {
        std::size_t at_block = 0;
        for (const auto& fiber : fibers_)
            at_block += fiber->has_thread && fiber->state == State::at_block_barrier;
        if (at_block > 0 && at_block + returned_count_ == returned_.size()) {
            for (const auto& fiber : fibers_) {
                if (fiber->has_thread) fiber->state = State::ready;
            }
            return true;
        }
        for (const std::size_t w : warp_order_) {
            const std::size_t first = w * kWarp, last = std::min(first + kWarp, returned_.size());
            std::size_t arrived = 0;
            for (std::size_t thread = first; thread < last; ++thread) {
                const std::size_t fiber = fiber_of_[thread];
                arrived += fiber != kNone && fibers_[fiber]->state == State::at_warp_barrier;
            }
            if (arrived == 0 || arrived < last - first) continue;
            for (std::size_t thread = first; thread < last; ++thread)
                fibers_[fiber_of_[thread]]->state = State::ready;
            return true;
        }
        return false;
    }

    void resume(std::size_t i) {
        current_ = i;
        Fiber& fiber = *fibers_[i];
        if (fiber.has_thread) set_thread(fiber.thread);
#if defined(MOSAICMEM_SANITIZE)
        void* own = nullptr;
        __sanitizer_start_switch_fiber(&own, fiber.stack.get(), kStackBytes);
        scheduler_.go_to(fiber.context);
        __sanitizer_finish_switch_fiber(own, nullptr, nullptr);
#else
        scheduler_.go_to(fiber.context);
#endif
    }

    void switch_to_scheduler(Fiber& fiber) {
#if defined(MOSAICMEM_SANITIZE)
        __sanitizer_start_switch_fiber(&fiber.fake_stack, scheduler_stack_, scheduler_size_);
        fiber.context.go_to(scheduler_);
        __sanitizer_finish_switch_fiber(fiber.fake_stack, &scheduler_stack_, &scheduler_size_);
#else
        fiber.context.go_to(scheduler_);
#endif
    }

    static void set_thread(unsigned thread) {
        threadIdx = {thread % blockDim.x, thread / blockDim.x % blockDim.y,
                     thread / blockDim.x / blockDim.y};
    }

    static void enter();

    void run_threads() {
#if defined(MOSAICMEM_SANITIZE)
        __sanitizer_finish_switch_fiber(nullptr, &scheduler_stack_, &scheduler_size_);
#endif
        const std::size_t own = current_;
        Fiber& fiber = *fibers_[own];
        for (;;) {
            while (!waiting_.empty()) {
                fiber.thread = waiting_.back();
                waiting_.pop_back();
                fiber.has_thread = true;
                fiber.state = State::ready;
                fiber_of_[fiber.thread] = own;
                set_thread(fiber.thread);
                (*body_)();
                if (!fiber.open.empty() || !fiber.groups.empty())
                    fail("a copy that nothing waits for");
                returned_[fiber.thread] = true;
                ++returned_count_;
                fiber_of_[fiber.thread] = kNone;
            }
            fiber.has_thread = false;
            switch_to_scheduler(fiber);
        }
    }

    static constexpr std::size_t kNone = ~std::size_t{0};

    std::mutex mutex_;
    std::mt19937 order_{20261123};
    const std::function<void()>* body_ = nullptr;
    std::vector<std::unique_ptr<Fiber>> fibers_;
    std::size_t current_ = 0;
    Context scheduler_;
    [[maybe_unused]] const void* scheduler_stack_ = nullptr;
    [[maybe_unused]] std::size_t scheduler_size_ = 0;
    std::vector<unsigned> waiting_;  // threads that have not started
    std::vector<std::size_t> fiber_of_;
    std::vector<bool> returned_;
    std::size_t returned_count_ = 0;
    std::vector<Warp> warps_;
    std::vector<std::size_t> warp_order_;
    std::vector<unsigned char> shared_;
};

Emulator& emulator() {
    static auto* const only = new Emulator;  // outlives whatever runs at exit
    return *only;
}

void Emulator::enter() { emulator().run_threads(); }

void copy(const std::vector<Copy>& copies) {
    for (const Copy& c : copies) {
        std::memcpy(c.to, c.from, c.n);
        std::memset(static_cast<char*>(c.to) + c.n, 0, c.zeros);
    }
}

}  // namespace

cudaError_t run(dim3 grid, dim3 block, std::size_t shared_bytes,
                const std::function<void()>& body) {
    return emulator().run(grid, block, shared_bytes, body);
}

unsigned char* dynamic_shared() { return emulator().shared(); }

void block_barrier() { emulator().wait(State::at_block_barrier); }

const void* exchange(unsigned mask, const void* mine, std::size_t size) {
    return emulator().exchange(mask, mine, size);
}

void copy_later(void* to, const void* from, std::size_t n, std::size_t zeros) {
    emulator().current().open.push_back({to, from, n, zeros});
}

void commit_copies() {
    Fiber& fiber = emulator().current();
    fiber.groups.push_back(std::move(fiber.open));
    fiber.open.clear();
}

void wait_copies(int groups_left) {
    auto& groups = emulator().current().groups;
    while (groups.size() > static_cast<std::size_t>(groups_left)) {
        copy(groups.front());
        groups.pop_front();
    }
}

}  // namespace cuda_emulator

namespace {

std::mutex pinned_mutex;
std::map<const char*, std::size_t>& pinned() {
    static auto* const sizes = new std::map<const char*, std::size_t>;  // never destroyed
    return *sizes;
}

}  // namespace

cudaError_t cudaHostAlloc(void** at, std::size_t n, unsigned) {
    *at = std::malloc(n);
    if (!*at) return cudaErrorInvalidValue;
    const std::lock_guard lock(pinned_mutex);
    pinned()[static_cast<const char*>(*at)] = n;
    return cudaSuccess;
}

cudaError_t cudaFreeHost(void* at) {
    {
        const std::lock_guard lock(pinned_mutex);
        pinned().erase(static_cast<const char*>(at));
    }
    std::free(at);
    return cudaSuccess;
}

cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* at) {
    const std::lock_guard lock(pinned_mutex);
    const auto* const byte = static_cast<const char*>(at);
    auto after = pinned().upper_bound(byte);
    const bool found = after != pinned().begin() && byte < (--after)->first + after->second;
    attributes->type = found ? cudaMemoryTypeHost : cudaMemoryTypeUnregistered;
    return cudaSuccess;
}
