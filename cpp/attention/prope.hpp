// PRoPE (arXiv 2507.10496): four-vectors within a head are multiplied by 4x4 matrices of the
// token's camera; in layout "half" the rest of the head turns with the token's place in the image.
#pragma once

#include "cpp/base/heads.hpp"
#include "cpp/simd/encode_task.hpp"

namespace mosaicmem {

// Features that neither run nor rotation touches are copied. F is double for T double, else float.
template <class T, class F>
void prope_apply(const HeadFeatures<T>& features, const CameraMatrices<F>& matrices,
                 const QuarterRotation<F>& rotation, int num_threads);

}  // namespace mosaicmem
