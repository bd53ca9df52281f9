#include <cmath>
#include <mutex>

#include "cpp/base/fork_safe_mutex.hpp"
#include "cpp/bindings/arrays.hpp"
#include "cpp/geometry/depth_grid.hpp"
#include "cpp/geometry/reproject.hpp"
#include "cpp/geometry/unproject.hpp"
#include "cpp/geometry/voxel_map.hpp"

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
    std::vector<std::size_t> offsets(height + 1);  // the last stays 0 and becomes the total
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
    auto projected = make_array<float>({depth.shape(0), depth.shape(1), 3});
    auto valid = make_array<bool>({depth.shape(0), depth.shape(1)});
    const Affine affine = to_affine(world_from_source);
    const View view = to_view(camera, camera_from_world);
    const float* in = depth.data();
    float* out = projected.mutable_data();
    auto* mask = reinterpret_cast<std::uint8_t*>(valid.mutable_data());
    const std::size_t rows = extent(depth, 0), columns = extent(depth, 1);
    {
        const py::gil_scoped_release release;
        mosaicmem::reproject_grid(in, rows, columns, stride, to_intrinsics(source_k), affine, view,
                                  out, mask, num_threads);
    }
    return py::make_tuple(projected, valid);
}

// A voxel map that several Python threads may use: adding and reading take turns.
class BoundVoxelMap {
  public:
    explicit BoundVoxelMap(double voxel_size) : map_(voxel_size) {}
    explicit BoundVoxelMap(VoxelMap map) : map_(std::move(map)) {}

    py::object fork() const {
        std::unique_ptr<BoundVoxelMap> copy;
        {
            const py::gil_scoped_release release;
            const std::lock_guard lock(mutex_);
            copy = std::make_unique<BoundVoxelMap>(map_);
        }
        return to_python(std::move(copy));
    }

    py::dict add(const Array<float>& depth, const std::optional<Array<std::uint8_t>>& color,
                 const std::array<double, 4>& k, const Array<double>& world_from_camera,
                 double timestamp, int num_threads) {
        const RgbdFrame frame{depth.data(),     data_or_null(color), extent(depth, 0),
                              extent(depth, 1), to_intrinsics(k),    to_affine(world_from_camera),
                              timestamp};
        FusionCounts counts;
        {
            const py::gil_scoped_release release;
            const std::lock_guard lock(mutex_);
            counts = map_.add(frame, num_threads);
        }
        py::dict result;
        result["points"] = counts.points;
        result["out_of_range"] = counts.out_of_range;
        result["new_voxels"] = counts.new_voxels;
        return result;
    }

    py::dict export_means(std::size_t min_count) const {
        std::vector<float> points, normals;
        std::vector<std::uint8_t> colors;
        std::vector<std::int64_t> counts;
        std::vector<double> times;
        {
            const py::gil_scoped_release release;
            const std::lock_guard lock(mutex_);
            for (const Voxel* voxel : map_.sorted_voxels(min_count)) {
                const double count = static_cast<double>(voxel->count);
                const double* n = voxel->normal;
                const double length = std::sqrt(n[0] * n[0] + n[1] * n[1] + n[2] * n[2]);
                for (std::size_t axis = 0; axis < 3; ++axis) {
                    points.push_back(static_cast<float>(voxel->position[axis] / count));
                    colors.push_back(static_cast<std::uint8_t>(voxel->color[axis] / count + 0.5));
                    normals.push_back(length > 0 ? static_cast<float>(n[axis] / length) : 0.0f);
                }
                counts.push_back(static_cast<std::int64_t>(voxel->count));
                times.push_back(voxel->first_time);
                times.push_back(voxel->last_time);
            }
        }
        const auto n = static_cast<py::ssize_t>(counts.size());
        py::dict result;
        result["points"] = take_vector(std::move(points), {n, 3});
        result["colors"] = take_vector(std::move(colors), {n, 3});
        result["normals"] = take_vector(std::move(normals), {n, 3});
        result["counts"] = take_vector(std::move(counts), {n});
        result["times"] = take_vector(std::move(times), {n, 2});
        return result;
    }

    std::size_t size() const {
        const py::gil_scoped_release release;
        const std::lock_guard lock(mutex_);
        return map_.size();
    }

    std::size_t nbytes() const {
        const py::gil_scoped_release release;
        const std::lock_guard lock(mutex_);
        return map_.nbytes();
    }

  private:
    VoxelMap map_;
    mutable ForkSafeMutex mutex_;
};

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

    py::class_<BoundVoxelMap> map(m, "VoxelMap", checked_new());
    def_init(map, &make_new<BoundVoxelMap, double>, py::arg("voxel_size"));
    map.def("add", &BoundVoxelMap::add, py::arg("depth").noconvert(), py::arg("color").noconvert(),
            py::arg("intrinsics"), py::arg("world_from_camera"), py::arg("timestamp"),
            py::arg("num_threads") = 0)
        .def("fork", &BoundVoxelMap::fork)
        .def("export", &BoundVoxelMap::export_means, py::arg("min_count"))
        .def("__len__", &BoundVoxelMap::size)
        .def_property_readonly("nbytes", &BoundVoxelMap::nbytes);
}

}  // namespace mosaicmem::bindings
