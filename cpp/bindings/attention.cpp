#include "cpp/attention/attention.hpp"

#include <limits>

#include "cpp/attention/linear.hpp"
#include "cpp/bindings/strided.hpp"
#include "cpp/simd/levels.hpp"

namespace mosaicmem::bindings {
namespace {

// Features of heads; turn() rotates them, if there is a rotation, into memory of its own.
template <class T>
class Rotated {
  public:
    Rotated(const Strided<T>& x, const std::optional<Array<float>>& cos,
            const std::optional<Array<float>>& sin)
        : data_(x.data()),
          strides_(strides_of(x)),
          cos_(data_or_null(cos)),
          sin_(data_or_null(sin)),
          shape_{extent(x, 0), extent(x, 1), extent(x, 2), extent(x, 3)} {}

    void turn(Pairing pairing, int num_threads) {
        if (!cos_) return;
        const auto [batch, heads, tokens, dim] = shape_;
        turned_.resize(batch * heads * tokens * dim);
        const HeadStrides whole{heads * tokens * dim, tokens * dim, dim};
        mosaicmem::rope_apply(
            HeadFeatures<T>{data_, turned_.data(), strides_, whole, batch, heads, tokens, dim},
            cos_, sin_, pairing, false, num_threads);
        data_ = turned_.data();
        strides_ = whole;
    }

    const T* data() const { return data_; }
    const HeadStrides& strides() const { return strides_; }

  private:
    const T* data_;
    HeadStrides strides_;
    const float *cos_, *sin_;
    std::array<std::size_t, 4> shape_;
    std::vector<T> turned_;
};

// query_time (queries), key_time (keys) and half_life are given together or not at all. rotations:
// cos and sin of the queries, cos and sin of the keys.
template <class T>
void attention(const Strided<T>& q, const Strided<T>& k, const Strided<T>& v,
               const std::optional<Array<bool>>& mask, const std::optional<Array<float>>& bias,
               const std::optional<Array<double>>& query_time,
               const std::optional<Array<double>>& key_time, double half_life, float scale,
               const std::array<std::optional<Array<float>>, 4>& rotations, bool interleaved,
               StridedOut<T> out, Out<float> lse, int num_threads) {
    const AttentionShape shape{extent(q, 0), extent(q, 1), extent(k, 1), extent(q, 2),
                               extent(k, 2), extent(q, 3), extent(v, 3)};
    Rotated<T> queries(q, rotations[0], rotations[1]), keys(k, rotations[2], rotations[3]);
    AttentionInput<T> input{nullptr,
                            nullptr,
                            v.data(),
                            {},
                            {},
                            strides_of(v),
                            reinterpret_cast<const std::uint8_t*>(data_or_null(mask)),
                            data_or_null(bias),
                            data_or_null(query_time),
                            data_or_null(key_time),
                            half_life,
                            scale};
    T* to = out.mutable_data();
    const HeadStrides out_strides = strides_of(out);
    float* to_lse = lse.mutable_data();
    const py::gil_scoped_release release;
    queries.turn(pairing_of(interleaved), num_threads);
    keys.turn(pairing_of(interleaved), num_threads);
    input.q = queries.data();
    input.k = keys.data();
    input.q_strides = queries.strides();
    input.k_strides = keys.strides();
    mosaicmem::attention(shape, input, to, out_strides, to_lse, num_threads);
}

// out (1, 1, rows, value_dim), lse (rows)
template <class T>
void merge_attention(const Array<T>& out_a, const Array<float>& lse_a, const Array<T>& out_b,
                     const Array<float>& lse_b, Out<T> out, Out<float> lse, int /*num_threads*/) {
    const PartialAttention<T> a{out_a.data(), lse_a.data()}, b{out_b.data(), lse_b.data()};
    T* to = out.mutable_data();
    float* to_lse = lse.mutable_data();
    const std::size_t rows = extent(out_a, 2), value_dim = extent(out_a, 3);
    {
        const py::gil_scoped_release release;
        mosaicmem::merge_attention(a, b, rows, value_dim, to, to_lse);
    }
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

template <class T>
void bind_kernel(py::module_& m) {
    m.def("attention", &attention<T>, py::arg("q").noconvert(), py::arg("k").noconvert(),
          py::arg("v").noconvert(), py::arg("mask").noconvert(), py::arg("bias").noconvert(),
          py::arg("query_time").noconvert(), py::arg("key_time").noconvert(), py::arg("half_life"),
          py::arg("scale"), py::arg("rotations"), py::arg("interleaved"),
          py::arg("out").noconvert(), py::arg("lse").noconvert(), py::arg("num_threads"));
    m.def("merge_attention", &merge_attention<T>, py::arg("out_a").noconvert(),
          py::arg("lse_a").noconvert(), py::arg("out_b").noconvert(), py::arg("lse_b").noconvert(),
          py::arg("out").noconvert(), py::arg("lse").noconvert(), py::arg("num_threads"));
}

}  // namespace

void bind_attention(py::module_& m) {
    py::enum_<SimdLevel>(m, "SimdLevel", py::arithmetic())
        .value("portable", SimdLevel::portable)
        .value("avx2", SimdLevel::avx2)
        .value("avx512", SimdLevel::avx512)
        .value("avx512_bf16", SimdLevel::avx512_bf16)
        .value("avx512_amx", SimdLevel::avx512_amx);
    m.attr("most_head_dim") = std::numeric_limits<std::int32_t>::max();
    m.def("simd_level", &simd_level);
    m.def("limit_simd_level", &limit_simd_level, py::arg("most"));
    bind_kernel<float>(m);
    bind_kernel<std::uint16_t>(m);  // bfloat16
    m.def("linear", &linear, py::arg("x").noconvert(), py::arg("weight").noconvert(),
          py::arg("num_threads") = 0);
}

}  // namespace mosaicmem::bindings
