// All kernels of one target, in its own namespace, as a table. The file that includes this one
// defines MOSAICMEM_TARGET (that namespace), MOSAICMEM_LANES and MOSAICMEM_BF16_DOT.

namespace mosaicmem::MOSAICMEM_TARGET {
namespace {

#include "cpp/simd/vector.inl"
//
#include "cpp/simd/product.inl"
//
#include "cpp/simd/attention.inl"
#include "cpp/simd/encode.inl"
#include "cpp/simd/project.inl"

void attend_float32(const AttentionTask& task) { attend<Float32, float>(task); }

void attend_bfloat16(const AttentionTask& task) {
#if MOSAICMEM_BF16_DOT
    attend<BFloat16Pairs, std::uint16_t>(task);
#else
    attend<Float32, std::uint16_t>(task);
#endif
}

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
    .project = project,
    .panel_columns = 2 * kLanes,
    .rope_float32 = rope_float32,
    .rope_bfloat16 = rope_bfloat16,
    .prope_float32 = prope_float32,
    .prope_bfloat16 = prope_bfloat16,
    .end_streaming = end_streaming,
};

}  // namespace
}  // namespace mosaicmem::MOSAICMEM_TARGET
