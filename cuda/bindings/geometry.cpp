#include "../reproject.hpp"
#include "../unproject.hpp"
#include "device_array.hpp"

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

void reproject_grid(const DeviceArray& depth, double stride, const std::array<double, 4>& source_k,
                    const Array<double>& world_from_source, const std::array<double, 8>& camera,
                    const Array<double>& camera_from_world, const DeviceArray& landing,
                    const DeviceArray& valid, const cuda::Stream& stream) {
    cuda::reproject_grid(depth.as<float>(), depth.extent(0), depth.extent(1), stride,
                         to_intrinsics(source_k), to_affine(world_from_source),
                         to_view(camera, camera_from_world), landing.as<float>(),
                         valid.as<std::uint8_t>(), stream);
}

}  // namespace

void bind_cuda_geometry(py::module_& m) {
    m.def("unproject_dense", &unproject_dense, py::arg("depth"), py::arg("size"),
          py::arg("intrinsics"), py::arg("world_from_camera"), py::arg("points"), py::arg("valid"),
          py::arg("stream"));
    m.def("reproject_grid", &reproject_grid, py::arg("depth"), py::arg("stride"),
          py::arg("source_intrinsics"), py::arg("world_from_source"), py::arg("camera"),
          py::arg("camera_from_world"), py::arg("landing"), py::arg("valid"), py::arg("stream"));
}

}  // namespace mosaicmem::bindings
