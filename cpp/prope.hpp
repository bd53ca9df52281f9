// PRoPE, layout "half" (arXiv 2507.10496): the first half of each head is multiplied by a 4x4
// matrix of the token's camera, the next quarter turns with the token's x, the last quarter with
// its y.
#pragma once

#include <cstddef>
#include <cstdint>

namespace mosaicmem {

// x and out (batch, n, dim), dim a multiple of 8; out may be x.
// matrices (cameras, 4, 4) row-major; camera (n) in [0, cameras): each four-vector of the first
// half becomes matrix * vector. cos, sin (n, dim / 4): first the dim / 8 angles of x, then those of
// y; within a quarter, pairs are split-half and turn (a, b) -> (a cos + b sin, b cos - a sin), or
// the opposite way if inverse.
template <class T>
void prope_apply(const T* x, std::size_t batch, std::size_t n, std::size_t dim, const T* matrices,
                 const std::int32_t* camera, const T* cos, const T* sin, bool inverse, T* out,
                 int num_threads);

}  // namespace mosaicmem
