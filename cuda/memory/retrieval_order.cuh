// Orders patches: the best of a warp or a block, and the rank of one in a list.
#pragma once

#include "cuda/base/launch.cuh"

namespace mosaicmem::cuda::retrieval {

// The best of a thread, a warp or a block: by penalised score, then the smaller id.
struct Best {
    double bound;
    std::uint64_t id;
    std::uint32_t at;  // index in the list

    __device__ static Best none() { return {-1, ~std::uint64_t{0}, ~0u}; }
    __device__ bool before(const Best& other) const {
        return bound > other.bound || (bound == other.bound && id < other.id);
    }
};

__device__ inline Best best_of_warp(Best own) {
    for (int reach = kWarp / 2; reach > 0; reach /= 2) {
        const Best other{__shfl_xor_sync(kAllLanes, own.bound, reach),
                         __shfl_xor_sync(kAllLanes, own.id, reach),
                         __shfl_xor_sync(kAllLanes, own.at, reach)};
        if (other.before(own)) own = other;
    }
    return own;
}

// `memory` holds one Best per warp; it may be reused afterwards.
__device__ inline Best best_of_block(Best own, Best* memory) {
    own = best_of_warp(own);
    if (threadIdx.x % kWarp == 0) memory[threadIdx.x / kWarp] = own;
    __syncthreads();
    const unsigned lane = threadIdx.x % kWarp;
    const Best best = best_of_warp(lane < blockDim.x / kWarp ? memory[lane] : Best::none());
    __syncthreads();
    return best;
}

// The sort key of lists.
struct Keyed {
    double key;
    std::uint64_t id;
    __device__ bool before(const Keyed& other) const {
        return key < other.key || (key == other.key && id < other.id);
    }
};

// How many of n entries come before `own`; called by all threads of a block, with one entry of
// `memory` per thread.
template <class Get>
__device__ std::uint32_t rank_of(const Keyed& own, std::uint32_t n, Keyed* memory, const Get& get) {
    std::uint32_t rank = 0;
    for (std::uint32_t first = 0; first < n; first += blockDim.x) {
        __syncthreads();
        if (first + threadIdx.x < n) memory[threadIdx.x] = get(first + threadIdx.x);
        __syncthreads();
        const std::uint32_t some = min(n - first, blockDim.x);
        for (std::uint32_t i = 0; i < some; ++i) rank += memory[i].before(own);
    }
    return rank;
}

}  // namespace mosaicmem::cuda::retrieval
