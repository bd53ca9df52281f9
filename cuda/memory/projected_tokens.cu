#include "cpp/base/cells.hpp"
#include "cuda/base/launch.cuh"
#include "cuda/memory/latent.cuh"
#include "cuda/memory/retrieval.hpp"

namespace mosaicmem::cuda {
namespace {

// One warp per token: all lanes project it alike and share its channels.
__global__ void project_tokens_kernel(Mirror mirror, const RetrievalView* views, std::size_t count,
                                      std::size_t top_k, const std::int32_t* places,
                                      TokenArrays out) {
    const std::size_t token = thread_index() / kWarp;
    const unsigned lane = threadIdx.x % kWarp;
    if (token >= count * top_k * out.cells) return;
    const std::size_t pick = token / out.cells, v = pick / top_k;
    const std::int32_t row = places[2 * pick];
    const RetrievalView& target = views[v];
    double position[3] = {0, 0, 0};
    float depth = 0, confidence = 0;
    std::size_t first = 0, r = 0, c = 0;
    const void* from = nullptr;
    if (row >= 0) {
        const MirroredObservation& source = mirror.observations[row];
        const Tile tile = source.tile(static_cast<std::size_t>(places[2 * pick + 1]));
        r = tile.row + token % out.cells / source.patch_size;
        c = tile.column + token % out.cells % source.patch_size;
        const bool exists = r < tile.row_end && c < tile.column_end;
        const std::size_t cell = r * source.columns + c;
        const float d = exists ? source.depth[cell] : 0.0f;
        float u, w, z;
        const Reprojection reproject(source.k, source.world_from_camera, target.view);
        if (is_valid_depth(d) &&
            reproject((static_cast<double>(c) + 0.5) * source.stride,
                      (static_cast<double>(r) + 0.5) * source.stride, d, u, w, z)) {
            position[0] = out.seconds_per_latent > 0
                              ? (source.timestamp - target.time) / out.seconds_per_latent
                              : static_cast<double>(v);
            position[1] = w / out.stride - 0.5;
            position[2] = u / out.stride - 0.5;
            depth = z;
            confidence = source.confidence ? source.confidence[cell] : 1.0f;
            from = source.latents;
            first = cell * mirror.channels;
        }
    }
    for (std::size_t k = lane; k < mirror.channels; k += kWarp) {
        out.latents[token * mirror.channels + k] =
            from ? latent_at(from, mirror.latent_type, first + k) : 0.0f;
    }
    if (lane != 0) return;
    const bool is_observed =
        row >= 0 && mirror.observations[row].provenance == Provenance::observed;
    if (token % out.cells == 0) {
        out.sources[pick] = row;
        out.generated[pick] = row >= 0 && !is_observed;
    }
    for (int axis = 0; axis < 3; ++axis) out.positions[3 * token + axis] = position[axis];
    out.source_positions[2 * token] = from ? static_cast<std::int32_t>(r) : 0;
    out.source_positions[2 * token + 1] = from ? static_cast<std::int32_t>(c) : 0;
    out.depth[token] = depth;
    out.confidence[token] = confidence;
    out.valid[token] = from != nullptr;
    if (!from) return;
    const std::size_t view = v * out.rows * out.columns;
    for_each_cell(static_cast<float>(position[2]), static_cast<float>(position[1]), Splat::bilinear,
                  out.rows, out.columns, [&](std::size_t cell, float) {
                      out.coverage[view + cell] = 1;
                      if (is_observed) out.observed[view + cell] = 1;
                  });
}

}  // namespace

void project_tokens(const Mirror& mirror, const RetrievalView* views, std::size_t count,
                    std::size_t top_k, const std::int32_t* places, const TokenArrays& tokens,
                    const Stream& stream) {
    constexpr const char* kName = "project_tokens";
    for (std::uint8_t* const mask : {tokens.coverage, tokens.observed})
        fill_bytes(mask, 0, count * tokens.rows * tokens.columns, stream);
    launch(kName, project_tokens_kernel, threads(kName, count * top_k * tokens.cells * kWarp),
           stream, mirror, views, count, top_k, places, tokens);
}

}  // namespace mosaicmem::cuda
