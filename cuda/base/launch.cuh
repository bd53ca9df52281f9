// Launching kernels.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <tuple>

#include "cuda/base/stream.hpp"

namespace mosaicmem::cuda {

constexpr unsigned kBlock = 256;  // default number of threads per block
constexpr unsigned kWarp = 32, kAllLanes = ~0u;

constexpr std::size_t ceil_div(std::size_t n, std::size_t by) { return (n + by - 1) / by; }

inline void check(cudaError_t error, const char* kernel) {
    if (error == cudaSuccess) return;
    throw CudaError(
        std::string("CUDA kernel ") + kernel + ": " + cudaGetErrorString(error) +
        " (an error of an earlier kernel may show only here; CUDA_LAUNCH_BLOCKING=1 tells which)");
}

struct Shape {
    dim3 grid, block;
    std::size_t shared_bytes = 0;
};

// Blocks along the first axis of a grid for n items, `each` per block.
inline unsigned blocks(const char* kernel, std::size_t n, std::size_t each) {
    constexpr std::size_t kMostBlocks = 0x7FFFFFFF;
    const std::size_t count = ceil_div(n, each);
    if (count > kMostBlocks) {
        throw CudaError(std::string("CUDA kernel ") + kernel + ": " + std::to_string(n) +
                        " are more than a launch takes");
    }
    return static_cast<unsigned>(count);
}

// Enough blocks of the default size for n threads.
inline Shape threads(const char* kernel, std::size_t n) {
    return {dim3(blocks(kernel, n, kBlock)), dim3(kBlock), 0};
}

inline std::size_t attribute(cudaDeviceAttr which, const Stream& stream) {
    int value = 0;
    check(cudaDeviceGetAttribute(&value, which, stream.device), "(properties of the device)");
    return static_cast<std::size_t>(value);
}

inline std::size_t multiprocessors(const Stream& stream) {
    return attribute(cudaDevAttrMultiProcessorCount, stream);
}

// Bytes of shared memory that a block may request.
inline std::size_t most_shared_bytes(const Stream& stream) {
    return attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, stream);
}

template <class... Parameters, class... Arguments>
void launch(const char* name, void (*kernel)(Parameters...), const Shape& shape,
            const Stream& stream, const Arguments&... arguments) {
    if (shape.grid.x == 0 || shape.grid.y == 0 || shape.grid.z == 0) return;
    constexpr unsigned kMostAcross = 65535;
    if (shape.grid.y > kMostAcross || shape.grid.z > kMostAcross) {
        throw CudaError(std::string("CUDA kernel ") + name + ": a launch takes at most " +
                        std::to_string(kMostAcross) + " of a batch or of heads, got " +
                        std::to_string(std::max(shape.grid.y, shape.grid.z)) +
                        "; call it on parts of the batch");
    }
    const OnDevice guard(stream.device);
    std::tuple<Parameters...> values{arguments...};
#ifdef MOSAICMEM_EMULATE_CUDA
    check(cuda_emulator::run(shape.grid, shape.block, shape.shared_bytes,
                             [&] { std::apply(kernel, values); }),
          name);
#else
    constexpr std::size_t kUsualSharedBytes = 48 << 10;
    if (shape.shared_bytes > kUsualSharedBytes) {
        check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                   static_cast<int>(shape.shared_bytes)),
              name);
    }
    void* pointers[sizeof...(Parameters)];
    std::apply(
        [&](auto&... value) {
            std::size_t i = 0;
            ((pointers[i++] = &value), ...);
        },
        values);
    check(cudaLaunchKernel(reinterpret_cast<const void*>(kernel), shape.grid, shape.block, pointers,
                           shape.shared_bytes, static_cast<cudaStream_t>(stream.handle)),
          name);
#endif
}

// Whether all pointers are 16-byte aligned, so that a thread may read and write 16 bytes at once.
template <class... T>
bool are_aligned(const T*... at) {
    return ((reinterpret_cast<std::uintptr_t>(at) % 16 == 0) && ...);
}

// The kernel's dynamic shared memory, 1024-byte aligned.
#ifdef MOSAICMEM_EMULATE_CUDA
inline unsigned char* shared_memory() { return cuda_emulator::dynamic_shared(); }
#else
__device__ __forceinline__ unsigned char* shared_memory() {
    extern __shared__ __align__(1024) unsigned char bytes[];
    return bytes;
}
#endif

__device__ __forceinline__ std::size_t thread_index() {
    return static_cast<std::size_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}

}  // namespace mosaicmem::cuda
