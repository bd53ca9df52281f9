// Kernels for AVX-512 with bfloat16 dot products.
#if defined(__x86_64__)

#include <immintrin.h>

#include <utility>

#include "cpp/base/clones.hpp"
#include "cpp/simd/levels.hpp"
#include "cpp/simd/target.hpp"

#define MOSAICMEM_TARGET avx512_bf16
#define MOSAICMEM_LANES 16
#define MOSAICMEM_BF16_DOT 1
MOSAICMEM_BEGIN_TARGET("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,bmi2,popcnt,avx512bf16")
#include "cpp/simd/kernels.inl"
MOSAICMEM_END_TARGET

namespace mosaicmem {

const Kernels kAvx512Bf16Kernels = avx512_bf16::kKernels;

}  // namespace mosaicmem

#endif
