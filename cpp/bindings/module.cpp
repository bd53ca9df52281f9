#include "arrays.hpp"
#include "parallel.hpp"

PYBIND11_MODULE(_core, m) {
    namespace bindings = mosaicmem::bindings;
    m.doc() =
        "The compiled core of mosaicmem. Arguments are validated by the Python modules that call "
        "it.";
    bindings::bind_geometry(m);
    bindings::bind_memory(m);
    bindings::bind_positions(m);
    bindings::bind_attention(m);
    m.def("resolve_threads", &mosaicmem::resolve_threads, pybind11::arg("num_threads") = 0);
}
