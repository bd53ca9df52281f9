#include "cpp/base/cells.hpp"
#include "cuda/attention/sample.hpp"
#include "cuda/base/cell_lists.cuh"
#include "cuda/base/number.cuh"

namespace mosaicmem::cuda {
namespace {

__device__ bool find_corners(const SamplePlaces& places, std::size_t i, Corners& corners) {
    return corners_of(places.position[2 * i + 1], places.position[2 * i], places.rows,
                      places.columns, corners);
}

// Neighbouring threads handle neighbouring channels of one position.
template <class T, int kCount>
__global__ void sample_kernel(SamplePlaces places, const T* grid, unsigned channels, T* values,
                              std::uint8_t* inside) {
    const unsigned chunks = channels / kCount;
    const std::size_t index = thread_index(), i = index / (chunks == 0 ? 1 : chunks);
    if (i >= places.count) return;
    const unsigned chunk = static_cast<unsigned>(index - i * chunks);
    Corners at;
    const bool is_inside = find_corners(places, i, at);
    if (chunk == 0) inside[i] = is_inside;
    if (chunks == 0) return;
    Chunk<T, kCount> sum{};
    if (is_inside) {
        Chunk<T, kCount> corner[4];
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            corner[j] = Chunk<T, kCount>::load(grid + at.cell[j] * channels + chunk * kCount);
        }
#pragma unroll
        for (int k = 0; k < kCount; ++k) {
            sum.x[k] = at.weight[0] * corner[0].x[k] + at.weight[1] * corner[1].x[k] +
                       at.weight[2] * corner[2].x[k] + at.weight[3] * corner[3].x[k];
        }
    }
    sum.store(values + i * channels + chunk * kCount);
}

// An entry is a position and one of its corners.
struct ForEachCorner {
    SamplePlaces places;

    template <class Visit>
    __device__ void operator()(std::size_t i, const Visit& visit) const {
        Corners at;
        if (!find_corners(places, i, at)) return;
        for (unsigned corner = 0; corner < 4; ++corner)
            visit(at.cell[corner], static_cast<unsigned>(4 * i) + corner);
    }
};

template <class T>
__global__ void sample_adjoint_kernel(SamplePlaces places, const T* values, unsigned channels,
                                      CellLists lists, T* grid) {
    const std::size_t index = thread_index(), cell = index / channels;
    if (cell >= places.rows * places.columns) return;
    const std::size_t k = index - cell * channels;
    T sum = 0;
    for (unsigned e = lists.begin[cell]; e < lists.begin[cell + 1]; ++e) {
        const std::size_t i = lists.entry[e] / 4;
        Corners at;
        find_corners(places, i, at);
        sum += static_cast<T>(at.weight[lists.entry[e] % 4]) * values[i * channels + k];
    }
    grid[index] = sum;
}

}  // namespace

template <class T>
void bilinear_sample(const SamplePlaces& places, const T* grid, std::size_t channels, T* values,
                     std::uint8_t* inside, const Stream& stream) {
    constexpr int kMany = kWidth<T>;
    const auto own = static_cast<unsigned>(channels);
    if (channels > 0 && channels % kMany == 0 && are_aligned(grid, values)) {
        launch("bilinear_sample", sample_kernel<T, kMany>,
               threads("bilinear_sample", places.count * (channels / kMany)), stream, places, grid,
               own, values, inside);
    } else {
        launch("bilinear_sample", sample_kernel<T, 1>,
               threads("bilinear_sample", places.count * std::max<std::size_t>(channels, 1)),
               stream, places, grid, own, values, inside);
    }
}

std::size_t bilinear_sample_adjoint_workspace_bytes(const SamplePlaces& places) {
    Workspace workspace;
    CellLists::carve(workspace, places.rows * places.columns, 4 * places.count);
    return workspace.bytes();
}

template <class T>
void bilinear_sample_adjoint(const SamplePlaces& places, const T* values, std::size_t channels,
                             T* grid, void* workspace, const Stream& stream) {
    const std::size_t cells = places.rows * places.columns;
    if (channels == 0) return;
    Workspace room(workspace);
    const CellLists lists = CellLists::carve(room, cells, 4 * places.count);
    fill_lists("bilinear_sample_adjoint", ForEachCorner{places}, places.count, cells, lists,
               stream);
    launch("bilinear_sample_adjoint", sample_adjoint_kernel<T>,
           threads("bilinear_sample_adjoint", cells * channels), stream, places, values,
           static_cast<unsigned>(channels), lists, grid);
}

template void bilinear_sample(const SamplePlaces&, const float*, std::size_t, float*, std::uint8_t*,
                              const Stream&);
template void bilinear_sample(const SamplePlaces&, const double*, std::size_t, double*,
                              std::uint8_t*, const Stream&);
template void bilinear_sample_adjoint(const SamplePlaces&, const float*, std::size_t, float*, void*,
                                      const Stream&);
template void bilinear_sample_adjoint(const SamplePlaces&, const double*, std::size_t, double*,
                                      void*, const Stream&);

}  // namespace mosaicmem::cuda
