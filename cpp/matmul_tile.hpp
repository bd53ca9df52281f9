// The one matrix product of the core: a few rows of A times a packed panel of B, in registers.
// Attention and the projections around it are made of this.
#pragma once

#include <cstddef>

#include "simd.hpp"

namespace mosaicmem {

constexpr std::size_t kTileRows = 6;
constexpr std::size_t kTileColumns = 32;

// acc (kTileRows, kTileColumns) += a (rows, depth) * b (depth, kTileColumns), with row strides lda
// and ldb. Rows of a beyond `rows` are not read; their sums are those of row 0. Sums start anew
// every kSumBlock products, so that rounding errors grow with the number of blocks and not of
// products.
constexpr std::size_t kSumBlock = 128;

MOSAICMEM_INLINE void matmul_tile(const float* __restrict a, std::size_t lda, std::size_t rows,
                                  const float* __restrict b, std::size_t ldb, std::size_t depth,
                                  float (&__restrict acc)[kTileRows][kTileColumns]) {
    const float* row[kTileRows];
    for (std::size_t r = 0; r < kTileRows; ++r) row[r] = a + (r < rows ? r : 0) * lda;
    float sum[kTileRows][kTileColumns];
    for (std::size_t first = 0; first < depth; first += kSumBlock) {
        const std::size_t last = first + kSumBlock < depth ? first + kSumBlock : depth;
        for (std::size_t r = 0; r < kTileRows; ++r) {
            for (std::size_t c = 0; c < kTileColumns; ++c) sum[r][c] = 0.0f;
        }
        for (std::size_t d = first; d < last; ++d) {
            const float* panel = b + d * ldb;
            for (std::size_t r = 0; r < kTileRows; ++r) {
                const float scale = row[r][d];
                for (std::size_t c = 0; c < kTileColumns; ++c) sum[r][c] += scale * panel[c];
            }
        }
        for (std::size_t r = 0; r < kTileRows; ++r) {
            for (std::size_t c = 0; c < kTileColumns; ++c) acc[r][c] += sum[r][c];
        }
    }
}

}  // namespace mosaicmem
