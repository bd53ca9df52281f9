#include "cuda/bindings/device_array.hpp"
#include "cuda/geometry/depth_grid.hpp"
#include "cuda/geometry/reproject.hpp"
#include "cuda/geometry/unproject.hpp"
#include "cuda/geometry/voxel_map.hpp"

namespace mosaicmem::bindings {
namespace {

// world_from_camera (n, 4, 4)
std::vector<Affine> to_affines(const Array<double>& matrices) {
    std::vector<Affine> affines(extent(matrices, 0));
    for (std::size_t i = 0; i < affines.size(); ++i)
        std::memcpy(affines[i].m.data(), matrices.data() + 16 * i, sizeof affines[i].m);
    return affines;
}

void unproject_dense(const DeviceArray& depth, const std::pair<std::size_t, std::size_t>& size,
                     const std::array<double, 4>& k, const Array<double>& world_from_camera,
                     const DeviceArray& points, const DeviceArray& valid,
                     const cuda::Stream& stream) {
    cuda::unproject_dense(depth.as<float>(), size.first, size.second, to_intrinsics(k),
                          to_affines(world_from_camera), points.as<float>(),
                          valid.as<std::uint8_t>(), stream);
}

void median_depth_grid(const DeviceArray& depth, std::size_t stride, std::size_t min_valid,
                       const DeviceArray& grid, const cuda::Stream& stream) {
    cuda::median_depth_grid(depth.as<float>(), depth.extent(0), depth.extent(1), stride, min_valid,
                            grid.as<float>(), stream);
}

void reproject_grid(const DeviceArray& depth, double stride, const std::array<double, 4>& source_k,
                    const Array<double>& world_from_source, const std::array<double, 8>& camera,
                    const Array<double>& camera_from_world, const DeviceArray& projected,
                    const DeviceArray& valid, const cuda::Stream& stream) {
    cuda::reproject_grid(depth.as<float>(), depth.extent(0), depth.extent(1), stride,
                         to_intrinsics(source_k), to_affine(world_from_source),
                         to_view(camera, camera_from_world), projected.as<float>(),
                         valid.as<std::uint8_t>(), stream);
}

// Keys, words and the number of voxels.
using VoxelArrays = std::tuple<DeviceArray, DeviceArray, DeviceArray>;

cuda::VoxelTable to_table(const VoxelArrays& arrays) {
    const auto& [keys, words, voxels] = arrays;
    return {keys.as<unsigned long long>(), words.as<long long>(), voxels.as<unsigned long long>(),
            keys.extent(0)};
}

void clear_voxels(const VoxelArrays& table, const cuda::Stream& stream) {
    cuda::clear_voxels(to_table(table), stream);
}

void add_voxels(const VoxelArrays& table, const DeviceArray& depth,
                const std::optional<DeviceArray>& color, const std::array<double, 4>& k,
                const Array<double>& world_from_camera, double timestamp, double voxel_size,
                const DeviceArray& counts, const cuda::Stream& stream) {
    const cuda::RgbdFrame frame{
        depth.as<float>(), data_or_null<std::uint8_t>(color), depth.extent(0), depth.extent(1),
        to_intrinsics(k),  to_affine(world_from_camera),      timestamp};
    cuda::add_voxels(to_table(table), frame, voxel_size, counts.as<unsigned long long>(), stream);
}

void move_voxels(const VoxelArrays& from, const VoxelArrays& to, const cuda::Stream& stream) {
    cuda::move_voxels(to_table(from), to_table(to), stream);
}

}  // namespace

void bind_cuda_geometry(py::module_& m) {
    m.def("unproject_dense", &unproject_dense, py::arg("depth"), py::arg("size"),
          py::arg("intrinsics"), py::arg("world_from_camera"), py::arg("points"), py::arg("valid"),
          py::arg("stream"));
    m.def("median_depth_grid", &median_depth_grid, py::arg("depth"), py::arg("stride"),
          py::arg("min_valid"), py::arg("grid"), py::arg("stream"));
    m.def("reproject_grid", &reproject_grid, py::arg("depth"), py::arg("stride"),
          py::arg("source_intrinsics"), py::arg("world_from_source"), py::arg("camera"),
          py::arg("camera_from_world"), py::arg("projected"), py::arg("valid"), py::arg("stream"));
    m.attr("voxel_words") = cuda::kVoxelWords;
    m.attr("voxel_position_unit") = cuda::kPositionUnit;
    m.def("clear_voxels", &clear_voxels, py::arg("table"), py::arg("stream"));
    m.def("add_voxels", &add_voxels, py::arg("table"), py::arg("depth"), py::arg("color"),
          py::arg("intrinsics"), py::arg("world_from_camera"), py::arg("timestamp"),
          py::arg("voxel_size"), py::arg("counts"), py::arg("stream"));
    m.def("move_voxels", &move_voxels, py::arg("source"), py::arg("target"), py::arg("stream"));
}

}  // namespace mosaicmem::bindings
