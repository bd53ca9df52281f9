#include "cpp/geometry/unproject.hpp"

#include <algorithm>

#include "cpp/base/clones.hpp"
#include "cpp/base/parallel.hpp"

namespace mosaicmem {
namespace {

constexpr std::size_t kGrainPixels = 1 << 19;  // about 100 microseconds

std::size_t grain_rows(std::size_t width) { return kGrainPixels / (width + 1) + 1; }

MOSAICMEM_CLONES
void unproject_row(const float* __restrict depth, std::size_t width, const RowRay& row_ray,
                   float* __restrict points, std::uint8_t* __restrict valid) {
    const RowRay row = row_ray;  // a local copy cannot alias the outputs
    for (std::size_t j = 0; j < width; ++j) {
        const float z = depth[j];
        const bool ok = z > 0.0f && z <= FLT_MAX;
        const float x = row(j, z, 0), y = row(j, z, 1), w = row(j, z, 2);
        points[3 * j] = ok ? x : 0.0f;
        points[3 * j + 1] = ok ? y : 0.0f;
        points[3 * j + 2] = ok ? w : 0.0f;
        valid[j] = ok;
    }
}

// Unprojects the valid pixels of a row, at most `most` of them, since the caller's depth may change
// meanwhile. Returns their number.
MOSAICMEM_CLONES
std::size_t unproject_valid_row(const float* __restrict depth, std::size_t width,
                                std::int64_t first_pixel, std::size_t most, const RowRay& row_ray,
                                float* __restrict points, std::int64_t* __restrict pixels) {
    const RowRay row = row_ray;
    std::size_t count = 0;
    for (std::size_t j = 0; j < width && count < most; ++j) {
        const float z = depth[j];
        if (!(z > 0.0f && z <= FLT_MAX)) continue;
        for (int axis = 0; axis < 3; ++axis) points[3 * count + axis] = row(j, z, axis);
        pixels[count++] = first_pixel + static_cast<std::int64_t>(j);
    }
    return count;
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
    parallel_for(
        height, grain_rows(width) / 8 + 1, num_threads, [&](std::size_t begin, std::size_t end) {
            for (std::size_t i = begin; i < end; ++i) {
                const std::size_t offset = row_offsets[i], most = row_offsets[i + 1] - offset;
                const std::size_t count = unproject_valid_row(
                    depth + i * width, width, static_cast<std::int64_t>(i * width), most,
                    RowRay(ray, i), points + 3 * offset, pixels + offset);
                std::fill(points + 3 * (offset + count), points + 3 * (offset + most), 0.0f);
                std::fill(pixels + offset + count, pixels + offset + most,
                          static_cast<std::int64_t>(i * width));
            }
        });
}

}  // namespace mosaicmem
