// Patches as blocks of a keyframe's latent grid, and the storage types of latents.
#pragma once

#include <cstddef>

#include "cpp/base/host_device.hpp"

namespace mosaicmem {

enum class LatentType { float32, float16, bfloat16 };

// The cells of one patch: rows [row, row_end) x columns [column, column_end) of its keyframe's
// grid.
struct Tile {
    std::size_t row, row_end, column, column_end;

    MOSAICMEM_HOST_DEVICE std::size_t cells() const {
        return (row_end - row) * (column_end - column);
    }
};

// The tile of a patch, given its row-major index; patches are size x size cells, fewer at the
// borders.
MOSAICMEM_HOST_DEVICE inline Tile tile_of(std::size_t patch, std::size_t patch_columns,
                                          std::size_t size, std::size_t rows, std::size_t columns) {
    const std::size_t row = patch / patch_columns * size, column = patch % patch_columns * size;
    return {row, row + size < rows ? row + size : rows, column,
            column + size < columns ? column + size : columns};
}

}  // namespace mosaicmem
