#include "cpp/memory/canvas_colors.hpp"

#include <algorithm>
#include <vector>

#include "cpp/base/parallel.hpp"
#include "cpp/geometry/unproject.hpp"

namespace mosaicmem {
namespace {

constexpr float kSmooth = 1.2f;       // depths of one surface differ by less than this factor
constexpr std::size_t kGrain = 2048;  // pixels worth a thread

// The cells on both sides of a position, and how far it is from the first to the second; clamped.
struct Between {
    std::size_t first, second;
    double part;

    Between(double position, std::size_t count) {
        const double last = static_cast<double>(count - 1);
        const double at = position > 0.5 ? std::min(position - 0.5, last) : 0;  // 0 for NaN too
        first = std::min(static_cast<std::size_t>(at), count > 1 ? count - 2 : 0);
        second = std::min(first + 1, count - 1);
        part = at - static_cast<double>(first);
    }
};

// The depth at a pixel: interpolated if its four neighbours are one surface, else the cell's own.
double depth_at(const float* depth, std::size_t columns, const Between& y, const Between& x,
                float own) {
    const float corners[4] = {
        depth[y.first * columns + x.first], depth[y.first * columns + x.second],
        depth[y.second * columns + x.first], depth[y.second * columns + x.second]};
    const auto [least, most] = std::minmax_element(corners, corners + 4);
    if (!(*least > 0) || *most >= kSmooth * *least) return own;
    const double upper = (1 - x.part) / corners[0] + x.part / corners[1];
    const double lower = (1 - x.part) / corners[2] + x.part / corners[3];
    return 1 / ((1 - y.part) * upper + y.part * lower);
}

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
                    depth_at(depth, target.columns, y, Between(u, target.columns), depth[cell]);
                look_up(sources[from],
                        rays[from](u * target.stride, v * target.stride, static_cast<float>(z)),
                        pixel);
            }
        }
    });
}

}  // namespace mosaicmem
