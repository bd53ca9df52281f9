#include "cuda/attention/attention.hpp"

#include "cuda/bindings/heads.hpp"

namespace mosaicmem::bindings {
namespace {

using MaybeArray = std::optional<DeviceArray>;

template <class Body>
void with_features(const DeviceArray& x, const Body& body) {
    if (x.dtype == "float16") return body.template operator()<cuda::float16>();
    if (x.dtype == "bfloat16") return body.template operator()<cuda::bfloat16>();
    body.template operator()<float>();
}

// rotations: cos and sin of the queries, cos and sin of the keys.
void attention(const DeviceArray& q, const DeviceArray& k, const DeviceArray& v,
               const MaybeArray& mask, const MaybeArray& bias, const MaybeArray& query_time,
               const MaybeArray& key_time, double half_life, float scale,
               const std::array<MaybeArray, 4>& rotations, bool interleaved, const DeviceArray& out,
               const DeviceArray& lse, const Execution& execution) {
    const cuda::AttentionShape shape{q.extent(0), q.extent(1), k.extent(1), q.extent(2),
                                     k.extent(2), q.extent(3), v.extent(3)};
    with_features(q, [&]<class T>() {
        const cuda::AttentionInput<T> input{
            q.as<T>(),
            k.as<T>(),
            v.as<T>(),
            strides_of(q),
            strides_of(k),
            strides_of(v),
            data_or_null<std::uint8_t>(mask),
            data_or_null<float>(bias),
            data_or_null<double>(query_time),
            data_or_null<double>(key_time),
            half_life,
            scale,
            {data_or_null<float>(rotations[0]), data_or_null<float>(rotations[1])},
            {data_or_null<float>(rotations[2]), data_or_null<float>(rotations[3])},
            interleaved};
        cuda::attention(shape, input, out.as<T>(), strides_of(out), lse.as<float>(), execution);
    });
}

// out (1, 1, rows, value_dim), lse (rows)
void merge_attention(const DeviceArray& out_a, const DeviceArray& lse_a, const DeviceArray& out_b,
                     const DeviceArray& lse_b, const DeviceArray& out, const DeviceArray& lse,
                     const Execution& execution) {
    with_features(out_a, [&]<class T>() {
        cuda::merge_attention<T>({out_a.as<T>(), lse_a.as<float>()},
                                 {out_b.as<T>(), lse_b.as<float>()}, out_a.extent(2),
                                 out_a.extent(3), out.as<T>(), lse.as<float>(), execution);
    });
}

}  // namespace

void bind_cuda_attention(py::module_& m) {
    m.attr("most_head_dim") = cuda::kMostHeadDim;
    m.def("attention", &attention, py::arg("q"), py::arg("k"), py::arg("v"), py::arg("mask"),
          py::arg("bias"), py::arg("query_time"), py::arg("key_time"), py::arg("half_life"),
          py::arg("scale"), py::arg("rotations"), py::arg("interleaved"), py::arg("out"),
          py::arg("lse"), py::arg("execution"));
    m.def("merge_attention", &merge_attention, py::arg("out_a"), py::arg("lse_a"), py::arg("out_b"),
          py::arg("lse_b"), py::arg("out"), py::arg("lse"), py::arg("execution"));
}

}  // namespace mosaicmem::bindings
