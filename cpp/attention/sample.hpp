// Warped Latent, backward: samples a latent grid at fractional positions.
#pragma once

#include <cstddef>
#include <cstdint>

namespace mosaicmem {

// The size of a feature grid and the positions to sample: (count, 2) y, x in cell coordinates,
// integers at cell centres. A position within the grid's area, [-0.5, columns - 0.5] x
// [-0.5, rows - 0.5], is inside; between the outermost centres and that border it clamps to the
// nearest centre.
struct SamplePlaces {
    const float* position;
    std::size_t count, rows, columns;
};

// grid (rows, columns, channels) -> values (count, channels) by bilinear interpolation, zero where
// not inside, and inside (count). T is float or double.
template <class T>
void bilinear_sample(const SamplePlaces& places, const T* grid, std::size_t channels, T* values,
                     std::uint8_t* inside, int num_threads);

// Its adjoint: the gradient of values -> the gradient of grid.
template <class T>
void bilinear_sample_adjoint(const SamplePlaces& places, const T* values, std::size_t channels,
                             T* grid);

}  // namespace mosaicmem
