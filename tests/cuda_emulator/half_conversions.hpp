// Half-precision conversions for kernels on the host.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

#include "cpp/base/half.hpp"

namespace cuda_emulator {

using mosaicmem::from_float16;
using mosaicmem::to_bfloat16;

// Rounds to nearest, ties to even, by scaling so that the last place of the result is an integer.
inline std::uint16_t to_float16(float x) {
    const auto sign = static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(x) >> 16 & 0x8000u);
    const float magnitude = std::fabs(x);
    if (x != x) return sign | 0x7E00u;
    if (magnitude >= 65520.0f) return sign | 0x7C00u;
    int exponent = 0;
    std::frexp(magnitude, &exponent);  // magnitude in [2^(exponent - 1), 2^exponent)
    exponent = magnitude == 0 || exponent < -13 ? -13 : exponent;
    const auto mantissa =
        static_cast<std::uint32_t>(std::nearbyint(std::ldexp(magnitude, 11 - exponent)));
    // A mantissa of 2048 carries into the exponent by itself.
    return static_cast<std::uint16_t>(
        sign | (mantissa + (static_cast<std::uint32_t>(exponent + 13) << 10)));
}

}  // namespace cuda_emulator
