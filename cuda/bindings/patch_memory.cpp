#include "cuda/published/patch_memory.hpp"

#include "cuda/bindings/device_array.hpp"

namespace mosaicmem::bindings {
namespace {

// latents, depth, coverage, camera_from_world, k_inverse: what memory holds.
using Frames = std::array<DeviceArray, 5>;

cuda::PatchFrames to_frames(const Frames& frames) {
    return {frames[0].as<float>(), frames[1].as<float>(), frames[2].as<double>(),
            frames[3].as<float>(), frames[4].as<float>()};
}

cuda::PatchMemorySize size_of(const Frames& frames) {
    return {frames[0].extent(1), static_cast<std::int32_t>(frames[0].extent(2)),
            static_cast<std::int32_t>(frames[0].extent(3))};
}

void append(const Frames& frames, const DeviceArray& latents, const DeviceArray& depth,
            const DeviceArray& k_inverse_double, std::size_t first, const Execution& execution) {
    cuda::append_patch_frames(size_of(frames), latents.as<float>(), depth.as<float>(),
                              depth.extent(1), depth.extent(2), k_inverse_double.as<double>(),
                              first, depth.extent(0), to_frames(frames), execution);
}

void select_pose_nearest(const Frames& frames, std::size_t count,
                         const DeviceArray& camera_from_world, const DeviceArray& keys,
                         const DeviceArray& picks, const Execution& execution) {
    cuda::select_pose_nearest(to_frames(frames), count, camera_from_world.as<double>(),
                              camera_from_world.extent(0), keys.as<double>(),
                              picks.as<std::int64_t>(), execution);
}

void select_coverage(const Frames& frames, std::size_t count, const DeviceArray& projection,
                     const DeviceArray& masks, const DeviceArray& picks,
                     const Execution& execution) {
    cuda::select_coverage(size_of(frames), to_frames(frames), count, projection.as<double>(),
                          projection.extent(0), masks.as<unsigned long long>(),
                          picks.as<std::int64_t>(), execution);
}

// front, best and kept are scratch.
void fuse(const Frames& frames, std::size_t count, const DeviceArray& camera_from_world,
          const DeviceArray& k, const DeviceArray& candidates, bool keep_nearest,
          const DeviceArray& front, const DeviceArray& best, const DeviceArray& kept,
          const DeviceArray& latents, const DeviceArray& valid, const Execution& execution) {
    cuda::fuse_patches(size_of(frames), to_frames(frames), count, camera_from_world.as<float>(),
                       k.as<float>(), candidates.extent(0), candidates.as<std::int64_t>(),
                       candidates.extent(1), keep_nearest, front.as<unsigned long long>(),
                       best.as<float>(), kept.as<std::int64_t>(), latents.as<float>(),
                       valid.as<std::uint8_t>(), execution);
}

}  // namespace

void bind_cuda_patch_memory(py::module_& m) {
    m.def("patch_memory_append", &append, py::arg("frames"), py::arg("latents"), py::arg("depth"),
          py::arg("k_inverse_double"), py::arg("first"), py::arg("execution"));
    m.def("patch_memory_pose_nearest", &select_pose_nearest, py::arg("frames"), py::arg("count"),
          py::arg("camera_from_world"), py::arg("keys"), py::arg("picks"), py::arg("execution"));
    m.def("patch_memory_coverage", &select_coverage, py::arg("frames"), py::arg("count"),
          py::arg("projection"), py::arg("masks"), py::arg("picks"), py::arg("execution"));
    m.def("patch_memory_fuse", &fuse, py::arg("frames"), py::arg("count"),
          py::arg("camera_from_world"), py::arg("k"), py::arg("candidates"),
          py::arg("keep_nearest"), py::arg("front"), py::arg("best"), py::arg("kept"),
          py::arg("latents"), py::arg("valid"), py::arg("execution"));
}

}  // namespace mosaicmem::bindings
