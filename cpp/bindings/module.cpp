#include "cpp/base/parallel.hpp"
#include "cpp/bindings/arrays.hpp"
#include "cpp/bindings/faults.hpp"
#include "cpp/simd/levels.hpp"

PYBIND11_MODULE(_core, m) {
    namespace bindings = mosaicmem::bindings;
    m.doc() =
        "The compiled core of mosaicmem. Arguments are validated by the Python modules that call "
        "it.";
    pybind11::register_local_exception_translator(&bindings::keep_memory_errors);
    mosaicmem::prepare_threads();
    mosaicmem::simd_level();
    bindings::bind_geometry(m);
    bindings::bind_memory(m);
    bindings::bind_point_index(m);
    bindings::bind_positions(m);
    bindings::bind_attention(m);
    bindings::bind_latents(m);
    bindings::bind_patch_memory(m);
#ifdef MOSAICMEM_CUDA
    bindings::bind_cuda(m);
#endif
#ifdef MOSAICMEM_FAULTS
    bindings::bind_faults(m);
#endif
}
