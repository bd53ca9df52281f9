// Rotary position embedding on the device: the twin of cpp/rope.hpp.
#pragma once

#include <cstddef>

#include "cpp/base/heads.hpp"
#include "cuda/base/stream.hpp"

namespace mosaicmem::cuda {

constexpr std::size_t kMostAxes = 4;

// Head dimensions (even) that turn with each axis.
struct AxisDims {
    std::size_t axes, dims[kMostAxes];
};

// See mosaicmem::rope_table. F, float or double, is what the tables are rounded to; angles are
// double.
template <class F>
void rope_table(const double* positions, std::size_t n, const AxisDims& axis_dims, double theta,
                F* cos, F* sin, const Stream& stream);

// See mosaicmem::rope_apply. T is float, double, or float16 or bfloat16 of number.cuh; F is double
// for T double, else float.
template <class T, class F>
void rope_apply(const HeadFeatures<T>& features, const F* cos, const F* sin, bool interleaved,
                bool inverse, const Stream& stream);

}  // namespace mosaicmem::cuda
