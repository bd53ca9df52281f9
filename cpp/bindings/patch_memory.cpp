#include "cpp/published/patch_memory.hpp"

#include "cpp/base/fork_safe_mutex.hpp"
#include "cpp/bindings/arrays.hpp"

namespace mosaicmem::bindings {
namespace {

// Queries may run at once with queries; an append waits for them and runs alone.
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
            const Array<double>& k_inverse_double, const Array<float>& depth) {
    const PatchMemory::Frames frames{
        extent(depth, 0),        latents.data(), camera_from_world.data(), k_inverse.data(),
        k_inverse_double.data(), depth.data(),   extent(depth, 1),         extent(depth, 2)};
    const py::gil_scoped_release release;
    const std::unique_lock lock(memory.mutex);
    memory.core.append(frames);
}

// ids (groups, picks) of select(memory), run without the GIL.
template <class Select>
Array<std::int64_t> picks_of(const BoundPatchMemory& memory, const Select& select) {
    std::vector<PatchMemory::Picks> picks;
    {
        const py::gil_scoped_release release;
        const std::shared_lock lock(memory.mutex);
        picks = select(memory.core);
    }
    auto ids = make_array<std::int64_t>(
        {static_cast<py::ssize_t>(picks.size()), static_cast<py::ssize_t>(PatchMemory::kPicks)});
    std::memcpy(ids.mutable_data(), picks.data(), picks.size() * sizeof(PatchMemory::Picks));
    return ids;
}

Array<std::int64_t> select_pose_nearest(const BoundPatchMemory& memory,
                                        const Array<double>& camera_from_world) {
    const std::size_t groups = extent(camera_from_world, 0);
    const double* poses = camera_from_world.data();
    return picks_of(
        memory, [&](const PatchMemory& core) { return core.select_pose_nearest(poses, groups); });
}

Array<std::int64_t> select_coverage(const BoundPatchMemory& memory,
                                    const Array<double>& camera_from_world, const Array<double>& k,
                                    int num_threads) {
    const std::size_t groups = extent(camera_from_world, 0);
    const double *poses = camera_from_world.data(), *cameras = k.data();
    return picks_of(memory, [&](const PatchMemory& core) {
        return core.select_coverage(poses, cameras, groups, num_threads);
    });
}

py::tuple fuse(const BoundPatchMemory& memory, const Array<float>& camera_from_world,
               const Array<float>& k, const Array<std::int64_t>& candidates, PatchMemory::Keep keep,
               int num_threads) {
    const auto groups = camera_from_world.shape(0);
    const auto rows = static_cast<py::ssize_t>(memory.core.rows()),
               columns = static_cast<py::ssize_t>(memory.core.columns());
    auto latents = make_array<float>(
        {static_cast<py::ssize_t>(memory.core.channels()), groups, rows, columns});
    auto valid = make_array<bool>({groups, rows, columns});
    const float *poses = camera_from_world.data(), *cameras = k.data();
    const std::span<const std::int64_t> ids(candidates.data(),
                                            static_cast<std::size_t>(candidates.size()));
    float* out = latents.mutable_data();
    auto* is_valid = reinterpret_cast<std::uint8_t*>(valid.mutable_data());
    {
        const py::gil_scoped_release release;
        const std::shared_lock lock(memory.mutex);
        memory.core.fuse(poses, cameras, static_cast<std::size_t>(groups), ids, keep, out, is_valid,
                         num_threads);
    }
    return py::make_tuple(latents, valid);
}

}  // namespace

void bind_patch_memory(py::module_& m) {
    py::enum_<PatchMemory::Keep>(m, "Keep")
        .value("nearest", PatchMemory::Keep::nearest)
        .value("farthest", PatchMemory::Keep::farthest);
    py::class_<BoundPatchMemory> memory(m, "PatchMemory", checked_new());
    def_init(memory, &make_new<BoundPatchMemory, std::size_t, std::size_t, std::size_t>,
             py::arg("channels"), py::arg("rows"), py::arg("columns"));
    memory.def("fork", &fork)
        .def("append", &append, py::arg("latents").noconvert(),
             py::arg("camera_from_world").noconvert(), py::arg("k_inverse").noconvert(),
             py::arg("k_inverse_double").noconvert(), py::arg("depth").noconvert())
        .def("select_pose_nearest", &select_pose_nearest, py::arg("camera_from_world").noconvert())
        .def("select_coverage", &select_coverage, py::arg("camera_from_world").noconvert(),
             py::arg("k").noconvert(), py::arg("num_threads") = 0)
        .def("fuse", &fuse, py::arg("camera_from_world").noconvert(), py::arg("k").noconvert(),
             py::arg("candidates").noconvert(), py::arg("keep"), py::arg("num_threads") = 0)
        .def("__len__", &BoundPatchMemory::size);
}

}  // namespace mosaicmem::bindings
