#include "patch_memory.hpp"

#include "arrays.hpp"

namespace mosaicmem::bindings {
namespace {

void append(PatchMemory& memory, const Array<float>& latents, const Array<float>& camera_from_world,
            const Array<float>& k_inverse, const Array<double>& k_inverse_double,
            const Array<float>& depth) {
    memory.append({extent(depth, 0), latents.data(), camera_from_world.data(), k_inverse.data(),
                   k_inverse_double.data(), depth.data(), extent(depth, 1), extent(depth, 2)});
}

Array<std::int64_t> to_array(const std::vector<PatchMemory::Picks>& picks) {
    auto ids = make_array<std::int64_t>(
        {static_cast<py::ssize_t>(picks.size()), static_cast<py::ssize_t>(PatchMemory::kPicks)});
    std::memcpy(ids.mutable_data(), picks.data(), picks.size() * sizeof(PatchMemory::Picks));
    return ids;
}

Array<std::int64_t> select_pose_nearest(const PatchMemory& memory,
                                        const Array<double>& camera_from_world) {
    return to_array(
        memory.select_pose_nearest(camera_from_world.data(), extent(camera_from_world, 0)));
}

Array<std::int64_t> select_coverage(const PatchMemory& memory,
                                    const Array<double>& camera_from_world, const Array<double>& k,
                                    int num_threads) {
    return to_array(memory.select_coverage(camera_from_world.data(), k.data(),
                                           extent(camera_from_world, 0), num_threads));
}

py::tuple fuse(const PatchMemory& memory, const Array<float>& camera_from_world,
               const Array<float>& k, const Array<std::int64_t>& candidates, PatchMemory::Keep keep,
               int num_threads) {
    const auto groups = camera_from_world.shape(0);
    const auto rows = static_cast<py::ssize_t>(memory.rows()),
               columns = static_cast<py::ssize_t>(memory.columns());
    auto latents =
        make_array<float>({static_cast<py::ssize_t>(memory.channels()), groups, rows, columns});
    auto valid = make_array<bool>({groups, rows, columns});
    memory.fuse(camera_from_world.data(), k.data(), static_cast<std::size_t>(groups),
                {candidates.data(), static_cast<std::size_t>(candidates.size())}, keep,
                latents.mutable_data(), reinterpret_cast<std::uint8_t*>(valid.mutable_data()),
                num_threads);
    return py::make_tuple(latents, valid);
}

}  // namespace

// The GIL is held: an append may move what a query of another thread reads.
void bind_patch_memory(py::module_& m) {
    py::enum_<PatchMemory::Keep>(m, "Keep")
        .value("nearest", PatchMemory::Keep::nearest)
        .value("farthest", PatchMemory::Keep::farthest);
    py::class_<PatchMemory>(m, "PatchMemory")
        .def(py::init<std::size_t, std::size_t, std::size_t>(), py::arg("channels"),
             py::arg("rows"), py::arg("columns"))
        .def("append", &append, py::arg("latents").noconvert(),
             py::arg("camera_from_world").noconvert(), py::arg("k_inverse").noconvert(),
             py::arg("k_inverse_double").noconvert(), py::arg("depth").noconvert())
        .def("select_pose_nearest", &select_pose_nearest, py::arg("camera_from_world").noconvert())
        .def("select_coverage", &select_coverage, py::arg("camera_from_world").noconvert(),
             py::arg("k").noconvert(), py::arg("num_threads") = 0)
        .def("fuse", &fuse, py::arg("camera_from_world").noconvert(), py::arg("k").noconvert(),
             py::arg("candidates").noconvert(), py::arg("keep"), py::arg("num_threads") = 0)
        .def("__len__", &PatchMemory::size);
}

}  // namespace mosaicmem::bindings
