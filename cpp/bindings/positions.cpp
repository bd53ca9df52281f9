#include "cpp/attention/prope.hpp"
#include "cpp/attention/rope.hpp"
#include "cpp/bindings/strided.hpp"

namespace mosaicmem::bindings {
namespace {

void rope_table(const Array<double>& positions, const std::vector<std::size_t>& axis_dims,
                double theta, Out<double> cos, Out<double> sin, int num_threads) {
    const double* in = positions.data();
    double *out_cos = cos.mutable_data(), *out_sin = sin.mutable_data();
    const std::size_t n = extent(positions, 0);
    const py::gil_scoped_release release;
    mosaicmem::rope_table(in, n, axis_dims, theta, out_cos, out_sin, num_threads);
}

template <class T, class F>
void rope_apply(const Strided<T>& x, const Array<F>& cos, const Array<F>& sin, bool interleaved,
                bool inverse, StridedOut<T> out, int num_threads) {
    const HeadFeatures<T> features = features_of(x, out);
    const F *c = cos.data(), *s = sin.data();
    {
        const py::gil_scoped_release release;
        mosaicmem::rope_apply(features, c, s, pairing_of(interleaved), inverse, num_threads);
    }
}

// runs: (begin, end, group) each. coefficient (cameras, groups, 4, period).
template <class T, class F>
void prope_apply(const Strided<T>& x, const std::vector<std::array<std::size_t, 3>>& runs,
                 std::size_t spread, const Array<F>& coefficient, const Array<std::int32_t>& camera,
                 const std::optional<Array<F>>& cos, const std::optional<Array<F>>& sin,
                 bool inverse, StridedOut<T> out, int num_threads) {
    const HeadFeatures<T> features = features_of(x, out);
    std::vector<MatrixRun> in_order;
    for (const auto& [begin, end, group] : runs) in_order.push_back({begin, end, group});
    const CameraMatrices<F> matrices{
        in_order,           spread,       extent(coefficient, 3), extent(coefficient, 1),
        coefficient.data(), camera.data()};
    const QuarterRotation<F> rotation{data_or_null(cos), data_or_null(sin), inverse};
    {
        const py::gil_scoped_release release;
        mosaicmem::prope_apply(features, matrices, rotation, num_threads);
    }
}

template <class T, class F>
void bind_apply(py::module_& m) {
    m.def("rope_apply", &rope_apply<T, F>, py::arg("x").noconvert(), py::arg("cos").noconvert(),
          py::arg("sin").noconvert(), py::arg("interleaved"), py::arg("inverse"),
          py::arg("out").noconvert(), py::arg("num_threads"));
    m.def("prope_apply", &prope_apply<T, F>, py::arg("x").noconvert(), py::arg("runs"),
          py::arg("spread"), py::arg("coefficient").noconvert(), py::arg("camera").noconvert(),
          py::arg("cos").noconvert(), py::arg("sin").noconvert(), py::arg("inverse"),
          py::arg("out").noconvert(), py::arg("num_threads"));
}

}  // namespace

void bind_positions(py::module_& m) {
    m.def("rope_table", &rope_table, py::arg("positions").noconvert(), py::arg("axis_dims"),
          py::arg("theta"), py::arg("cos").noconvert(), py::arg("sin").noconvert(),
          py::arg("num_threads"));
    bind_apply<float, float>(m);
    bind_apply<std::uint16_t, float>(m);  // bfloat16
    bind_apply<double, double>(m);
}

}  // namespace mosaicmem::bindings
