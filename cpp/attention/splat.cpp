#include "cpp/attention/splat.hpp"

#include <algorithm>
#include <bit>
#include <vector>

#include "cpp/base/clones.hpp"
#include "cpp/geometry/unproject.hpp"

namespace mosaicmem {
namespace {

// Calls visit(token, cell, weight) for the tokens on each cell's front surface.
template <class Visit>
MOSAICMEM_INLINE void for_each_front(const SplatTokens& tokens, float depth_tolerance,
                                     const SplatGrid& grid, const Visit& visit) {
    for (std::size_t i = 0; i < tokens.count; ++i) {
        if (!is_valid_depth(tokens.depth[i])) continue;
        const float weight = tokens.weight ? tokens.weight[i] : 1.0f;
        for_each_cell(tokens.position[2 * i + 1], tokens.position[2 * i], Splat::bilinear,
                      grid.rows, grid.columns,
                      [&](std::size_t cell, float bilinear) MOSAICMEM_LAMBDA {
                          if (tokens.depth[i] > grid.depth[cell] * (1.0f + depth_tolerance)) return;
                          visit(i, cell, weight * bilinear);
                      });
    }
}

// The 2x2 cells around a token in a grid with a border of one cell, where all of them lie: for
// loops without a branch for each cell.
struct Block {
    std::size_t cell[4];
    float weight[4];           // bilinear
    std::int64_t row, column;  // of the first one, in the grid itself
};

MOSAICMEM_INLINE bool block_of(const SplatTokens& tokens, std::size_t i, const SplatGrid& grid,
                               Block& block) {
    const float y = tokens.position[2 * i], x = tokens.position[2 * i + 1];
    const float limit_x = static_cast<float>(grid.columns), limit_y = static_cast<float>(grid.rows);
    if (!(x > -1.0f && x < limit_x && y > -1.0f && y < limit_y)) return false;  // NaN too
    if (!is_valid_depth(tokens.depth[i])) return false;
    const std::int32_t left = floor_of(x), top = floor_of(y);
    const float dx = x - static_cast<float>(left), dy = y - static_cast<float>(top);
    const std::size_t columns = grid.columns + 2;
    const std::size_t corner =
        static_cast<std::size_t>(top + 1) * columns + static_cast<std::size_t>(left + 1);
    block = {{corner, corner + 1, corner + columns, corner + columns + 1},
             {(1.0f - dx) * (1.0f - dy), dx * (1.0f - dy), (1.0f - dx) * dy, dx * dy},
             top,
             left};
    return true;
}

std::size_t bordered_cells(const SplatGrid& grid) { return (grid.rows + 2) * (grid.columns + 2); }

// bounds (bordered): the largest depth of each cell's front surface, negative where there is none.
// total (bordered): sums of weights.
template <class T>
MOSAICMEM_INLINE void average_front(const SplatTokens& tokens, const float* bounds,
                                    const T* latents, std::size_t channels, const SplatGrid& grid,
                                    T* total, T* canvas) {
    const std::size_t columns = grid.columns + 2;
    for (std::size_t i = 0; i < tokens.count; ++i) {
        Block block;
        if (!block_of(tokens, i, grid, block)) continue;
        unsigned touched = 0;
        for (int k = 0; k < 4; ++k) {
            const bool is_front = tokens.depth[i] <= bounds[block.cell[k]];
            touched |= static_cast<unsigned>(is_front & (block.weight[k] >= kMinBilinear)) << k;
        }
        for (; touched; touched &= touched - 1) {
            const int k = std::countr_zero(touched);
            const float w = (tokens.weight ? tokens.weight[i] : 1.0f) * block.weight[k];
            const std::int64_t row = block.row + (k >> 1), column = block.column + (k & 1);
            const std::size_t cell =
                static_cast<std::size_t>(row) * grid.columns + static_cast<std::size_t>(column);
            total[block.cell[k]] += w;
            const T* __restrict latent = latents + i * channels;
            T* __restrict out = canvas + cell * channels;
            for (std::size_t c = 0; c < channels; ++c) out[c] += w * latent[c];
        }
    }
    for (std::size_t row = 0; row < grid.rows; ++row) {
        for (std::size_t column = 0; column < grid.columns; ++column) {
            const std::size_t cell = row * grid.columns + column;
            if (!grid.coverage[cell]) continue;
            const T sum = total[(row + 1) * columns + column + 1];
            T* out = canvas + cell * channels;
            for (std::size_t c = 0; c < channels; ++c) out[c] /= sum;
        }
    }
}

// Templates cannot be cloned.
MOSAICMEM_CLONES
void average(const SplatTokens& tokens, const float* bounds, const float* latents,
             std::size_t channels, const SplatGrid& grid, float* total, float* canvas) {
    average_front(tokens, bounds, latents, channels, grid, total, canvas);
}

MOSAICMEM_CLONES
void average(const SplatTokens& tokens, const float* bounds, const double* latents,
             std::size_t channels, const SplatGrid& grid, double* total, double* canvas) {
    average_front(tokens, bounds, latents, channels, grid, total, canvas);
}

// front (bordered): the least key of the tokens that touch each cell, or kNoToken.
MOSAICMEM_CLONES
void find_fronts(const SplatTokens& tokens, Splat mode, const SplatGrid& grid,
                 std::uint64_t* front) {
    const float least = mode == Splat::bilinear ? kMinBilinear : 0.0f;
    for (std::size_t i = 0; i < tokens.count; ++i) {
        Block block;
        if (!block_of(tokens, i, grid, block)) continue;
        const std::uint64_t key = front_key(tokens.depth[i], i);
        for (int k = 0; k < 4; ++k) {
            const std::uint64_t other = block.weight[k] >= least ? key : kNoToken;
            std::uint64_t& nearest = front[block.cell[k]];
            nearest = std::min(nearest, other);
        }
    }
}

void find_nearest(const SplatTokens& tokens, const SplatGrid& grid, std::uint64_t* front) {
    for (std::size_t i = 0; i < tokens.count; ++i) {
        const float y = tokens.position[2 * i] + 0.5f, x = tokens.position[2 * i + 1] + 0.5f;
        const float limit_x = static_cast<float>(grid.columns),
                    limit_y = static_cast<float>(grid.rows);
        if (!(x >= 0.0f && x < limit_x && y >= 0.0f && y < limit_y)) continue;  // NaN too
        if (!is_valid_depth(tokens.depth[i])) continue;
        const std::size_t row = static_cast<std::uint32_t>(y),
                          column = static_cast<std::uint32_t>(x);
        std::uint64_t& nearest = front[(row + 1) * (grid.columns + 2) + column + 1];
        nearest = std::min(nearest, front_key(tokens.depth[i], i));
    }
}

}  // namespace

template <class T>
void splat(const SplatTokens& tokens, const SplatOptions& options, const T* latents,
           std::size_t channels, const SplatGrid& grid, T* canvas) {
    std::vector<std::uint64_t> front(bordered_cells(grid), kNoToken);
    if (options.mode == Splat::nearest) {
        find_nearest(tokens, grid, front.data());
    } else {
        find_fronts(tokens, options.mode, grid, front.data());
    }
    std::vector<float> bounds(options.mode == Splat::bilinear ? front.size() : 0, -1.0f);
    std::fill_n(canvas, grid.rows * grid.columns * channels, T(0));
    for (std::size_t row = 0; row < grid.rows; ++row) {
        for (std::size_t column = 0; column < grid.columns; ++column) {
            const std::size_t cell = row * grid.columns + column;
            const std::size_t bordered = (row + 1) * (grid.columns + 2) + column + 1;
            const bool covered = front[bordered] != kNoToken;
            const std::size_t token = front[bordered] & 0xFFFFFFFFull;
            grid.coverage[cell] = covered;
            grid.depth[cell] = covered ? tokens.depth[token] : 0.0f;
            grid.source[cell] = covered ? static_cast<std::int32_t>(token) : -1;
            if (!covered) continue;
            if (options.mode == Splat::bilinear) {
                bounds[bordered] = grid.depth[cell] * (1.0f + options.depth_tolerance);
            } else {
                std::copy_n(latents + token * channels, channels, canvas + cell * channels);
            }
        }
    }
    if (options.mode == Splat::bilinear) {
        std::vector<T> total(front.size(), T(0));
        average(tokens, bounds.data(), latents, channels, grid, total.data(), canvas);
    }
}

template <class T>
void splat_adjoint(const SplatTokens& tokens, const SplatOptions& options, const SplatGrid& grid,
                   const T* canvas, std::size_t channels, T* latents) {
    std::fill_n(latents, tokens.count * channels, T(0));
    if (options.mode != Splat::bilinear) {
        for (std::size_t cell = 0; cell < grid.rows * grid.columns; ++cell) {
            if (grid.source[cell] < 0) continue;
            T* out = latents + static_cast<std::size_t>(grid.source[cell]) * channels;
            for (std::size_t c = 0; c < channels; ++c) out[c] += canvas[cell * channels + c];
        }
        return;
    }
    std::vector<T> total(grid.rows * grid.columns, T(0));
    for_each_front(tokens, options.depth_tolerance, grid,
                   [&](std::size_t, std::size_t cell, float w) { total[cell] += w; });
    for_each_front(tokens, options.depth_tolerance, grid,
                   [&](std::size_t i, std::size_t cell, float w) {
                       const T share = w / total[cell];
                       const T* from = canvas + cell * channels;
                       T* out = latents + i * channels;
                       for (std::size_t c = 0; c < channels; ++c) out[c] += share * from[c];
                   });
}

template void splat(const SplatTokens&, const SplatOptions&, const float*, std::size_t,
                    const SplatGrid&, float*);
template void splat(const SplatTokens&, const SplatOptions&, const double*, std::size_t,
                    const SplatGrid&, double*);
template void splat_adjoint(const SplatTokens&, const SplatOptions&, const SplatGrid&, const float*,
                            std::size_t, float*);
template void splat_adjoint(const SplatTokens&, const SplatOptions&, const SplatGrid&,
                            const double*, std::size_t, double*);

}  // namespace mosaicmem
