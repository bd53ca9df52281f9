#include <cmath>
#include <mutex>

#include "cpp/base/fork_safe_mutex.hpp"
#include "cpp/bindings/arrays.hpp"
#include "cpp/geometry/depth_grid.hpp"
#include "cpp/geometry/extend_depth.hpp"
#include "cpp/geometry/reproject.hpp"
#include "cpp/geometry/unproject.hpp"
#include "cpp/geometry/voxel_map.hpp"

namespace mosaicmem::bindings {
namespace {

// depth (N * H, W): images of one size, with world_from_camera (N, 4, 4).
void unproject_dense(const Array<float>& depth, const std::pair<std::size_t, std::size_t>& size,
                     const std::array<double, 4>& k, const Array<double>& world_from_camera,
                     Out<float> points, Out<bool> valid, int num_threads) {
    const std::vector<Affine> affines = to_affines(world_from_camera);
    const float* in = depth.data();
    float* out = points.mutable_data();
    auto* mask = reinterpret_cast<std::uint8_t*>(valid.mutable_data());
    const py::gil_scoped_release release;
    for (std::size_t i = 0; i < affines.size(); ++i) {
        const std::size_t first = i * size.first * size.second;
        mosaicmem::unproject_dense(in + first, size.first, size.second, to_intrinsics(k),
                                   affines[i], out + 3 * first, mask + first, num_threads);
    }
}

// Fills offsets (H + 1) with the number of valid pixels in the rows before each; returns the total.
std::size_t count_valid(const Array<float>& depth, Out<std::int64_t> offsets, int num_threads) {
    const std::size_t height = extent(depth, 0), width = extent(depth, 1);
    const float* in = depth.data();
    std::int64_t* out = offsets.mutable_data();
    const py::gil_scoped_release release;
    std::vector<std::size_t> counts(height);
    mosaicmem::count_valid(in, height, width, counts.data(), num_threads);
    std::size_t total = 0;
    for (std::size_t row = 0; row < height; ++row) {
        out[row] = static_cast<std::int64_t>(total);
        total += counts[row];
    }
    out[height] = static_cast<std::int64_t>(total);
    return total;
}

void unproject_valid(const Array<float>& depth, const std::array<double, 4>& k,
                     const Array<double>& world_from_camera, const Array<std::int64_t>& offsets,
                     Out<float> points, Out<std::int64_t> pixels, int num_threads) {
    const Affine affine = to_affine(world_from_camera);
    const std::size_t height = extent(depth, 0), width = extent(depth, 1);
    const float* in = depth.data();
    const auto* first = reinterpret_cast<const std::size_t*>(offsets.data());
    float* out = points.mutable_data();
    std::int64_t* out_pixels = pixels.mutable_data();
    const py::gil_scoped_release release;
    mosaicmem::unproject_valid(in, height, width, to_intrinsics(k), affine, first, out, out_pixels,
                               num_threads);
}

void extend_depth(const Array<float>& depth, std::size_t reach, Out<float> out, int num_threads) {
    const std::size_t rows = extent(depth, 0), columns = extent(depth, 1);
    const float* in = depth.data();
    float* to = out.mutable_data();
    const py::gil_scoped_release release;
    mosaicmem::extend_depth(in, rows, columns, reach, to, num_threads);
}

void median_depth_grid(const Array<float>& depth, std::size_t stride, std::size_t min_valid,
                       Out<float> grid, int num_threads) {
    const std::size_t height = extent(depth, 0), width = extent(depth, 1);
    const float* in = depth.data();
    float* out = grid.mutable_data();
    const py::gil_scoped_release release;
    mosaicmem::median_depth_grid(in, height, width, stride, min_valid, out, num_threads);
}

void reproject_grid(const Array<float>& depth, double stride, const std::array<double, 4>& source_k,
                    const Array<double>& world_from_source, const std::array<double, 8>& camera,
                    const Array<double>& camera_from_world, Out<float> projected, Out<bool> valid,
                    int num_threads) {
    const Affine affine = to_affine(world_from_source);
    const View view = to_view(camera, camera_from_world);
    const float* in = depth.data();
    float* out = projected.mutable_data();
    auto* mask = reinterpret_cast<std::uint8_t*>(valid.mutable_data());
    const std::size_t rows = extent(depth, 0), columns = extent(depth, 1);
    const py::gil_scoped_release release;
    mosaicmem::reproject_grid(in, rows, columns, stride, to_intrinsics(source_k), affine, view, out,
                              mask, num_threads);
}

// A thread-safe voxel map: adding and reading take turns.
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

    // counts (3): points fused, points out of range, new voxels.
    void add(const Array<float>& depth, const std::optional<Array<std::uint8_t>>& color,
             const std::array<double, 4>& k, const Array<double>& world_from_camera,
             double timestamp, Out<std::int64_t> counts, int num_threads) {
        const RgbdFrame frame{depth.data(),     data_or_null(color), extent(depth, 0),
                              extent(depth, 1), to_intrinsics(k),    to_affine(world_from_camera),
                              timestamp};
        std::int64_t* const out = counts.mutable_data();
        const py::gil_scoped_release release;
        const std::lock_guard lock(mutex_);
        write(map_.add(frame, num_threads), out);
    }

    // counts as of add().
    void add_points(const Array<float>& points, const std::optional<Array<std::uint8_t>>& color,
                    const std::optional<Array<float>>& normals, double timestamp,
                    Out<std::int64_t> counts, int num_threads) {
        const ColoredPoints cloud{points.data(), data_or_null(color), data_or_null(normals),
                                  extent(points, 0), timestamp};
        std::int64_t* const out = counts.mutable_data();
        const py::gil_scoped_release release;
        const std::lock_guard lock(mutex_);
        write(map_.add(cloud, num_threads), out);
    }

    py::dict export_means(std::size_t min_count, int /*num_threads*/) const {
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

    std::size_t size(int /*num_threads*/) const {
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
    static void write(const FusionCounts& fused, std::int64_t* out) {
        out[0] = static_cast<std::int64_t>(fused.points);
        out[1] = static_cast<std::int64_t>(fused.out_of_range);
        out[2] = static_cast<std::int64_t>(fused.new_voxels);
    }

    VoxelMap map_;
    mutable ForkSafeMutex mutex_;
};

}  // namespace

void bind_geometry(py::module_& m) {
    m.def("unproject_dense", &unproject_dense, py::arg("depth").noconvert(), py::arg("size"),
          py::arg("intrinsics"), py::arg("world_from_camera").noconvert(),
          py::arg("points").noconvert(), py::arg("valid").noconvert(), py::arg("num_threads"));
    m.def("count_valid", &count_valid, py::arg("depth").noconvert(), py::arg("offsets").noconvert(),
          py::arg("num_threads"));
    m.def("unproject_valid", &unproject_valid, py::arg("depth").noconvert(), py::arg("intrinsics"),
          py::arg("world_from_camera").noconvert(), py::arg("offsets").noconvert(),
          py::arg("points").noconvert(), py::arg("pixels").noconvert(), py::arg("num_threads"));
    m.def("median_depth_grid", &median_depth_grid, py::arg("depth").noconvert(), py::arg("stride"),
          py::arg("min_valid"), py::arg("grid").noconvert(), py::arg("num_threads"));
    m.def("extend_depth", &extend_depth, py::arg("depth").noconvert(), py::arg("reach"),
          py::arg("out").noconvert(), py::arg("num_threads"));
    m.def("reproject_grid", &reproject_grid, py::arg("depth").noconvert(), py::arg("stride"),
          py::arg("source_intrinsics"), py::arg("world_from_source").noconvert(), py::arg("camera"),
          py::arg("camera_from_world").noconvert(), py::arg("projected").noconvert(),
          py::arg("valid").noconvert(), py::arg("num_threads"));

    py::class_<BoundVoxelMap> map(m, "VoxelMap", checked_new());
    def_init(map, &make_new<BoundVoxelMap, double>, py::arg("voxel_size"));
    map.def("add", &BoundVoxelMap::add, py::arg("depth").noconvert(), py::arg("color").noconvert(),
            py::arg("intrinsics"), py::arg("world_from_camera"), py::arg("timestamp"),
            py::arg("counts").noconvert(), py::arg("num_threads"))
        .def("add_points", &BoundVoxelMap::add_points, py::arg("points").noconvert(),
             py::arg("color").noconvert(), py::arg("normals").noconvert(), py::arg("timestamp"),
             py::arg("counts").noconvert(), py::arg("num_threads"))
        .def("fork", &BoundVoxelMap::fork)
        .def("export", &BoundVoxelMap::export_means, py::arg("min_count"), py::arg("num_threads"))
        .def("size", &BoundVoxelMap::size, py::arg("num_threads"))
        .def_property_readonly("nbytes", &BoundVoxelMap::nbytes);
}

}  // namespace mosaicmem::bindings
