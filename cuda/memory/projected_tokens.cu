#include "cpp/base/cells.hpp"
#include "cuda/base/launch.cuh"
#include "cuda/memory/latent.cuh"
#include "cuda/memory/retrieval.hpp"

namespace mosaicmem::cuda {
namespace {

// A warp a token: its projected by all lanes alike, its channels by one each.
__global__ void project_tokens_kernel(Mirror mirror, const RetrievalView* views, std::size_t count,
                                      std::size_t top_k, const std::int32_t* places,
                                      ProjectedOnDevice out) {
    const std::size_t token = thread_index() / kWarp;
    const unsigned lane = threadIdx.x % kWarp;
    if (token >= count * top_k * out.cells) return;
    const std::size_t pick = token / out.cells, v = pick / top_k;
    const std::int32_t row = places[2 * pick];
    const RetrievalView& target = views[v];
    float position[3] = {0, 0, 0}, depth = 0, confidence = 0;
    std::size_t first = 0;
    const void* from = nullptr;
    if (row >= 0) {
        const MirroredObservation& source = mirror.observations[row];
        const Tile tile = source.tile(static_cast<std::size_t>(places[2 * pick + 1]));
        const std::size_t r = tile.row + token % out.cells / source.patch_size;
        const std::size_t c = tile.column + token % out.cells % source.patch_size;
        const bool exists = r < tile.row_end && c < tile.column_end;
        const std::size_t cell = r * source.columns + c;
        const float d = exists ? source.depth[cell] : 0.0f;
        float u, w, z;
        const Reprojection reproject(source.k, source.world_from_camera, target.view);
        if (is_valid_depth(d) &&
            reproject((static_cast<double>(c) + 0.5) * source.stride,
                      (static_cast<double>(r) + 0.5) * source.stride, d, u, w, z)) {
            const double t = out.seconds_per_latent > 0
                                 ? (source.timestamp - target.time) / out.seconds_per_latent
                                 : static_cast<double>(v);
            position[0] = static_cast<float>(t);
            position[1] = static_cast<float>(w / out.stride - 0.5);
            position[2] = static_cast<float>(u / out.stride - 0.5);
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
    for (int axis = 0; axis < 3; ++axis) out.positions[3 * token + axis] = position[axis];
    out.depth[token] = depth;
    out.confidence[token] = confidence;
    out.valid[token] = from != nullptr;
    if (!from) return;
    const std::size_t view = v * out.rows * out.columns;
    const bool is_observed = mirror.observations[row].provenance == Provenance::observed;
    for_each_cell(position[2], position[1], Splat::bilinear, out.rows, out.columns,
                  [&](std::size_t cell, float) {
                      out.coverage[view + cell] = 1;
                      if (is_observed) out.observed[view + cell] = 1;
                  });
}

}  // namespace

void project_tokens(const Mirror& mirror, const RetrievalView* views, std::size_t count,
                    std::size_t top_k, const std::int32_t* places,
                    const ProjectedOnDevice& projected, const Stream& stream) {
    constexpr const char* kName = "project_tokens";
    for (std::uint8_t* const mask : {projected.coverage, projected.observed})
        fill_bytes(mask, 0, count * projected.rows * projected.columns, stream);
    launch(kName, project_tokens_kernel, threads(kName, count * top_k * projected.cells * kWarp),
           stream, mirror, views, count, top_k, places, projected);
}

}  // namespace mosaicmem::cuda
