#include "cpp/geometry/reproject.hpp"
#include "cpp/geometry/unproject.hpp"
#include "cuda/base/launch.cuh"
#include "cuda/geometry/reproject.hpp"

namespace mosaicmem::cuda {
namespace {

__global__ void reproject_kernel(const float* depth, std::size_t cells, std::size_t columns,
                                 double stride, Reprojection reproject, float* projected,
                                 std::uint8_t* valid) {
    const std::size_t cell = thread_index();
    if (cell >= cells) return;
    const double v = (static_cast<double>(cell / columns) + 0.5) * stride;
    const double u = (static_cast<double>(cell % columns) + 0.5) * stride;
    float p[3];
    const bool ok = is_valid_depth(depth[cell]) && reproject(u, v, depth[cell], p[0], p[1], p[2]);
    for (int i = 0; i < 3; ++i) projected[3 * cell + i] = ok ? p[i] : 0.0f;
    valid[cell] = ok;
}

}  // namespace

void reproject_grid(const float* depth, std::size_t rows, std::size_t columns, double stride,
                    const Intrinsics& source_k, const Affine& world_from_source, const View& target,
                    float* projected, std::uint8_t* valid, const Stream& stream) {
    const std::size_t cells = rows * columns;
    launch("reproject_grid", reproject_kernel, threads("reproject_grid", cells), stream, depth,
           cells, columns, stride, Reprojection(source_k, world_from_source, target), projected,
           valid);
}

}  // namespace mosaicmem::cuda
