// Continues depth into places where none was measured.
#pragma once

#include <cstddef>
#include <cstdint>

namespace mosaicmem {

// out (rows, columns): depth where it is valid; elsewhere that of the nearest valid cell, if it is
// at most `reach` cells away, else 0. Which of equally near ones counts is fixed, but unspecified.
void extend_depth(const float* depth, std::size_t rows, std::size_t columns, std::size_t reach,
                  float* out, int num_threads);

}  // namespace mosaicmem
