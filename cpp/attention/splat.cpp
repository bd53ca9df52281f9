#include "cpp/attention/splat.hpp"

#include <algorithm>
#include <vector>

#include "cpp/geometry/unproject.hpp"

namespace mosaicmem {
namespace {

// Calls visit(token, cell, weight) for the tokens on each cell's front surface.
template <class Visit>
void for_each_front(const SplatTokens& tokens, float depth_tolerance, const SplatGrid& grid,
                    const Visit& visit) {
    for (std::size_t i = 0; i < tokens.count; ++i) {
        if (!is_valid_depth(tokens.depth[i])) continue;
        const float weight = tokens.weight ? tokens.weight[i] : 1.0f;
        for_each_cell(tokens.position[2 * i + 1], tokens.position[2 * i], Splat::bilinear,
                      grid.rows, grid.columns, [&](std::size_t cell, float bilinear) {
                          if (tokens.depth[i] > grid.depth[cell] * (1.0f + depth_tolerance)) return;
                          visit(i, cell, weight * bilinear);
                      });
    }
}

template <class T>
void average_front(const SplatTokens& tokens, float depth_tolerance, const T* latents,
                   std::size_t channels, const SplatGrid& grid, T* canvas) {
    std::vector<T> total(grid.rows * grid.columns, T(0));
    for_each_front(tokens, depth_tolerance, grid, [&](std::size_t i, std::size_t cell, float w) {
        total[cell] += w;
        const T* latent = latents + i * channels;
        T* out = canvas + cell * channels;
        for (std::size_t c = 0; c < channels; ++c) out[c] += w * latent[c];
    });
    for (std::size_t cell = 0; cell < total.size(); ++cell) {
        if (!grid.coverage[cell]) continue;
        T* out = canvas + cell * channels;
        for (std::size_t c = 0; c < channels; ++c) out[c] /= total[cell];
    }
}

}  // namespace

template <class T>
void splat(const SplatTokens& tokens, const SplatOptions& options, const T* latents,
           std::size_t channels, const SplatGrid& grid, T* canvas) {
    const std::size_t cells = grid.rows * grid.columns;
    std::vector<std::uint64_t> front(cells, kNoToken);
    for (std::size_t i = 0; i < tokens.count; ++i) {
        if (!is_valid_depth(tokens.depth[i])) continue;
        const std::uint64_t key = front_key(tokens.depth[i], i);
        for_each_cell(tokens.position[2 * i + 1], tokens.position[2 * i], options.mode, grid.rows,
                      grid.columns,
                      [&](std::size_t cell, float) { front[cell] = std::min(front[cell], key); });
    }
    std::fill_n(canvas, cells * channels, T(0));
    for (std::size_t cell = 0; cell < cells; ++cell) {
        const bool covered = front[cell] != kNoToken;
        const std::size_t token = front[cell] & 0xFFFFFFFFull;
        grid.coverage[cell] = covered;
        grid.depth[cell] = covered ? tokens.depth[token] : 0.0f;
        grid.source[cell] = covered ? static_cast<std::int32_t>(token) : -1;
        if (covered && options.mode != Splat::bilinear) {
            std::copy_n(latents + token * channels, channels, canvas + cell * channels);
        }
    }
    if (options.mode == Splat::bilinear) {
        average_front(tokens, options.depth_tolerance, latents, channels, grid, canvas);
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
