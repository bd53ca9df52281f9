#include "cpp/geometry/unproject.hpp"
#include "cuda/base/launch.cuh"
#include "cuda/geometry/unproject.hpp"

namespace mosaicmem::cuda {
namespace {

constexpr std::size_t kMostImages = 32;  // per launch, whose parameters are at most 4 KB

struct Rays {
    PixelRay of_image[kMostImages];
};

constexpr unsigned kWarps = 4;  // per block

// Each thread handles kPixels neighbours of one row. Four are read and written 16 bytes at a time;
// their points, 48 bytes per thread, go through shared memory, so that a warp's writes are
// coalesced.
template <int kPixels>
__global__ void unproject_kernel(const float* depth, unsigned height, unsigned width, Rays rays,
                                 float* points, std::uint8_t* valid) {
    float4* const staged =
        reinterpret_cast<float4*>(shared_memory()) + threadIdx.x / kWarp * (3 * kWarp);
    const unsigned lane = threadIdx.x % kWarp;
    const unsigned first = kPixels * (blockIdx.x * blockDim.x + threadIdx.x),
                   first_of_warp = first - kPixels * lane;
    if (first_of_warp >= width) return;
    for (unsigned i = blockIdx.y; i < height; i += gridDim.y) {
        const RowRay row(rays.of_image[blockIdx.z], i);
        const std::size_t row_begin = (static_cast<std::size_t>(blockIdx.z) * height + i) * width;
        const std::size_t pixel = row_begin + first;
        float z[kPixels] = {}, p[3 * kPixels];
        std::uint8_t ok[kPixels];
        if constexpr (kPixels == 4) {
            if (first < width) {
                const float4 four = *reinterpret_cast<const float4*>(depth + pixel);
                z[0] = four.x, z[1] = four.y, z[2] = four.z, z[3] = four.w;
            }
        } else {
            if (first >= width) return;
            z[0] = depth[pixel];
        }
        for (int j = 0; j < kPixels; ++j) {
            ok[j] = is_valid_depth(z[j]);
            for (int axis = 0; axis < 3; ++axis)
                p[3 * j + axis] = ok[j] ? row(first + j, z[j], axis) : 0.0f;
        }
        if constexpr (kPixels == 4) {
            for (unsigned j = 0; j < 3; ++j)
                staged[3 * lane + j] =
                    make_float4(p[4 * j], p[4 * j + 1], p[4 * j + 2], p[4 * j + 3]);
            __syncwarp();
            float4* const out = reinterpret_cast<float4*>(points + 3 * (row_begin + first_of_warp));
            const unsigned whole = 3 * (width - first_of_warp) / 4;
            for (unsigned j = lane; j < min(whole, 3 * kWarp); j += kWarp) out[j] = staged[j];
            if (first < width) {
                *reinterpret_cast<uchar4*>(valid + pixel) = make_uchar4(ok[0], ok[1], ok[2], ok[3]);
            }
            __syncwarp();  // before the next row is staged
        } else {
            for (int axis = 0; axis < 3; ++axis) points[3 * pixel + axis] = p[axis];
            valid[pixel] = ok[0];
        }
    }
}

template <int kPixels>
void launch_images(const float* depth, std::size_t height, std::size_t width, const Rays& rays,
                   std::size_t images, float* points, std::uint8_t* valid, const Stream& stream) {
    constexpr unsigned kThreads = kWarps * kWarp;
    const dim3 grid(blocks("unproject_dense", width, kThreads * kPixels),
                    static_cast<unsigned>(std::min<std::size_t>(height, 32768)),
                    static_cast<unsigned>(images));
    launch("unproject_dense", unproject_kernel<kPixels>,
           {grid, dim3(kThreads), kPixels == 4 ? kThreads * 3 * sizeof(float4) : 0}, stream, depth,
           static_cast<unsigned>(height), static_cast<unsigned>(width), rays, points, valid);
}

// One warp counts the valid pixels of one row.
__global__ void count_kernel(const float* depth, std::size_t height, std::size_t width,
                             std::int64_t* offsets) {
    const std::size_t row = thread_index() / kWarp;
    if (row >= height) return;
    std::int64_t count = 0;
    for (std::size_t j = threadIdx.x % kWarp; j < width; j += kWarp)
        count += is_valid_depth(depth[row * width + j]);
    for (unsigned reach = kWarp / 2; reach > 0; reach /= 2)
        count += __shfl_xor_sync(kAllLanes, count, static_cast<int>(reach));
    if (threadIdx.x % kWarp == 0) offsets[row + 1] = count;
}

// One warp turns the counts, from offsets[1] on, into prefix sums.
__global__ void sum_kernel(std::size_t height, std::int64_t* offsets) {
    const unsigned lane = threadIdx.x;
    std::int64_t before = 0;
    for (std::size_t first = 0; first < height; first += kWarp) {
        std::int64_t sum = first + lane < height ? offsets[first + lane + 1] : 0;
        for (unsigned reach = 1; reach < kWarp; reach *= 2) {
            const std::int64_t more = __shfl_up_sync(kAllLanes, sum, reach);
            if (lane >= reach) sum += more;
        }
        sum += before;
        if (first + lane < height) offsets[first + lane + 1] = sum;
        before = __shfl_sync(kAllLanes, sum, kWarp - 1);
    }
    if (lane == 0) offsets[0] = 0;
}

// One warp writes the points of one row.
__global__ void unproject_valid_kernel(const float* depth, std::size_t height, std::size_t width,
                                       PixelRay ray, const std::int64_t* offsets, float* points,
                                       std::int64_t* pixels) {
    const std::size_t row = thread_index() / kWarp;
    if (row >= height) return;
    const unsigned lane = threadIdx.x % kWarp;
    const RowRay of_row(ray, row);
    std::int64_t next = offsets[row];
    for (std::size_t first = 0; first < width; first += kWarp) {
        const std::size_t j = first + lane;
        const float z = j < width ? depth[row * width + j] : 0.0f;
        const bool is_valid = is_valid_depth(z);
        const unsigned valid = __ballot_sync(kAllLanes, is_valid);
        if (is_valid) {
            const std::int64_t at = next + __popc(valid & ((1u << lane) - 1));
            for (int axis = 0; axis < 3; ++axis) points[3 * at + axis] = of_row(j, z, axis);
            pixels[at] = static_cast<std::int64_t>(row * width + j);
        }
        next += __popc(valid);
    }
}

}  // namespace

std::size_t count_valid(const float* depth, std::size_t height, std::size_t width,
                        std::int64_t* offsets, const Stream& stream) {
    launch("count_valid", count_kernel, threads("count_valid", height * kWarp), stream, depth,
           height, width, offsets);
    launch("count_valid", sum_kernel, {dim3(1), dim3(kWarp)}, stream, height, offsets);
    std::int64_t total = 0;
    copy_to_host(offsets + height, &total, sizeof total, stream);
    return static_cast<std::size_t>(total);
}

void unproject_valid(const float* depth, std::size_t height, std::size_t width, const Intrinsics& k,
                     const Affine& world_from_camera, const std::int64_t* offsets, float* points,
                     std::int64_t* pixels, const Stream& stream) {
    launch("unproject_valid", unproject_valid_kernel, threads("unproject_valid", height * kWarp),
           stream, depth, height, width, PixelRay(k, world_from_camera), offsets, points, pixels);
}

void unproject_dense(const float* depth, std::size_t height, std::size_t width, const Intrinsics& k,
                     std::span<const Affine> world_from_camera, float* points, std::uint8_t* valid,
                     const Stream& stream) {
    for (std::size_t first = 0; first < world_from_camera.size(); first += kMostImages) {
        const std::size_t images = std::min(kMostImages, world_from_camera.size() - first);
        Rays rays;
        for (std::size_t i = 0; i < images; ++i)
            rays.of_image[i] = PixelRay(k, world_from_camera[first + i]);
        const std::size_t pixel = first * height * width;
        if (width % 4 == 0 && are_aligned(depth, points, valid)) {
            launch_images<4>(depth + pixel, height, width, rays, images, points + 3 * pixel,
                             valid + pixel, stream);
        } else {
            launch_images<1>(depth + pixel, height, width, rays, images, points + 3 * pixel,
                             valid + pixel, stream);
        }
    }
}

}  // namespace mosaicmem::cuda
