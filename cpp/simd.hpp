// What lets plain loops run at the width of the machine: one macro for leaf kernels, one inlinable
// exp.
#pragma once

#include <bit>
#include <cstdint>

// Compiles a leaf kernel once per x86-64 level and picks one when the library is loaded. Everything
// it calls must be inlined into it. Empty where the loader has no ifunc, and under the sanitizers,
// whose runtime is not up yet when ifuncs are resolved.
#if defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 12 && defined(__x86_64__) && \
    defined(__GLIBC__) && !defined(MOSAICMEM_SANITIZE)
#define MOSAICMEM_CLONES \
    __attribute__((target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")))
#else
#define MOSAICMEM_CLONES
#endif

#if defined(__GNUC__)
#define MOSAICMEM_INLINE inline __attribute__((always_inline))
#else
#define MOSAICMEM_INLINE inline
#endif

namespace mosaicmem {

// e^x for x <= 0 in float32, relative error below 3e-7; 0 below -87. Branch-free, so loops over it
// vectorise. x = n ln 2 + r with |r| <= ln 2 / 2; e^r by its Taylor polynomial of degree 7; 2^n by
// exponent bits.
MOSAICMEM_INLINE float exp_nonpositive(float x) {
    constexpr float kLog2e = 1.44269504f;
    constexpr float kLn2High = 0.693359375f;  // nine bits: n * kLn2High is exact
    constexpr float kLn2Low = -2.12194440e-4f;
    constexpr float kRound =
        12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer in the low bits
    const float clamped = x < -87.0f ? -87.0f : x;
    const float shifted = clamped * kLog2e + kRound;
    const float n = shifted - kRound;
    const float r = (clamped - n * kLn2High) - n * kLn2Low;
    float p = 1.98412698e-4f;
    p = p * r + 1.38888889e-3f;
    p = p * r + 8.33333333e-3f;
    p = p * r + 4.16666667e-2f;
    p = p * r + 1.66666667e-1f;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    const std::uint32_t exponent = (std::bit_cast<std::uint32_t>(shifted) - 0x4B400000u + 127u)
                                   << 23;
    const float result = p * std::bit_cast<float>(exponent);
    return x < -87.0f ? 0.0f : result;
}

}  // namespace mosaicmem
