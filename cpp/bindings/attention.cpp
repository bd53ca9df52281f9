#include "attention.hpp"

#include "arrays.hpp"
#include "linear.hpp"

namespace mosaicmem::bindings {
namespace {

py::tuple attention(const Array<float>& q, const Array<float>& k, const Array<float>& v,
                    const std::optional<Array<bool>>& mask, const std::optional<Array<float>>& bias,
                    float scale, int num_threads) {
    const AttentionShape shape{extent(q, 0), extent(q, 1), extent(q, 2),
                               extent(k, 2), extent(q, 3), extent(v, 3)};
    auto out = make_array<float>({q.shape(0), q.shape(1), q.shape(2), v.shape(3)});
    auto lse = make_array<float>({q.shape(0), q.shape(1), q.shape(2)});
    const float *in_q = q.data(), *in_k = k.data(), *in_v = v.data(), *in_bias = data_or_null(bias);
    const auto* in_mask = reinterpret_cast<const std::uint8_t*>(data_or_null(mask));
    float *to = out.mutable_data(), *to_lse = lse.mutable_data();
    {
        const py::gil_scoped_release release;
        mosaicmem::attention(shape, in_q, in_k, in_v, in_mask, in_bias, scale, to, to_lse,
                             num_threads);
    }
    return py::make_tuple(out, lse);
}

// x (n, in)
Array<float> linear(const Array<float>& x, const Array<float>& weight, int num_threads) {
    auto out = make_array<float>({x.shape(0), weight.shape(0)});
    const float *in = x.data(), *w = weight.data();
    float* to = out.mutable_data();
    const std::size_t n = extent(x, 0), in_dim = extent(x, 1), out_dim = extent(weight, 0);
    {
        const py::gil_scoped_release release;
        mosaicmem::linear(in, w, n, in_dim, out_dim, to, num_threads);
    }
    return out;
}

}  // namespace

void bind_attention(py::module_& m) {
    m.def("attention", &attention, py::arg("q").noconvert(), py::arg("k").noconvert(),
          py::arg("v").noconvert(), py::arg("mask").noconvert(), py::arg("bias").noconvert(),
          py::arg("scale"), py::arg("num_threads") = 0);
    m.def("linear", &linear, py::arg("x").noconvert(), py::arg("weight").noconvert(),
          py::arg("num_threads") = 0);
}

}  // namespace mosaicmem::bindings
