// The number formats of features: conversion to float and back, one by one and 16 bytes at a time.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "cuda/base/half_types.hpp"

#ifdef MOSAICMEM_EMULATE_CUDA
#include <half_conversions.hpp>
#endif

namespace mosaicmem::cuda {

// Packs two floats into the lower and upper half of a word; rounds to nearest, ties to even.
template <class T>
__device__ __forceinline__ unsigned pack(float low, float high);

#ifdef MOSAICMEM_EMULATE_CUDA
template <>
inline unsigned pack<bfloat16>(float low, float high) {
    return cuda_emulator::to_bfloat16(low) | static_cast<unsigned>(cuda_emulator::to_bfloat16(high))
                                                 << 16;
}
template <>
inline unsigned pack<float16>(float low, float high) {
    return cuda_emulator::to_float16(low) | static_cast<unsigned>(cuda_emulator::to_float16(high))
                                                << 16;
}
inline float to_float(float16 x) { return cuda_emulator::from_float16(x.bits); }
#else
template <>
__device__ __forceinline__ unsigned pack<bfloat16>(float low, float high) {
    unsigned word;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
    return word;
}
template <>
__device__ __forceinline__ unsigned pack<float16>(float low, float high) {
    unsigned word;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
    return word;
}
__device__ __forceinline__ float to_float(float16 x) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(x.bits));
    return value;
}
#endif

__device__ __forceinline__ float to_float(bfloat16 x) {
    return __uint_as_float(static_cast<unsigned>(x.bits) << 16);
}
__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ double to_float(double x) { return x; }

// The type that sums are accumulated in.
template <class T>
struct Wide {
    using type = float;
};
template <>
struct Wide<double> {
    using type = double;
};

// Writes 16 bytes to global memory in one instruction: otherwise the compiler may store the four
// words one by one, as they are computed.
#ifdef MOSAICMEM_EMULATE_CUDA
inline void store_whole(void* to, const uint4& words) { std::memcpy(to, &words, sizeof words); }
#else
__device__ __forceinline__ void store_whole(void* to, const uint4& words) {
    asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(to)),
                 "r"(words.x), "r"(words.y), "r"(words.z), "r"(words.w)
                 : "memory");
}
#endif

// kCount neighbouring elements, widened for computing. 16 bytes move in one access.
template <class T, int kCount>
struct Chunk {
    using Sum = typename Wide<T>::type;
    static constexpr bool kWhole = kCount * sizeof(T) == 16;

    // The layout in memory.
    struct Few {
        T values[kCount];
    };
    using Raw = std::conditional_t<kWhole, uint4, Few>;

    Sum x[kCount];

    __device__ __forceinline__ static Raw read(const T* from) {
        return *reinterpret_cast<const Raw*>(from);
    }

    __device__ __forceinline__ static Chunk of(const Raw& raw) {
        union {
            Raw raw;
            T values[kCount];
        } both{raw};
        Chunk chunk;
#pragma unroll
        for (int i = 0; i < kCount; ++i) chunk.x[i] = to_float(both.values[i]);
        return chunk;
    }

    __device__ __forceinline__ static Chunk load(const T* from) { return of(read(from)); }

    __device__ __forceinline__ Raw raw() const {
        if constexpr (kWhole && sizeof(T) == 2) {
            return make_uint4(pack<T>(x[0], x[1]), pack<T>(x[2], x[3]), pack<T>(x[4], x[5]),
                              pack<T>(x[6], x[7]));
        } else {
            union {
                Raw raw;
                T values[kCount];
            } both;
#pragma unroll
            for (int i = 0; i < kCount; ++i) {
                if constexpr (sizeof(T) == 2) {
                    both.values[i].bits = static_cast<std::uint16_t>(pack<T>(x[i], x[i]));
                } else {
                    both.values[i] = x[i];
                }
            }
            return both.raw;
        }
    }

    __device__ __forceinline__ void store(T* to) const { *reinterpret_cast<Raw*>(to) = raw(); }

    // Stores to global memory.
    __device__ __forceinline__ void write(T* to) const {
        if constexpr (kWhole) {
            store_whole(to, raw());
        } else {
            store(to);
        }
    }
};

// Elements per 16 bytes.
template <class T>
constexpr int kWidth = 16 / static_cast<int>(sizeof(T));

}  // namespace mosaicmem::cuda
