#include "cpp/geometry/reproject.hpp"

#include "cpp/base/parallel.hpp"
#include "cpp/geometry/unproject.hpp"

namespace mosaicmem {

void reproject_grid(const float* depth, std::size_t rows, std::size_t columns, double stride,
                    const Intrinsics& source_k, const Affine& world_from_source, const View& target,
                    float* out, std::uint8_t* valid, int num_threads) {
    const Reprojection reproject(source_k, world_from_source, target);
    parallel_for(
        rows, (1 << 14) / (columns + 1) + 1, num_threads, [&](std::size_t begin, std::size_t end) {
            for (std::size_t r = begin; r < end; ++r) {
                const double v = (static_cast<double>(r) + 0.5) * stride;
                for (std::size_t c = 0; c < columns; ++c) {
                    const double u = (static_cast<double>(c) + 0.5) * stride;
                    const std::size_t cell = r * columns + c;
                    float* projected = out + 3 * cell;
                    valid[cell] =
                        is_valid_depth(depth[cell]) &&
                        reproject(u, v, depth[cell], projected[0], projected[1], projected[2]);
                    if (!valid[cell]) projected[0] = projected[1] = projected[2] = 0.0f;
                }
            }
        });
}

}  // namespace mosaicmem
