// Kernels for AVX2 and FMA.
#if defined(__x86_64__)

#include <immintrin.h>

#include <utility>

#include "cpp/base/clones.hpp"
#include "cpp/simd/levels.hpp"
#include "cpp/simd/target.hpp"

#define MOSAICMEM_TARGET avx2
#define MOSAICMEM_LANES 8
MOSAICMEM_BEGIN_TARGET("avx2,fma")
#include "cpp/simd/kernels.inl"
MOSAICMEM_END_TARGET

namespace mosaicmem {

const Kernels kAvx2Kernels = avx2::kKernels;

}  // namespace mosaicmem

#endif
