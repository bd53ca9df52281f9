#include "cpp/memory/canvas_colors.hpp"

#include <algorithm>
#include <vector>

#include "cpp/base/parallel.hpp"
#include "cpp/geometry/unproject.hpp"
#include "cpp/memory/smooth_depth.hpp"

namespace mosaicmem {
namespace {

constexpr std::size_t kGrain = 2048;  // pixels worth a thread

void look_up(const ColorSource& source, const Vec3& local, float* out) {
    const double inverse = local.z > 0 ? 1 / local.z : 0;
    const Between x((source.k.fx * local.x * inverse + source.k.cx) * source.scale, source.columns);
    const Between y((source.k.fy * local.y * inverse + source.k.cy) * source.scale, source.rows);
    const auto pixel = [&](std::size_t r, std::size_t c) {
        return source.pixels + 3 * (r * source.columns + c);
    };
    const std::uint8_t *a = pixel(y.first, x.first), *b = pixel(y.first, x.second),
                       *c = pixel(y.second, x.first), *d = pixel(y.second, x.second);
    for (std::size_t k = 0; k < 3; ++k) {
        const double upper = (1 - x.part) * a[k] + x.part * b[k];
        const double lower = (1 - x.part) * c[k] + x.part * d[k];
        out[k] = static_cast<float>(((1 - y.part) * upper + y.part * lower) / 255);
    }
}

}  // namespace

void color_canvas(const TargetGrid& target, const float* depth, const std::int32_t* source,
                  const float* others, std::span<const ColorSource> sources, std::size_t scale,
                  float* out, int num_threads) {
    const Affine world_from_target = inverse(target.view.camera_from_world);
    std::vector<PixelRay> rays;  // target pixel and depth -> camera frame of a source
    for (const ColorSource& each : sources)
        rays.emplace_back(target.view.k, each.camera_from_world * world_from_target);
    const std::size_t columns = scale * target.columns;
    const std::size_t grain = std::max<std::size_t>(1, kGrain / columns);
    parallel_for(scale * target.rows, grain, num_threads, [&](std::size_t begin, std::size_t end) {
        for (std::size_t row = begin; row < end; ++row) {
            const double v = (static_cast<double>(row) + 0.5) / static_cast<double>(scale);
            const Between y(v, target.rows);
            for (std::size_t column = 0; column < columns; ++column) {
                float* const pixel = out + 3 * (row * columns + column);
                const std::size_t cell = row / scale * target.columns + column / scale;
                if (source[cell] < 0) {
                    std::fill_n(pixel, 3, 0.0f);
                    continue;
                }
                const auto from = static_cast<std::size_t>(source[cell]);
                if (!sources[from].pixels) {
                    std::copy_n(others + 3 * cell, 3, pixel);
                    continue;
                }
                const double u = (static_cast<double>(column) + 0.5) / static_cast<double>(scale);
                const double z =
                    smooth_depth(depth, target.columns, y, Between(u, target.columns), depth[cell]);
                look_up(sources[from],
                        rays[from](u * target.stride, v * target.stride, static_cast<float>(z)),
                        pixel);
            }
        }
    });
}

}  // namespace mosaicmem
