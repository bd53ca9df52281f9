// The kernels that are written with vectors, compiled once for each width of machine from the same
// source (kernels.inl), and picked at run time.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cpp/simd/attention_task.hpp"
#include "cpp/simd/encode_task.hpp"

namespace mosaicmem {

enum class SimdLevel {
    portable,     // four lanes, whatever the compiler makes of them
    avx2,         // AVX2 and FMA
    avx512,       // AVX-512 F, BW, DQ, VL
    avx512_bf16,  // and dot products of bfloat16
};

struct Kernels {
    // Attention of one group of queries, see attention_task.hpp.
    void (*attend_float32)(const AttentionTask&);
    void (*attend_bfloat16)(const AttentionTask&);

    // Positions and cameras into the features of a tile of tokens, see encode_task.hpp.
    void (*rope_float32)(const HeadFeatures<float>&, const RotaryTask&);
    void (*rope_bfloat16)(const HeadFeatures<std::uint16_t>&, const RotaryTask&);
    void (*prope_float32)(const HeadFeatures<float>&, const CameraTask&);
    void (*prope_bfloat16)(const HeadFeatures<std::uint16_t>&, const CameraTask&);
    void (*end_streaming)();  // by each thread, after its tasks that stream
};

// The widest level that this machine has, at most the limit.
SimdLevel simd_level();

// For tests and benchmarks: runs as a lesser machine would.
void limit_simd_level(SimdLevel most);

const Kernels& kernels();

extern const Kernels kPortableKernels;
extern const Kernels kAvx2Kernels;
extern const Kernels kAvx512Kernels;
extern const Kernels kAvx512Bf16Kernels;

}  // namespace mosaicmem
