#include "arrays.hpp"
#include "prope.hpp"
#include "rope.hpp"

namespace mosaicmem::bindings {
namespace {

py::tuple rope_table(const Array<double>& positions, const std::vector<std::size_t>& axis_dims,
                     double theta, int num_threads) {
    std::size_t pairs = 0;
    for (const std::size_t dim : axis_dims) pairs += dim / 2;
    const std::vector<py::ssize_t> shape{positions.shape(0), static_cast<py::ssize_t>(pairs)};
    auto cos = make_array<double>(shape);
    auto sin = make_array<double>(shape);
    const double* in = positions.data();
    double *out_cos = cos.mutable_data(), *out_sin = sin.mutable_data();
    const std::size_t n = extent(positions, 0);
    {
        const py::gil_scoped_release release;
        mosaicmem::rope_table(in, n, axis_dims, theta, out_cos, out_sin, num_threads);
    }
    return py::make_tuple(cos, sin);
}

// x (batch, n, dim)
template <class T>
Array<T> rope_apply(const Array<T>& x, const Array<T>& cos, const Array<T>& sin, Pairing pairing,
                    bool inverse, int num_threads) {
    auto out = make_array<T>({x.shape(0), x.shape(1), x.shape(2)});
    const T *in = x.data(), *c = cos.data(), *s = sin.data();
    T* to = out.mutable_data();
    const std::size_t batch = extent(x, 0), n = extent(x, 1), dim = extent(x, 2);
    {
        const py::gil_scoped_release release;
        mosaicmem::rope_apply(in, batch, n, dim, c, s, pairing, inverse, to, num_threads);
    }
    return out;
}

template <class T>
Array<T> prope_apply(const Array<T>& x, const Array<T>& matrices, const Array<std::int32_t>& camera,
                     const Array<T>& cos, const Array<T>& sin, bool inverse, int num_threads) {
    auto out = make_array<T>({x.shape(0), x.shape(1), x.shape(2)});
    const T *in = x.data(), *m = matrices.data(), *c = cos.data(), *s = sin.data();
    const std::int32_t* cameras = camera.data();
    T* to = out.mutable_data();
    const std::size_t batch = extent(x, 0), n = extent(x, 1), dim = extent(x, 2);
    {
        const py::gil_scoped_release release;
        mosaicmem::prope_apply(in, batch, n, dim, m, cameras, c, s, inverse, to, num_threads);
    }
    return out;
}

template <class T>
void bind_apply(py::module_& m) {
    m.def("rope_apply", &rope_apply<T>, py::arg("x").noconvert(), py::arg("cos").noconvert(),
          py::arg("sin").noconvert(), py::arg("pairing"), py::arg("inverse") = false,
          py::arg("num_threads") = 0);
    m.def("prope_apply", &prope_apply<T>, py::arg("x").noconvert(), py::arg("matrices").noconvert(),
          py::arg("camera").noconvert(), py::arg("cos").noconvert(), py::arg("sin").noconvert(),
          py::arg("inverse") = false, py::arg("num_threads") = 0);
}

}  // namespace

void bind_positions(py::module_& m) {
    py::enum_<Pairing>(m, "Pairing")
        .value("interleaved", Pairing::interleaved)
        .value("split_half", Pairing::split_half);
    m.def("rope_table", &rope_table, py::arg("positions").noconvert(), py::arg("axis_dims"),
          py::arg("theta"), py::arg("num_threads") = 0);
    bind_apply<float>(m);
    bind_apply<double>(m);
}

}  // namespace mosaicmem::bindings
