// Rotary position embedding on the GPU: the counterpart of cpp/attention/rope.hpp.
#pragma once

#include <cstddef>

#include "cpp/base/heads.hpp"
#include "cuda/base/stream.hpp"

namespace mosaicmem::cuda {

constexpr std::size_t kMostAxes = 4;

// Head dimensions (even) that rotate with each axis.
struct AxisDims {
    std::size_t axes, dims[kMostAxes];
};

// See mosaicmem::rope_table. Angles are double; the tables are rounded to F, float or double.
template <class F>
void rope_table(const double* positions, std::size_t n, const AxisDims& axis_dims, double theta,
                F* cos, F* sin, const Stream& stream);

// See mosaicmem::rope_apply. T is float, double, float16 or bfloat16; F is double for T double,
// else float.
template <class T, class F>
void rope_apply(const HeadFeatures<T>& features, const F* cos, const F* sin, bool interleaved,
                bool inverse, const Stream& stream);

}  // namespace mosaicmem::cuda
