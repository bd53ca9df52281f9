// Latents are stored as float32, float16 or bfloat16 and widened to float32 when they are gathered.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "memory_store.hpp"
#include "simd.hpp"

namespace mosaicmem {

MOSAICMEM_INLINE float from_bfloat16(std::uint16_t bits) {
    return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
}

// IEEE binary16. A subnormal is its mantissa times 2^-24; infinity and NaN keep their mantissa.
MOSAICMEM_INLINE float from_float16(std::uint16_t bits) {
    const std::uint32_t sign = static_cast<std::uint32_t>(bits & 0x8000u) << 16;
    const std::uint32_t exponent = bits >> 10 & 0x1Fu;
    const std::uint32_t mantissa = bits & 0x3FFu;
    if (exponent == 0) {
        const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
        return std::bit_cast<float>(std::bit_cast<std::uint32_t>(magnitude) | sign);
    }
    const std::uint32_t wide_exponent = exponent == 31 ? 255u : exponent + 112u;
    return std::bit_cast<float>(sign | wide_exponent << 23 | mantissa << 13);
}

// out[0..n) = latents[offset .. offset + n) as float32.
inline void widen(const void* latents, LatentType type, std::size_t offset, std::size_t n,
                  float* out) {
    if (type == LatentType::float32) {
        std::memcpy(out, static_cast<const float*>(latents) + offset, n * sizeof(float));
        return;
    }
    const auto* bits = static_cast<const std::uint16_t*>(latents) + offset;
    for (std::size_t i = 0; i < n; ++i) {
        out[i] = type == LatentType::float16 ? from_float16(bits[i]) : from_bfloat16(bits[i]);
    }
}

}  // namespace mosaicmem
