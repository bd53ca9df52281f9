// PRoPE (arXiv 2507.10496): four-vectors within a head are multiplied by 4x4 matrices of the
// token's camera; in layout "half" the rest of the head rotates with the token's image position.
#pragma once

#include "cpp/base/heads.hpp"
#include "cpp/simd/encode_task.hpp"

namespace mosaicmem {

// Copies features that neither a run nor the rotation touches. F is double for T double, else
// float.
template <class T, class F>
void prope_apply(const HeadFeatures<T>& features, const CameraMatrices<F>& matrices,
                 const QuarterRotation<F>& rotation, int num_threads);

}  // namespace mosaicmem
