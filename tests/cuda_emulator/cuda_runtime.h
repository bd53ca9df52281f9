// The part of the CUDA runtime that mosaicmem's kernels use, on the host: the kernels' own sources,
// compiled as C++, run without a GPU, so that tests and sanitizers cover them. Every CUDA thread is
// a fiber; threads run in an order that changes from launch to launch, so that a missing barrier
// shows up as a wrong or changing result.
//
// It says nothing about speed, nor about races that only a GPU's memory model allows (a missing
// fence between blocks).
#pragma once

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <tuple>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __shared__ static
#define __launch_bounds__(...)
#define __grid_constant__
#define __noinline__

struct dim3 {
    unsigned x = 1, y = 1, z = 1;
    constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
struct alignas(8) float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
struct alignas(8) uint2 {
    unsigned x, y;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
struct alignas(16) double2 {
    double x, y;
};
struct alignas(4) uchar4 {
    unsigned char x, y, z, w;
};
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline uchar4 make_uchar4(unsigned char x, unsigned char y, unsigned char z, unsigned char w) {
    return {x, y, z, w};
}

extern dim3 gridDim, blockDim, blockIdx, threadIdx;

// Runtime: one device, whose memory is the host's; launches and copies are complete when the call
// returns.
using cudaStream_t = void*;
using cudaEvent_t = void*;
enum cudaError_t {
    cudaSuccess = 0,
    cudaErrorInvalidValue = 1,
    cudaErrorInvalidConfiguration = 9,
    cudaErrorNoDevice = 100,
    cudaErrorNotReady = 600
};
enum cudaDeviceAttr {
    cudaDevAttrMultiProcessorCount = 16,
    cudaDevAttrMaxSharedMemoryPerBlockOptin = 97
};
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
enum cudaMemcpyKind {
    cudaMemcpyHostToDevice = 1,
    cudaMemcpyDeviceToHost = 2,
    cudaMemcpyDeviceToDevice = 3
};
inline const char* cudaGetErrorString(cudaError_t error) {
    return error == cudaSuccess ? "no error" : "invalid value";
}
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline cudaError_t cudaGetDevice(int* device) { return *device = 0, cudaSuccess; }
inline cudaError_t cudaSetDevice(int device) {
    return device == 0 ? cudaSuccess : cudaErrorInvalidValue;
}
inline cudaError_t cudaGetDeviceCount(int* count) { return *count = 1, cudaSuccess; }
inline cudaError_t cudaDriverGetVersion(int* version) { return *version = 0, cudaSuccess; }
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
    return *value = attribute == cudaDevAttrMultiProcessorCount ? 4 : 99 << 10, cudaSuccess;
}
inline cudaError_t cudaMemsetAsync(void* to, int value, std::size_t n, cudaStream_t) {
    return std::memset(to, value, n), cudaSuccess;
}
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t n, cudaMemcpyKind,
                                   cudaStream_t) {
    return std::memcpy(to, from, n), cudaSuccess;
}
constexpr unsigned cudaStreamNonBlocking = 1, cudaEventDisableTiming = 2, cudaHostAllocPortable = 1;
inline cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
    return *stream = nullptr, cudaSuccess;
}
inline cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
inline cudaError_t cudaStreamDestroy(cudaStream_t) { return cudaSuccess; }
inline cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
    return *event = nullptr, cudaSuccess;
}
inline cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t) { return cudaSuccess; }
inline cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned) { return cudaSuccess; }
inline cudaError_t cudaEventDestroy(cudaEvent_t) { return cudaSuccess; }
inline cudaError_t cudaEventQuery(cudaEvent_t) { return cudaSuccess; }
inline cudaError_t cudaEventSynchronize(cudaEvent_t) { return cudaSuccess; }
// Records pinned memory, so that tests can query it.
cudaError_t cudaHostAlloc(void** at, std::size_t n, unsigned);
cudaError_t cudaFreeHost(void* at);
enum cudaMemoryType { cudaMemoryTypeUnregistered = 0, cudaMemoryTypeHost = 1 };
struct cudaPointerAttributes {
    cudaMemoryType type;
};
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* at);
template <class Kernel>
cudaError_t cudaFuncSetAttribute(Kernel, cudaFuncAttribute, int) {
    return cudaSuccess;
}

namespace cuda_emulator {

constexpr unsigned kWarp = 32;

// Runs body once for every thread of every block.
cudaError_t run(dim3 grid, dim3 block, std::size_t shared_bytes, const std::function<void()>& body);

unsigned char* dynamic_shared();

// Waits for all threads of the block that have not returned.
void block_barrier();

// Gathers `size` bytes from every lane of the mask and returns them all, lane by lane in 32 places;
// waits for all of these lanes.
const void* exchange(unsigned mask, const void* mine, std::size_t size);

// Copies that take place only when they are waited for, in groups, as cp.async allows.
void copy_later(void* to, const void* from, std::size_t n, std::size_t zeros);
void commit_copies();
void wait_copies(int groups_left);

inline unsigned lane() {
    return (threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z)) % kWarp;
}

template <class T>
const T* exchange(unsigned mask, const T& mine) {
    return static_cast<const T*>(exchange(mask, &mine, sizeof(T)));
}

}  // namespace cuda_emulator

inline void __syncthreads() { cuda_emulator::block_barrier(); }
inline void __syncwarp(unsigned mask = ~0u) { cuda_emulator::exchange<char>(mask, 0); }

template <class T>
T __shfl_sync(unsigned mask, T value, int from) {
    return cuda_emulator::exchange(mask, value)[from];
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits) {
    return cuda_emulator::exchange(mask,
                                   value)[cuda_emulator::lane() ^ static_cast<unsigned>(bits)];
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned by) {
    const T* all = cuda_emulator::exchange(mask, value);
    const unsigned lane = cuda_emulator::lane();
    return lane < by ? value : all[lane - by];
}
inline unsigned __ballot_sync(unsigned mask, int predicate) {
    const int* all = cuda_emulator::exchange(mask, predicate);
    unsigned ballot = 0;
    for (unsigned i = 0; i < cuda_emulator::kWarp; ++i) {
        if (mask >> i & 1) ballot |= static_cast<unsigned>(all[i] != 0) << i;
    }
    return ballot;
}
inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
inline int __all_sync(unsigned mask, int predicate) {
    return __ballot_sync(mask, predicate) == mask;
}

template <class T, class F>
T cuda_emulator_update(T* at, F change) {
    const T old = *at;
    *at = change(old);
    return old;
}
template <class T>
T atomicAdd(T* at, T by) {
    return cuda_emulator_update(at, [=](T old) { return static_cast<T>(old + by); });
}
template <class T>
T atomicMin(T* at, T other) {
    return cuda_emulator_update(at, [=](T old) { return other < old ? other : old; });
}
template <class T>
T atomicMax(T* at, T other) {
    return cuda_emulator_update(at, [=](T old) { return old < other ? other : old; });
}
template <class T>
T atomicOr(T* at, T other) {
    return cuda_emulator_update(at, [=](T old) { return static_cast<T>(old | other); });
}
template <class T>
T atomicCAS(T* at, T expected, T other) {
    return cuda_emulator_update(at, [=](T old) { return old == expected ? other : old; });
}

inline void __threadfence() {}
inline int __popc(unsigned x) { return std::popcount(x); }
inline int __popcll(unsigned long long x) { return std::popcount(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __clz(int x) { return std::countl_zero(static_cast<unsigned>(x)); }
inline unsigned __float_as_uint(float x) { return std::bit_cast<unsigned>(x); }
inline float __uint_as_float(unsigned x) { return std::bit_cast<float>(x); }
inline long long __double_as_longlong(double x) { return std::bit_cast<long long>(x); }
inline double __longlong_as_double(long long x) { return std::bit_cast<double>(x); }
template <class T>
T __ldg(const T* at) {
    return *at;
}
template <class T>
T min(T a, T b) {
    return b < a ? b : a;
}
template <class T>
T max(T a, T b) {
    return a < b ? b : a;
}
