#include <algorithm>

#include "cpp/bindings/store.hpp"
#include "cpp/memory/regions.hpp"

namespace mosaicmem::bindings {
namespace {

using OptionalIds = std::optional<Array<PatchId>>;

StoreState::Ids to_ids(const OptionalIds& ids) {
    return ids ? StoreState::Ids(id_span(*ids)) : std::nullopt;
}

Array<PatchId> id_array(std::vector<PatchId>&& ids) {
    const auto n = static_cast<py::ssize_t>(ids.size());
    return take_vector(std::move(ids), {n});
}

std::size_t erase(BoundStore& store, const Array<PatchId>& ids) {
    const py::gil_scoped_release release;
    return store.core.erase(id_span(ids));
}

std::size_t erase_frame(BoundStore& store, std::int64_t frame_id) {
    const py::gil_scoped_release release;
    return store.core.erase_frame(frame_id);
}

std::size_t transform(BoundStore& store, const Array<double>& matrix, const OptionalIds& ids,
                      int num_threads) {
    const Affine edit = to_affine(matrix);
    const py::gil_scoped_release release;
    return store.core.edit(
        [&](StoreState& state) { return state.transform(edit, to_ids(ids), num_threads); });
}

// Allocates the result before the edit, after which nothing may fail. If another thread's write has
// changed the number of copies meanwhile, starts again.
Array<PatchId> duplicate(BoundStore& store, const Array<double>& matrix, const OptionalIds& ids,
                         int num_threads) {
    struct Outdated {};
    const Affine edit = to_affine(matrix);
    for (;;) {
        std::size_t count = 0;
        {
            const py::gil_scoped_release release;
            count = store.core.read(
                [&](const StoreState& state) { return state.count_alive(to_ids(ids)); });
        }
        Array<PatchId> answer(static_cast<py::ssize_t>(count));
        PatchId* const copies = answer.mutable_data();
        const py::gil_scoped_release release;
        try {
            store.core.edit([&](StoreState& state) {
                const std::vector<PatchId> ids_of_copies =
                    state.duplicate(edit, to_ids(ids), num_threads);
                if (ids_of_copies.size() != count) throw Outdated{};
                return std::copy(ids_of_copies.begin(), ids_of_copies.end(), copies);
            });
        } catch (const Outdated&) {
            continue;
        }
        return answer;
    }
}

PatchId splice(BoundStore& store, const BoundStore& other, const Array<double>& matrix,
               int num_threads) {
    const Affine edit = to_affine(matrix);
    const py::gil_scoped_release release;
    const StoreState theirs = other.core.state();
    return store.core.edit(
        [&](StoreState& state) { return state.splice(theirs, edit, num_threads); });
}

// half_spaces (n, 4): normal and offset.
Array<PatchId> inside(const BoundStore& store, const Array<double>& half_spaces, int num_threads) {
    std::vector<std::array<double, 4>> planes(extent(half_spaces, 0));
    std::memcpy(planes.data(), half_spaces.data(), planes.size() * sizeof planes[0]);
    std::vector<PatchId> ids;
    {
        const py::gil_scoped_release release;
        ids = store.core.read(
            [&](const StoreState& state) { return mosaicmem::inside(state, planes, num_threads); });
    }
    return id_array(std::move(ids));
}

Array<PatchId> inside_sphere(const BoundStore& store, const std::array<double, 3>& centre,
                             double radius, int num_threads) {
    std::vector<PatchId> ids;
    {
        const py::gil_scoped_release release;
        ids = store.core.read([&](const StoreState& state) {
            return mosaicmem::inside_sphere(state, {centre[0], centre[1], centre[2]}, radius,
                                            num_threads);
        });
    }
    return id_array(std::move(ids));
}

// (2, 3), or None for an empty store.
py::object bounds(const BoundStore& store, int num_threads) {
    std::array<Vec3, 2> corners;
    bool any;
    {
        const py::gil_scoped_release release;
        any = store.core.read([&](const StoreState& state) {
            return mosaicmem::bounds(state, corners, num_threads);
        });
    }
    if (!any) return py::none();
    auto array = make_array<double>({2, 3});
    std::memcpy(array.mutable_data(), corners.data(), sizeof corners);
    return array;
}

py::object fork(const BoundStore& store) {
    std::unique_ptr<BoundStore> copy;
    {
        const py::gil_scoped_release release;
        copy = std::make_unique<BoundStore>(store.core.state());
    }
    return to_python(std::move(copy));
}

void restore(BoundStore& store, const BoundStore& earlier) {
    const py::gil_scoped_release release;
    store.core.restore(earlier.core.state());
}

}  // namespace

void bind_store_edits(BoundStoreClass& store) {
    store.def("erase", &erase, py::arg("ids").noconvert())
        .def("erase_frame", &erase_frame, py::arg("frame_id"))
        .def("transform", &transform, py::arg("matrix").noconvert(), py::arg("ids").noconvert(),
             py::arg("num_threads") = 0)
        .def("duplicate", &duplicate, py::arg("matrix").noconvert(), py::arg("ids").noconvert(),
             py::arg("num_threads") = 0)
        .def("splice", &splice, py::arg("other"), py::arg("matrix").noconvert(),
             py::arg("num_threads") = 0)
        .def("inside", &inside, py::arg("half_spaces").noconvert(), py::arg("num_threads") = 0)
        .def("inside_sphere", &inside_sphere, py::arg("centre"), py::arg("radius"),
             py::arg("num_threads") = 0)
        .def("bounds", &bounds, py::arg("num_threads") = 0)
        .def("fork", &fork)
        .def("restore", &restore, py::arg("earlier"));
}

}  // namespace mosaicmem::bindings
