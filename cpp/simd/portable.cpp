// Kernels for any machine.
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <utility>

#include "cpp/base/clones.hpp"
#include "cpp/simd/levels.hpp"

#define MOSAICMEM_TARGET portable
#define MOSAICMEM_LANES 4
#include "cpp/simd/kernels.inl"

namespace mosaicmem {

const Kernels kPortableKernels = portable::kKernels;

}  // namespace mosaicmem
