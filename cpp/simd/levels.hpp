// The explicitly vectorised kernels, compiled once per SIMD level from the same source
// (kernels.inl) and selected at run time.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cpp/simd/attention_task.hpp"
#include "cpp/simd/encode_task.hpp"

namespace mosaicmem {

enum class SimdLevel {
    portable,     // four lanes, compiled for the baseline target
    avx2,         // AVX2 and FMA
    avx512,       // AVX-512 F, BW, DQ, VL
    avx512_bf16,  // the same with bfloat16 dot products
    avx512_amx,   // the same with AMX tiles of bfloat16
};

// A point in three dimensions.
struct PointItem {
    float x[3];
    std::uint32_t label;
};

constexpr std::size_t kMostLanes = 16;  // of a vector, at any level

struct Kernels {
    // Attention of one group of queries, see attention_task.hpp.
    void (*attend_float32)(const AttentionTask&);
    void (*attend_bfloat16)(const AttentionTask&);
    std::size_t (*scratch_float32)(std::size_t head_dim, std::size_t value_dim);
    std::size_t (*scratch_bfloat16)(std::size_t head_dim, std::size_t value_dim);

    // y (n, out) columns [0, columns) = x (n, in) * panel (in, panel_columns). scratch:
    // scratch_project(in) floats, zero before the first call, for projections of one `in`.
    void (*project)(const float* x, std::size_t n, std::size_t in, const float* panel,
                    std::size_t columns, std::size_t out, float* y, float* scratch);
    std::size_t panel_columns;
    std::size_t (*scratch_project)(std::size_t in);

    // out (columns): for each cell of stride x stride pixels beside each other, from `corner` in an
    // image of `width`, the lower median of the valid ones, or 0 if fewer than min_valid are.
    // scratch: stride^2 * kMostLanes, 64-byte aligned.
    void (*median_row)(const float* corner, std::size_t width, std::size_t stride,
                       std::size_t columns, std::size_t min_valid, std::int32_t* scratch,
                       float* out);

    // Moves the items with x[axis] <= cut to the front, and the others to `spare` (n), both in
    // order. Returns how many the first are.
    std::size_t (*partition)(PointItem* items, std::size_t n, int axis, float cut,
                             PointItem* spare);
    // low and high (4): the least and largest of each coordinate, n > 0; the fourth means nothing.
    void (*bounds)(const PointItem* items, std::size_t n, float* low, float* high);

    // RoPE and PRoPE on a tile of tokens, see encode_task.hpp.
    void (*rope_float32)(const HeadFeatures<float>&, const RotaryTask&);
    void (*rope_bfloat16)(const HeadFeatures<std::uint16_t>&, const RotaryTask&);
    void (*prope_float32)(const HeadFeatures<float>&, const CameraTask&);
    void (*prope_bfloat16)(const HeadFeatures<std::uint16_t>&, const CameraTask&);
    void (*end_streaming)();  // each thread calls it after its streaming tasks
};

// The fastest level that this machine supports, at most the limit.
SimdLevel simd_level();

// For tests and benchmarks: runs as on a lesser machine.
void limit_simd_level(SimdLevel most);

const Kernels& kernels();

extern const Kernels kPortableKernels;
extern const Kernels kAvx2Kernels;
extern const Kernels kAvx512Kernels;
extern const Kernels kAvx512Bf16Kernels;
extern const Kernels kAvx512AmxKernels;

}  // namespace mosaicmem
