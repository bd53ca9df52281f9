// All kernels of one target, in its own namespace, as a table. The file that includes this one
// defines MOSAICMEM_TARGET (that namespace), MOSAICMEM_LANES, and MOSAICMEM_BF16_DOT and
// MOSAICMEM_TILES where the target has them.

namespace mosaicmem::MOSAICMEM_TARGET {
namespace {

#include "cpp/simd/vector.inl"
//
#include "cpp/simd/product.inl"
//
#include "cpp/simd/attention.inl"
#include "cpp/simd/encode.inl"
#include "cpp/simd/median.inl"
#include "cpp/simd/partition.inl"
#include "cpp/simd/project.inl"
#if MOSAICMEM_TILES
#include "cpp/simd/tiles.inl"
//
#include "cpp/simd/attention_tiles.inl"
#include "cpp/simd/project_tiles.inl"

using Products32 = Tiles<3>;
using Products16 = Tiles<1>;
using Projection = TilesProjection;
#elif MOSAICMEM_BF16_DOT
using Products32 = Lanes<Float32>;
using Products16 = Lanes<BFloat16Pairs>;
using Projection = LanesProjection;
#else
using Products32 = Lanes<Float32>;
using Products16 = Lanes<Float32>;
using Projection = LanesProjection;
#endif

std::size_t scratch_float32(std::size_t head_dim, std::size_t value_dim) {
    const std::size_t floats = scratch_floats<Products32>(head_dim, value_dim),
                      lanes = scratch_floats<Lanes<Float32>>(head_dim, value_dim);
    return floats > lanes ? floats : lanes;
}

void attend_float32(const AttentionTask& task) {
    if (attend<Products32, float>(task)) return;
    attend<Lanes<Float32>, float>(task);
    // It lays the scratch out in another way, and the next task relies on zeros in its own.
    const std::size_t floats = scratch_float32(task.head_dim, task.value_dim);
    for (std::size_t i = 0; i < floats; ++i) task.scratch[i] = 0.0f;
}

void attend_bfloat16(const AttentionTask& task) { attend<Products16, std::uint16_t>(task); }

void rope_float32(const HeadFeatures<float>& f, const RotaryTask& task) {
    task.stream ? apply_rope<true>(f, task) : apply_rope<false>(f, task);
}

void rope_bfloat16(const HeadFeatures<std::uint16_t>& f, const RotaryTask& task) {
    task.stream ? apply_rope<true>(f, task) : apply_rope<false>(f, task);
}

void prope_float32(const HeadFeatures<float>& f, const CameraTask& task) {
    task.stream ? apply_prope<true>(f, task) : apply_prope<false>(f, task);
}

void prope_bfloat16(const HeadFeatures<std::uint16_t>& f, const CameraTask& task) {
    task.stream ? apply_prope<true>(f, task) : apply_prope<false>(f, task);
}

// Makes streamed results visible to the threads that wait for this one.
void end_streaming() {
#if defined(__x86_64__)
    _mm_sfence();
#endif
}

constexpr Kernels kKernels = {
    .attend_float32 = attend_float32,
    .attend_bfloat16 = attend_bfloat16,
    .scratch_float32 = scratch_float32,
    .scratch_bfloat16 = scratch_floats<Products16>,
    .project = Projection::apply,
    .panel_columns = Projection::kColumns,
    .scratch_project = Projection::scratch_floats,
    .median_row = median_row,
    .partition = partition_items,
    .bounds = bounds_of_items,
    .rope_float32 = rope_float32,
    .rope_bfloat16 = rope_bfloat16,
    .prope_float32 = prope_float32,
    .prope_bfloat16 = prope_bfloat16,
    .end_streaming = end_streaming,
};

}  // namespace
}  // namespace mosaicmem::MOSAICMEM_TARGET
