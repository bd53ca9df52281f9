#include "cuda/bindings/mirror.hpp"

#include "cuda/base/pinned.hpp"

namespace mosaicmem::bindings {
namespace {

// A row of the table of observations. Addresses are those of arrays that the caller keeps alive.
py::bytes pack_observation(const py::dict& description, std::uintptr_t latents,
                           std::uintptr_t depth, std::uintptr_t confidence,
                           std::uint32_t first_chunk) {
    const auto grid = py::cast<py::array>(description["depth"]);
    const auto patch_size = py::cast<std::uint32_t>(description["patch_size"]);
    const auto rows = static_cast<std::uint32_t>(grid.shape(0)),
               columns = static_cast<std::uint32_t>(grid.shape(1));
    cuda::MirroredObservation row{};
    row.world_from_camera.m = py::cast<std::array<double, 12>>(description["world_from_camera"]);
    row.k = to_intrinsics(py::cast<std::array<double, 4>>(description["intrinsics"]));
    row.stride = py::cast<double>(description["stride"]);
    row.timestamp = py::cast<double>(description["timestamp"]);
    row.first_id = py::cast<std::uint64_t>(description["first_id"]);
    row.first_slot = py::cast<std::uint64_t>(description["first_slot"]);
    row.latents = reinterpret_cast<const void*>(latents);
    row.depth = reinterpret_cast<const float*>(depth);
    row.confidence = reinterpret_cast<const float*>(confidence);
    row.rows = rows;
    row.columns = columns;
    row.patch_size = patch_size;
    row.patch_columns = (columns + patch_size - 1) / patch_size;
    row.patch_count = (rows + patch_size - 1) / patch_size * row.patch_columns;
    row.first_chunk = first_chunk;
    row.provenance =
        py::cast<bool>(description["generated"]) ? Provenance::generated : Provenance::observed;
    return {reinterpret_cast<const char*>(&row), sizeof row};
}

}  // namespace

void bind_cuda_mirror(py::module_& m) {
    m.attr("chunk") = cuda::kChunk;
    m.attr("observation_bytes") = sizeof(cuda::MirroredObservation);
    m.attr("latents_offset") = offsetof(cuda::MirroredObservation, latents);
    m.def("pack_observation", &pack_observation, py::arg("description"), py::arg("latents"),
          py::arg("depth"), py::arg("confidence"), py::arg("first_chunk"));
    py::class_<MirrorTables> tables(m, "MirrorTables", checked_new());
    def_init(tables,
             &make_new<MirrorTables, DeviceArray, DeviceArray, DeviceArray, std::array<double, 3>,
                       std::size_t, LatentType>,
             py::arg("centres"), py::arg("chunk_row"), py::arg("observations"), py::arg("origin"),
             py::arg("channels"), py::arg("latent_type"));
    tables.def_readonly("channels", &MirrorTables::channels);

    py::class_<cuda::PinnedMemory> pinned(m, "PinnedMemory", py::buffer_protocol(), checked_new());
    def_init(pinned, &make_new<cuda::PinnedMemory, std::size_t>, py::arg("n"));
    pinned.def_buffer([](cuda::PinnedMemory& memory) {
        return py::buffer_info(memory.data(), static_cast<py::ssize_t>(memory.size()));
    });
    py::class_<cuda::SideStream> side(m, "SideStream", checked_new());
    def_init(side, &make_new<cuda::SideStream, int>, py::arg("device"));
    side.def_property_readonly("handle", [](const cuda::SideStream& self) {
        return std::pair(self.stream().device,
                         reinterpret_cast<std::uintptr_t>(self.stream().handle));
    });
    m.def("order_streams", &cuda::order_streams, py::arg("earlier"), py::arg("later"));
    m.def(
        "is_pinned", [](const py::array& array) { return cuda::is_pinned(array.data()); },
        py::arg("array"));
    py::class_<cuda::Event> moment(m, "Event", checked_new());
    def_init(moment, &make_new<cuda::Event, const cuda::Stream&>, py::arg("stream"));
    moment.def_property_readonly("has_passed", &cuda::Event::has_passed)
        .def("wait", &cuda::Event::wait, py::call_guard<py::gil_scoped_release>());
    // From pinned memory, which must stay as it is until the stream is past it.
    m.def(
        "upload",
        [](const py::buffer& from, const DeviceArray& to, std::size_t offset,
           const cuda::Stream& stream) {
            const py::buffer_info info = from.request();
            cuda::copy_from_host(info.ptr, to.as<char>() + offset,
                                 static_cast<std::size_t>(info.size * info.itemsize), stream);
        },
        py::arg("source"), py::arg("target"), py::arg("offset"), py::arg("stream"));
    m.def(
        "store_bytes",
        [](const py::buffer& from, const DeviceArray& to, std::size_t offset,
           const cuda::Stream& stream) {
            const py::buffer_info info = from.request();
            cuda::store_bytes(info.ptr, to.as<char>() + offset,
                              static_cast<std::size_t>(info.size * info.itemsize), stream);
        },
        py::arg("source"), py::arg("target"), py::arg("offset"), py::arg("stream"));
}

}  // namespace mosaicmem::bindings
