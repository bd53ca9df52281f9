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
    m.def(
        "copy_bytes",
        [](const DeviceArray& from, const DeviceArray& to, std::size_t offset, std::size_t n,
           const cuda::Stream& stream) {
            cuda::copy_bytes(from.as<void>(), to.as<char>() + offset, n, stream);
        },
        py::arg("source"), py::arg("target"), py::arg("offset"), py::arg("n"), py::arg("stream"));
    bind_cuda_attention(m);
    bind_cuda_geometry(m);
    bind_cuda_keyframes(m);
    bind_cuda_latents(m);
    bind_cuda_mirror(m);
    bind_cuda_patch_memory(m);
    bind_cuda_positions(m);
    bind_cuda_retrieval(m);
    bind_cuda_voxel_map(m);
}

}  // namespace mosaicmem::bindings
