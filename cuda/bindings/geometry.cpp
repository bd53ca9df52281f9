#include "cuda/bindings/device_array.hpp"
#include "cuda/geometry/depth_grid.hpp"
#include "cuda/geometry/reproject.hpp"
#include "cuda/geometry/unproject.hpp"

namespace mosaicmem::bindings {
namespace {

void unproject_dense(const DeviceArray& depth, const std::pair<std::size_t, std::size_t>& size,
                     const std::array<double, 4>& k, const Array<double>& world_from_camera,
                     const DeviceArray& points, const DeviceArray& valid,
                     const Execution& execution) {
    cuda::unproject_dense(depth.as<float>(), size.first, size.second, to_intrinsics(k),
                          to_affines(world_from_camera), points.as<float>(),
                          valid.as<std::uint8_t>(), execution);
}

std::size_t count_valid(const DeviceArray& depth, const DeviceArray& offsets,
                        const Execution& execution) {
    return cuda::count_valid(depth.as<float>(), depth.extent(0), depth.extent(1),
                             offsets.as<std::int64_t>(), execution);
}

void unproject_valid(const DeviceArray& depth, const std::array<double, 4>& k,
                     const Array<double>& world_from_camera, const DeviceArray& offsets,
                     const DeviceArray& points, const DeviceArray& pixels,
                     const Execution& execution) {
    cuda::unproject_valid(depth.as<float>(), depth.extent(0), depth.extent(1), to_intrinsics(k),
                          to_affine(world_from_camera), offsets.as<std::int64_t>(),
                          points.as<float>(), pixels.as<std::int64_t>(), execution);
}

void median_depth_grid(const DeviceArray& depth, std::size_t stride, std::size_t min_valid,
                       const DeviceArray& grid, const Execution& execution) {
    cuda::median_depth_grid(depth.as<float>(), depth.extent(0), depth.extent(1), stride, min_valid,
                            grid.as<float>(), execution);
}

void reproject_grid(const DeviceArray& depth, double stride, const std::array<double, 4>& source_k,
                    const Array<double>& world_from_source, const std::array<double, 8>& camera,
                    const Array<double>& camera_from_world, const DeviceArray& projected,
                    const DeviceArray& valid, const Execution& execution) {
    cuda::reproject_grid(depth.as<float>(), depth.extent(0), depth.extent(1), stride,
                         to_intrinsics(source_k), to_affine(world_from_source),
                         to_view(camera, camera_from_world), projected.as<float>(),
                         valid.as<std::uint8_t>(), execution);
}

}  // namespace

void bind_cuda_geometry(py::module_& m) {
    m.def("unproject_dense", &unproject_dense, py::arg("depth"), py::arg("size"),
          py::arg("intrinsics"), py::arg("world_from_camera"), py::arg("points"), py::arg("valid"),
          py::arg("execution"));
    m.def("count_valid", &count_valid, py::arg("depth"), py::arg("offsets"), py::arg("execution"));
    m.def("unproject_valid", &unproject_valid, py::arg("depth"), py::arg("intrinsics"),
          py::arg("world_from_camera"), py::arg("offsets"), py::arg("points"), py::arg("pixels"),
          py::arg("execution"));
    m.def("median_depth_grid", &median_depth_grid, py::arg("depth"), py::arg("stride"),
          py::arg("min_valid"), py::arg("grid"), py::arg("execution"));
    m.def("reproject_grid", &reproject_grid, py::arg("depth"), py::arg("stride"),
          py::arg("source_intrinsics"), py::arg("world_from_source"), py::arg("camera"),
          py::arg("camera_from_world"), py::arg("projected"), py::arg("valid"),
          py::arg("execution"));
}

}  // namespace mosaicmem::bindings
