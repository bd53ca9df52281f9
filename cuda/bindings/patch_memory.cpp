#include "cuda/published/patch_memory.hpp"

#include <variant>

#include "cuda/base/device_memory.hpp"
#include "cuda/bindings/device_array.hpp"

namespace mosaicmem::bindings {
namespace {

// `PatchMemory` on the GPU: frames in device memory, with room that doubles as they grow. Matrices
// come from the host with each call. Python's lock serialises calls.
class DevicePatchMemory {
  public:
    DevicePatchMemory(std::size_t channels, std::size_t rows, std::size_t columns)
        : size_{channels, static_cast<std::int32_t>(rows), static_cast<std::int32_t>(columns)} {
        const std::size_t cells = rows * columns;
        const std::size_t coarse =
            (rows / cuda::kPatchDownsample) * (columns / cuda::kPatchDownsample);
        frame_bytes_ = {channels * cells * sizeof(float), cells * sizeof(float),
                        3 * coarse * sizeof(double), 16 * sizeof(float), 9 * sizeof(float)};
    }

    std::size_t size() const { return count_; }

    void append(const DeviceArray& latents, const Array<float>& camera_from_world,
                const Array<float>& k_inverse, const Array<double>& k_inverse_double,
                const DeviceArray& depth, const Execution& execution) {
        order_.follow(execution);
        const std::size_t frames = depth.extent(0);
        make_room(count_ + frames, execution);
        store(camera_from_world, kPoses, execution);
        store(k_inverse, kInverses, execution);
        cuda::append_patch_frames(size_, latents.as<float>(), depth.as<float>(), depth.extent(1),
                                  depth.extent(2), on_device(k_inverse_double, execution), count_,
                                  frames, held(), execution);
        count_ += frames;
    }

    void select_pose_nearest(const Array<double>& camera_from_world, const DeviceArray& picks,
                             const Execution& execution) {
        order_.follow(execution);
        const std::size_t groups = extent(camera_from_world, 0);
        const double* const poses = on_device(camera_from_world, execution);
        void* const workspace =
            execution.scratch(cuda::select_pose_nearest_workspace_bytes(count_, groups));
        cuda::select_pose_nearest(held(), count_, poses, groups, picks.as<std::int64_t>(),
                                  workspace, execution);
    }

    void select_coverage(const Array<double>& camera_from_world, const Array<double>& k,
                         const DeviceArray& picks, const Execution& execution) {
        order_.follow(execution);
        const std::size_t groups = extent(camera_from_world, 0);
        Array<double> projection = make_array<double>({static_cast<py::ssize_t>(groups), 3, 4});
        for (std::size_t g = 0; g < groups; ++g) {  // in the summation order of the host
            for (std::size_t i = 0; i < 12; ++i) {
                double sum = 0;
                for (std::size_t j = 0; j < 3; ++j)
                    sum += k.data()[9 * g + 3 * (i / 4) + j] *
                           camera_from_world.data()[16 * g + 4 * j + i % 4];
                projection.mutable_data()[12 * g + i] = sum;
            }
        }
        const double* const projections = on_device(projection, execution);
        void* const workspace =
            execution.scratch(cuda::select_coverage_workspace_bytes(size_, count_, groups));
        cuda::select_coverage(size_, held(), count_, projections, groups, picks.as<std::int64_t>(),
                              workspace, execution);
    }

    // candidates (groups, each), on the GPU or the host; ids that do not exist count as none.
    void fuse(const Array<float>& camera_from_world, const Array<float>& k,
              const std::variant<DeviceArray, Array<std::int64_t>>& candidates, bool keep_nearest,
              const DeviceArray& latents, const DeviceArray& valid, const Execution& execution) {
        order_.follow(execution);
        const std::size_t groups = extent(camera_from_world, 0);
        const std::int64_t* ids;
        std::size_t each;
        if (const auto* there = std::get_if<DeviceArray>(&candidates)) {
            ids = there->as<std::int64_t>();
            each = there->extent(1);
        } else {
            const auto& given = std::get<Array<std::int64_t>>(candidates);
            ids = on_device(given, execution);
            each = extent(given, 1);
        }
        const float* const poses = on_device(camera_from_world, execution);
        const float* const cameras = on_device(k, execution);
        void* const workspace =
            execution.scratch(cuda::fuse_patches_workspace_bytes(size_, groups));
        cuda::fuse_patches(size_, held(), count_, poses, cameras, groups, ids, each, keep_nearest,
                           latents.as<float>(), valid.as<std::uint8_t>(), workspace, execution);
    }

  private:
    enum Part { kLatents, kDepth, kCoverage, kPoses, kInverses, kParts };

    cuda::PatchFrames held() const {
        return {memory_[kLatents].as<float>(), memory_[kDepth].as<float>(),
                memory_[kCoverage].as<double>(), memory_[kPoses].as<float>(),
                memory_[kInverses].as<float>()};
    }

    // Copies a small host array to the GPU, for one call.
    template <class T>
    static const T* on_device(const Array<T>& array, const Execution& execution) {
        const std::size_t bytes = static_cast<std::size_t>(array.nbytes());
        void* const there = execution.scratch(bytes);
        cuda::store_bytes(array.data(), there, bytes, execution);
        return static_cast<const T*>(there);
    }

    // Appends to the matrices of the frames so far.
    void store(const Array<float>& matrices, Part part, const Execution& execution) {
        cuda::store_bytes(matrices.data(), memory_[part].as<char>() + count_ * frame_bytes_[part],
                          static_cast<std::size_t>(matrices.nbytes()), execution);
    }

    void make_room(std::size_t count, const Execution& execution) {
        if (count <= room_) return;
        const std::size_t room = std::max(count, 2 * room_);
        std::array<cuda::DeviceMemory, kParts> grown;
        for (std::size_t part = 0; part < kParts; ++part) {
            grown[part] = cuda::DeviceMemory(execution, room * frame_bytes_[part]);
            cuda::copy_bytes(memory_[part].as<void>(), grown[part].as<void>(),
                             count_ * frame_bytes_[part], execution);
        }
        std::swap(memory_, grown);
        room_ = room;
        for (cuda::DeviceMemory& old : grown) old.release(execution);
    }

    cuda::PatchMemorySize size_;
    std::array<std::size_t, kParts> frame_bytes_;
    std::array<cuda::DeviceMemory, kParts> memory_;
    std::size_t room_ = 0, count_ = 0;
    cuda::StreamOrder order_;
};

}  // namespace

void bind_cuda_patch_memory(py::module_& m) {
    py::class_<DevicePatchMemory> memory(m, "PatchMemory", checked_new());
    def_init(memory, &make_new<DevicePatchMemory, std::size_t, std::size_t, std::size_t>,
             py::arg("channels"), py::arg("rows"), py::arg("columns"));
    memory
        .def("append", &DevicePatchMemory::append, py::arg("latents"),
             py::arg("camera_from_world").noconvert(), py::arg("k_inverse").noconvert(),
             py::arg("k_inverse_double").noconvert(), py::arg("depth"), py::arg("execution"))
        .def("select_pose_nearest", &DevicePatchMemory::select_pose_nearest,
             py::arg("camera_from_world").noconvert(), py::arg("picks"), py::arg("execution"))
        .def("select_coverage", &DevicePatchMemory::select_coverage,
             py::arg("camera_from_world").noconvert(), py::arg("k").noconvert(), py::arg("picks"),
             py::arg("execution"))
        .def("fuse", &DevicePatchMemory::fuse, py::arg("camera_from_world").noconvert(),
             py::arg("k").noconvert(), py::arg("candidates"), py::arg("keep_nearest"),
             py::arg("latents"), py::arg("valid"), py::arg("execution"))
        .def("__len__", &DevicePatchMemory::size);
}

}  // namespace mosaicmem::bindings
