#include "cpp/simd/levels.hpp"

#include <algorithm>
#include <atomic>

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__x86_64__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace mosaicmem {
namespace {

#if defined(__x86_64__)

// Whether the processor has tiles of bfloat16, and Linux lets this process use them: their 8 KiB of
// state must be asked for. The permission holds for all threads, and is inherited by fork.
bool may_use_tiles() {
#if MOSAICMEM_EMULATE_AMX
    return true;
#elif defined(__linux__)
    constexpr unsigned kTiles = 1u << 24, kTilesOfBfloat16 = 1u << 22;  // EDX of leaf 7
    constexpr long kRequestPermission = 0x1023, kTileData = 18;         // of arch_prctl
    unsigned a, b, c, d = 0;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
    if (!(d & kTiles) || !(d & kTilesOfBfloat16)) return false;
    return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
    return false;
#endif
}

// Whether the dot products of bfloat16 are faster than float32 lanes with a conversion. On AMD Zen
// 4 they take 0.55 to 0.98 of the time for attention; on Intel (Sapphire Rapids) 1.45: there they
// leave one of two ports idle.
bool has_fast_dots() { return __builtin_cpu_is("amd"); }

#endif

#if MOSAICMEM_EMULATE_AMX
std::atomic<SimdLevel> limit = SimdLevel::avx512_bf16;  // emulation is slow: only where asked for
#else
std::atomic<SimdLevel> limit = SimdLevel::avx512_amx;
#endif

SimdLevel detect() {
#if defined(__x86_64__)
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") &&
                        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("bmi2");
    const bool has_dots = avx512 && __builtin_cpu_supports("avx512bf16");
    if (has_dots && may_use_tiles()) return SimdLevel::avx512_amx;
    if (has_dots && has_fast_dots()) return SimdLevel::avx512_bf16;
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
        case SimdLevel::avx512_amx:
            return kAvx512AmxKernels;
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
