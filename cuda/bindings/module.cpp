#include "cuda/base/pinned.hpp"
#include "cuda/bindings/device_array.hpp"

namespace mosaicmem::bindings {

void bind_cuda(py::module_& core) {
    py::module_ m = core.def_submodule("cuda", "The kernels for arrays in device memory.");
    py::register_exception<cuda::CudaError>(m, "CudaError", PyExc_RuntimeError);
    py::class_<DeviceArray> array(m, "DeviceArray", checked_new());
    def_init(array,
             &make_new<DeviceArray, std::uintptr_t, std::vector<std::size_t>,
                       std::vector<std::size_t>, std::string>,
             py::arg("address"), py::arg("shape"), py::arg("strides"), py::arg("dtype"));
    array.def_readonly("address", &DeviceArray::address)
        .def_readonly("shape", &DeviceArray::shape)
        .def_readonly("strides", &DeviceArray::strides)
        .def_readonly("dtype", &DeviceArray::dtype);
#ifdef MOSAICMEM_EMULATE_CUDA
    m.attr("is_emulated") = true;
    m.attr("compiler") = "none: emulated";
    m.attr("architectures") = "none: emulated";
#else
    m.attr("is_emulated") = false;
    m.attr("compiler") = MOSAICMEM_CUDA_COMPILER;
    m.attr("architectures") = MOSAICMEM_CUDA_ARCHITECTURES;
#endif
    m.def("device_count", &cuda::device_count);
    m.def("driver_version", &cuda::driver_version);
    m.def("synchronize", &cuda::synchronize, py::arg("stream"));
    m.def("order_streams", &cuda::order_streams, py::arg("earlier"), py::arg("later"));
    m.def(
        "store_bytes",
        [](const py::buffer& from, const DeviceArray& to, const cuda::Stream& stream) {
            const py::buffer_info info = from.request();
            cuda::store_bytes(info.ptr, to.as<void>(),
                              static_cast<std::size_t>(info.size * info.itemsize), stream);
        },
        py::arg("source"), py::arg("target"), py::arg("stream"));
    py::class_<cuda::Event> event(m, "Event", checked_new());
    def_init(event, &make_new<cuda::Event, const cuda::Stream&>, py::arg("stream"));
    event.def_property_readonly("has_passed", &cuda::Event::has_passed);
    bind_cuda_attention(m);
    bind_cuda_device_store(m);
    bind_cuda_geometry(m);
    bind_cuda_latents(m);
    bind_cuda_patch_memory(m);
    bind_cuda_positions(m);
    bind_cuda_voxel_map(m);
}

}  // namespace mosaicmem::bindings
