#include "cpp/simd/levels.hpp"

#include <algorithm>
#include <atomic>

namespace mosaicmem {
namespace {

std::atomic<SimdLevel> limit = SimdLevel::avx512_bf16;

SimdLevel detect() {
#if defined(__x86_64__)
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") &&
                        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                        __builtin_cpu_supports("avx512vl");
    if (avx512 && __builtin_cpu_supports("avx512bf16")) return SimdLevel::avx512_bf16;
    if (avx512) return SimdLevel::avx512;
    if (avx2) return SimdLevel::avx2;
#endif
    return SimdLevel::portable;
}

}  // namespace

SimdLevel simd_level() {
    static const SimdLevel machine = detect();
    return std::min(machine, limit.load());
}

void limit_simd_level(SimdLevel most) { limit = most; }

const Kernels& kernels() {
    switch (simd_level()) {
#if defined(__x86_64__)
        case SimdLevel::avx512_bf16:
            return kAvx512Bf16Kernels;
        case SimdLevel::avx512:
            return kAvx512Kernels;
        case SimdLevel::avx2:
            return kAvx2Kernels;
#endif
        default:
            return kPortableKernels;
    }
}

}  // namespace mosaicmem
