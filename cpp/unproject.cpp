#include "unproject.hpp"

#include "parallel.hpp"
#include "simd.hpp"

namespace mosaicmem {
namespace {

constexpr std::size_t kGrainPixels = 1 << 19;  // about 100 microseconds

std::size_t grain_rows(std::size_t width) { return kGrainPixels / (width + 1) + 1; }

// One row of the ray function: direction = start + j * step, both float32.
struct RowRay {
    float start[3], step[3], t[3];

    RowRay(const PixelRay& ray, std::size_t row) {
        const Vec3 d = ray.direction(0.5, static_cast<double>(row) + 0.5);
        start[0] = static_cast<float>(d.x), start[1] = static_cast<float>(d.y),
        start[2] = static_cast<float>(d.z);
        step[0] = static_cast<float>(ray.du.x), step[1] = static_cast<float>(ray.du.y),
        step[2] = static_cast<float>(ray.du.z);
        t[0] = static_cast<float>(ray.t.x), t[1] = static_cast<float>(ray.t.y),
        t[2] = static_cast<float>(ray.t.z);
    }
};

MOSAICMEM_CLONES
void unproject_row(const float* __restrict depth, std::size_t width, const RowRay& row,
                   float* __restrict points, std::uint8_t* __restrict valid) {
    const float sx = row.start[0], sy = row.start[1], sz = row.start[2];
    const float dx = row.step[0], dy = row.step[1], dz = row.step[2];
    const float tx = row.t[0], ty = row.t[1], tz = row.t[2];
    for (std::size_t j = 0; j < width; ++j) {
        const float z = depth[j];
        const bool ok = z > 0.0f && z <= FLT_MAX;
        const float column = static_cast<float>(static_cast<std::int32_t>(j));
        const float x = z * (sx + column * dx) + tx;
        const float y = z * (sy + column * dy) + ty;
        const float w = z * (sz + column * dz) + tz;
        points[3 * j] = ok ? x : 0.0f;
        points[3 * j + 1] = ok ? y : 0.0f;
        points[3 * j + 2] = ok ? w : 0.0f;
        valid[j] = ok;
    }
}

MOSAICMEM_CLONES
std::size_t count_row(const float* depth, std::size_t width) {
    std::uint32_t count = 0;
    for (std::size_t j = 0; j < width; ++j) count += depth[j] > 0.0f && depth[j] <= FLT_MAX;
    return count;
}

}  // namespace

void unproject_dense(const float* depth, std::size_t height, std::size_t width, const Intrinsics& k,
                     const Affine& world_from_camera, float* points, std::uint8_t* valid,
                     int num_threads) {
    const PixelRay ray(k, world_from_camera);
    parallel_for(height, grain_rows(width), num_threads, [&](std::size_t begin, std::size_t end) {
        for (std::size_t i = begin; i < end; ++i) {
            unproject_row(depth + i * width, width, RowRay(ray, i), points + 3 * i * width,
                          valid + i * width);
        }
    });
}

void count_valid(const float* depth, std::size_t height, std::size_t width, std::size_t* row_counts,
                 int num_threads) {
    parallel_for(height, 2 * grain_rows(width), num_threads,
                 [&](std::size_t begin, std::size_t end) {
                     for (std::size_t i = begin; i < end; ++i)
                         row_counts[i] = count_row(depth + i * width, width);
                 });
}

void unproject_valid(const float* depth, std::size_t height, std::size_t width, const Intrinsics& k,
                     const Affine& world_from_camera, const std::size_t* row_offsets, float* points,
                     std::int64_t* pixels, int num_threads) {
    const PixelRay ray(k, world_from_camera);
    parallel_for(height, grain_rows(width) / 8 + 1, num_threads,
                 [&](std::size_t begin, std::size_t end) {
                     for (std::size_t i = begin; i < end; ++i) {
                         const RowRay row(ray, i);
                         std::size_t out = row_offsets[i];
                         for (std::size_t j = 0; j < width; ++j) {
                             const float z = depth[i * width + j];
                             if (!is_valid_depth(z)) continue;
                             const float column = static_cast<float>(static_cast<std::int32_t>(j));
                             for (int axis = 0; axis < 3; ++axis) {
                                 points[3 * out + axis] =
                                     z * (row.start[axis] + column * row.step[axis]) + row.t[axis];
                             }
                             pixels[out++] = static_cast<std::int64_t>(i * width + j);
                         }
                     }
                 });
}

}  // namespace mosaicmem
