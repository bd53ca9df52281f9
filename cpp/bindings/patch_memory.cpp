#include "cpp/published/patch_memory.hpp"

#include "cpp/base/fork_safe_mutex.hpp"
#include "cpp/bindings/arrays.hpp"

namespace mosaicmem::bindings {
namespace {

// Queries run concurrently; an append waits for them and runs alone.
struct BoundPatchMemory {
    PatchMemory core;
    mutable ForkSafeMutex mutex;

    BoundPatchMemory(std::size_t channels, std::size_t rows, std::size_t columns)
        : core(channels, rows, columns) {}
    explicit BoundPatchMemory(PatchMemory memory) : core(std::move(memory)) {}

    std::size_t size() const {
        const py::gil_scoped_release release;
        const std::shared_lock lock(mutex);
        return core.size();
    }
};

py::object fork(const BoundPatchMemory& memory) {
    std::unique_ptr<BoundPatchMemory> copy;
    {
        const py::gil_scoped_release release;
        const std::shared_lock lock(memory.mutex);
        copy = std::make_unique<BoundPatchMemory>(memory.core);
    }
    return to_python(std::move(copy));
}

void append(BoundPatchMemory& memory, const Array<float>& latents,
            const Array<float>& camera_from_world, const Array<float>& k_inverse,
            const Array<double>& k_inverse_double, const Array<float>& depth, int /*num_threads*/) {
    const PatchMemory::Frames frames{
        extent(depth, 0),        latents.data(), camera_from_world.data(), k_inverse.data(),
        k_inverse_double.data(), depth.data(),   extent(depth, 1),         extent(depth, 2)};
    const py::gil_scoped_release release;
    const std::unique_lock lock(memory.mutex);
    memory.core.append(frames);
}

// Runs select(memory) without the GIL, and writes its picks to ids (groups, picks).
template <class Select>
void write_picks(const BoundPatchMemory& memory, const Select& select, Out<std::int64_t>& ids) {
    std::int64_t* const out = ids.mutable_data();
    const py::gil_scoped_release release;
    const std::shared_lock lock(memory.mutex);
    const std::vector<PatchMemory::Picks> picks = select(memory.core);
    std::memcpy(out, picks.data(), picks.size() * sizeof(PatchMemory::Picks));
}

void select_pose_nearest(const BoundPatchMemory& memory, const Array<double>& camera_from_world,
                         Out<std::int64_t> picks, int /*num_threads*/) {
    const std::size_t groups = extent(camera_from_world, 0);
    const double* poses = camera_from_world.data();
    write_picks(
        memory, [&](const PatchMemory& core) { return core.select_pose_nearest(poses, groups); },
        picks);
}

void select_coverage(const BoundPatchMemory& memory, const Array<double>& camera_from_world,
                     const Array<double>& k, Out<std::int64_t> picks, int num_threads) {
    const std::size_t groups = extent(camera_from_world, 0);
    const double *poses = camera_from_world.data(), *cameras = k.data();
    write_picks(
        memory,
        [&](const PatchMemory& core) {
            return core.select_coverage(poses, cameras, groups, num_threads);
        },
        picks);
}

void fuse(const BoundPatchMemory& memory, const Array<float>& camera_from_world,
          const Array<float>& k, const Array<std::int64_t>& candidates, bool keep_nearest,
          Out<float> latents, Out<bool> valid, int num_threads) {
    const std::size_t groups = extent(camera_from_world, 0);
    const float *poses = camera_from_world.data(), *cameras = k.data();
    const std::span<const std::int64_t> ids(candidates.data(),
                                            static_cast<std::size_t>(candidates.size()));
    float* out = latents.mutable_data();
    auto* is_valid = reinterpret_cast<std::uint8_t*>(valid.mutable_data());
    const auto keep = keep_nearest ? PatchMemory::Keep::nearest : PatchMemory::Keep::farthest;
    const py::gil_scoped_release release;
    const std::shared_lock lock(memory.mutex);
    memory.core.fuse(poses, cameras, groups, ids, keep, out, is_valid, num_threads);
}

}  // namespace

void bind_patch_memory(py::module_& m) {
    py::class_<BoundPatchMemory> memory(m, "PatchMemory", checked_new());
    def_init(memory, &make_new<BoundPatchMemory, std::size_t, std::size_t, std::size_t>,
             py::arg("channels"), py::arg("rows"), py::arg("columns"));
    memory.def("fork", &fork)
        .def("append", &append, py::arg("latents").noconvert(),
             py::arg("camera_from_world").noconvert(), py::arg("k_inverse").noconvert(),
             py::arg("k_inverse_double").noconvert(), py::arg("depth").noconvert(),
             py::arg("num_threads"))
        .def("select_pose_nearest", &select_pose_nearest, py::arg("camera_from_world").noconvert(),
             py::arg("picks").noconvert(), py::arg("num_threads"))
        .def("select_coverage", &select_coverage, py::arg("camera_from_world").noconvert(),
             py::arg("k").noconvert(), py::arg("picks").noconvert(), py::arg("num_threads"))
        .def("fuse", &fuse, py::arg("camera_from_world").noconvert(), py::arg("k").noconvert(),
             py::arg("candidates").noconvert(), py::arg("keep_nearest"),
             py::arg("latents").noconvert(), py::arg("valid").noconvert(), py::arg("num_threads"))
        .def("__len__", &BoundPatchMemory::size);
}

}  // namespace mosaicmem::bindings
