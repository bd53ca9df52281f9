#include <cmath>

#include "arrays.hpp"
#include "compose.hpp"
#include "depth_grid.hpp"
#include "reproject.hpp"
#include "unproject.hpp"
#include "voxel_map.hpp"

namespace mosaicmem::bindings {
namespace {

py::tuple unproject_dense(const Array<float>& depth, const std::array<double, 4>& k,
                          const Array<double>& world_from_camera, int num_threads) {
    const std::size_t height = extent(depth, 0), width = extent(depth, 1);
    auto points = make_array<float>({depth.shape(0), depth.shape(1), 3});
    auto valid = make_array<bool>({depth.shape(0), depth.shape(1)});
    const Affine affine = to_affine(world_from_camera);
    const float* in = depth.data();
    float* out = points.mutable_data();
    auto* mask = reinterpret_cast<std::uint8_t*>(valid.mutable_data());
    {
        const py::gil_scoped_release release;
        mosaicmem::unproject_dense(in, height, width, to_intrinsics(k), affine, out, mask,
                                   num_threads);
    }
    return py::make_tuple(points, valid);
}

py::tuple unproject_valid(const Array<float>& depth, const std::array<double, 4>& k,
                          const Array<double>& world_from_camera, int num_threads) {
    const std::size_t height = extent(depth, 0), width = extent(depth, 1);
    const Affine affine = to_affine(world_from_camera);
    const float* in = depth.data();
    std::vector<std::size_t> offsets(height);
    std::size_t total = 0;
    {
        const py::gil_scoped_release release;
        count_valid(in, height, width, offsets.data(), num_threads);
        for (std::size_t& offset : offsets) {
            const std::size_t count = offset;
            offset = total;
            total += count;
        }
    }
    auto points = make_array<float>({static_cast<py::ssize_t>(total), 3});
    auto pixels = make_array<std::int64_t>({static_cast<py::ssize_t>(total)});
    float* out = points.mutable_data();
    std::int64_t* out_pixels = pixels.mutable_data();
    {
        const py::gil_scoped_release release;
        mosaicmem::unproject_valid(in, height, width, to_intrinsics(k), affine, offsets.data(), out,
                                   out_pixels, num_threads);
    }
    return py::make_tuple(points, pixels);
}

Array<float> median_depth_grid(const Array<float>& depth, std::size_t stride, std::size_t min_valid,
                               int num_threads) {
    const std::size_t height = extent(depth, 0), width = extent(depth, 1);
    auto grid = make_array<float>(
        {static_cast<py::ssize_t>(height / stride), static_cast<py::ssize_t>(width / stride)});
    const float* in = depth.data();
    float* out = grid.mutable_data();
    {
        const py::gil_scoped_release release;
        mosaicmem::median_depth_grid(in, height, width, stride, min_valid, out, num_threads);
    }
    return grid;
}

py::tuple reproject_grid(const Array<float>& depth, double stride,
                         const std::array<double, 4>& source_k,
                         const Array<double>& world_from_source,
                         const std::array<double, 8>& camera,
                         const Array<double>& camera_from_world, int num_threads) {
    auto landing = make_array<float>({depth.shape(0), depth.shape(1), 3});
    auto valid = make_array<bool>({depth.shape(0), depth.shape(1)});
    const Affine affine = to_affine(world_from_source);
    const View view = to_view(camera, camera_from_world);
    const float* in = depth.data();
    float* out = landing.mutable_data();
    auto* mask = reinterpret_cast<std::uint8_t*>(valid.mutable_data());
    const std::size_t rows = extent(depth, 0), columns = extent(depth, 1);
    {
        const py::gil_scoped_release release;
        mosaicmem::reproject_grid(in, rows, columns, stride, to_intrinsics(source_k), affine, view,
                                  out, mask, num_threads);
    }
    return py::make_tuple(landing, valid);
}

py::tuple splat_tokens(const Array<float>& latents, const Array<float>& position,
                       const Array<float>& depth, const std::optional<Array<float>>& weight,
                       std::size_t rows, std::size_t columns, Splat mode, float depth_tolerance) {
    const SplatTokens tokens{latents.data(),       position.data(),  depth.data(),
                             data_or_null(weight), extent(depth, 0), extent(latents, 1)};
    const auto r = static_cast<py::ssize_t>(rows), c = static_cast<py::ssize_t>(columns);
    auto canvas = make_array<float>({r, c, latents.shape(1)});
    auto coverage = make_array<bool>({r, c});
    auto front = make_array<float>({r, c});
    auto source = make_array<std::int32_t>({r, c});
    const SplatGrid grid{rows,
                         columns,
                         canvas.mutable_data(),
                         reinterpret_cast<std::uint8_t*>(coverage.mutable_data()),
                         front.mutable_data(),
                         source.mutable_data()};
    {
        const py::gil_scoped_release release;
        splat(tokens, mode, depth_tolerance, grid);
    }
    return py::make_tuple(canvas, coverage, front, source);
}

py::dict add_frame(VoxelMap& map, const Array<float>& depth,
                   const std::optional<Array<std::uint8_t>>& colour, const std::array<double, 4>& k,
                   const Array<double>& world_from_camera, double timestamp, int num_threads) {
    const RgbdFrame frame{depth.data(),     data_or_null(colour), extent(depth, 0),
                          extent(depth, 1), to_intrinsics(k),     to_affine(world_from_camera),
                          timestamp};
    FusionCounts counts;
    {
        const py::gil_scoped_release release;
        counts = map.add(frame, num_threads);
    }
    py::dict result;
    result["points"] = counts.points;
    result["out_of_range"] = counts.out_of_range;
    result["new_voxels"] = counts.new_voxels;
    return result;
}

py::dict export_voxels(const VoxelMap& map, std::size_t min_count) {
    const std::vector<const Voxel*> voxels = map.sorted_voxels(min_count);
    const auto n = static_cast<py::ssize_t>(voxels.size());
    auto points = make_array<float>({n, 3});
    auto colours = make_array<std::uint8_t>({n, 3});
    auto normals = make_array<float>({n, 3});
    auto counts = make_array<std::int64_t>({n});
    auto times = make_array<double>({n, 2});
    for (std::size_t i = 0; i < voxels.size(); ++i) {
        const Voxel& voxel = *voxels[i];
        const double count = static_cast<double>(voxel.count);
        const double length =
            std::sqrt(voxel.normal[0] * voxel.normal[0] + voxel.normal[1] * voxel.normal[1] +
                      voxel.normal[2] * voxel.normal[2]);
        for (std::size_t axis = 0; axis < 3; ++axis) {
            points.mutable_data()[3 * i + axis] = static_cast<float>(voxel.position[axis] / count);
            colours.mutable_data()[3 * i + axis] =
                static_cast<std::uint8_t>(voxel.colour[axis] / count + 0.5);
            normals.mutable_data()[3 * i + axis] =
                length > 0 ? static_cast<float>(voxel.normal[axis] / length) : 0.0f;
        }
        counts.mutable_data()[i] = static_cast<std::int64_t>(voxel.count);
        times.mutable_data()[2 * i] = voxel.first_time;
        times.mutable_data()[2 * i + 1] = voxel.last_time;
    }
    py::dict result;
    result["points"] = points;
    result["colors"] = colours;
    result["normals"] = normals;
    result["counts"] = counts;
    result["times"] = times;
    return result;
}

}  // namespace

void bind_geometry(py::module_& m) {
    m.def("unproject_dense", &unproject_dense, py::arg("depth").noconvert(), py::arg("intrinsics"),
          py::arg("world_from_camera"), py::arg("num_threads") = 0);
    m.def("unproject_valid", &unproject_valid, py::arg("depth").noconvert(), py::arg("intrinsics"),
          py::arg("world_from_camera"), py::arg("num_threads") = 0);
    m.def("median_depth_grid", &median_depth_grid, py::arg("depth").noconvert(), py::arg("stride"),
          py::arg("min_valid"), py::arg("num_threads") = 0);
    m.def("reproject_grid", &reproject_grid, py::arg("depth").noconvert(), py::arg("stride"),
          py::arg("source_intrinsics"), py::arg("world_from_source"), py::arg("camera"),
          py::arg("camera_from_world"), py::arg("num_threads") = 0);

    py::enum_<Splat>(m, "Splat")
        .value("nearest", Splat::nearest)
        .value("block", Splat::block)
        .value("bilinear", Splat::bilinear);
    m.def("splat", &splat_tokens, py::arg("latents").noconvert(), py::arg("position").noconvert(),
          py::arg("depth").noconvert(), py::arg("weight").noconvert(), py::arg("rows"),
          py::arg("columns"), py::arg("mode"), py::arg("depth_tolerance"));

    py::class_<VoxelMap>(m, "VoxelMap")
        .def(py::init<double>(), py::arg("voxel_size"))
        .def("add", &add_frame, py::arg("depth").noconvert(), py::arg("colour").noconvert(),
             py::arg("intrinsics"), py::arg("world_from_camera"), py::arg("timestamp"),
             py::arg("num_threads") = 0)
        .def("export", &export_voxels, py::arg("min_count"))
        .def("__len__", &VoxelMap::size)
        .def_property_readonly("nbytes", &VoxelMap::nbytes);
}

}  // namespace mosaicmem::bindings
