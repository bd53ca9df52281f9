// Bit-level conversions of the two half-precision formats.
#pragma once

#include <bit>
#include <cstdint>

#include "cpp/base/clones.hpp"

namespace mosaicmem {

MOSAICMEM_INLINE float from_bfloat16(std::uint16_t bits) {
    return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
}

// Rounds to nearest, ties to even; NaN stays NaN.
MOSAICMEM_INLINE std::uint16_t to_bfloat16(float x) {
    const auto bits = std::bit_cast<std::uint32_t>(x);
    if (x != x) return static_cast<std::uint16_t>(bits >> 16 | 0x40u);
    return static_cast<std::uint16_t>((bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16);
}

// IEEE binary16. A subnormal is its mantissa times 2^-24; infinity and NaN keep their mantissa.
// Without branches, so that loops over it vectorise.
MOSAICMEM_INLINE float from_float16(std::uint16_t bits) {
    const std::uint32_t sign = static_cast<std::uint32_t>(bits & 0x8000u) << 16;
    const std::uint32_t exponent = bits >> 10 & 0x1Fu;
    const std::uint32_t mantissa = bits & 0x3FFu;
    const float subnormal = static_cast<float>(static_cast<std::int32_t>(mantissa)) * 0x1p-24f;
    const std::uint32_t wide_exponent = exponent + (exponent == 31 ? 224u : 112u);
    const std::uint32_t magnitude = exponent == 0 ? std::bit_cast<std::uint32_t>(subnormal)
                                                  : wide_exponent << 23 | mantissa << 13;
    return std::bit_cast<float>(sign | magnitude);
}

}  // namespace mosaicmem
