// Rotary position embedding over several axes with fractional positions (Warped RoPE, and the
// ordinary grid RoPE).
#pragma once

#include <cstddef>
#include <span>

#include "cpp/base/heads.hpp"

namespace mosaicmem {

enum class Pairing {
    interleaved,  // (x0, x1), (x2, x3), ...
    split_half,   // (x0, x_{d/2}), (x1, x_{d/2 + 1}), ...
};

// The angle tables of n tokens. axis_dims[a] (even) head dimensions rotate with position a: pair i
// of them by position / theta^(2i / axis_dims[a]). positions (n, axes); cos and sin (n,
// sum(axis_dims) / 2).
void rope_table(const double* positions, std::size_t n, std::span<const std::size_t> axis_dims,
                double theta, double* cos, double* sin, int num_threads);

// Rotates each pair (a, b) of features to (a cos - b sin, a sin + b cos); by the opposite angle if
// inverse. cos and sin (tokens, dim / 2) are shared by batch and heads; F is double for T double,
// else float.
template <class T, class F>
void rope_apply(const HeadFeatures<T>& features, const F* cos, const F* sin, Pairing pairing,
                bool inverse, int num_threads);

}  // namespace mosaicmem
