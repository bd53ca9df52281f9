#include "cuda/attention/prope.hpp"
#include "cuda/attention/rope.hpp"
#include "cuda/bindings/heads.hpp"

namespace mosaicmem::bindings {
namespace {

// Calls body.operator()<T, F>() for the types of the features and of their tables.
template <class Body>
void with_features_and_tables(const DeviceArray& x, const Body& body) {
    if (x.dtype == "float64") return body.template operator()<double, double>();
    if (x.dtype == "float16") return body.template operator()<cuda::float16, float>();
    if (x.dtype == "bfloat16") return body.template operator()<cuda::bfloat16, float>();
    body.template operator()<float, float>();
}

void rope_table(const DeviceArray& positions, const std::vector<std::size_t>& axis_dims,
                double theta, const DeviceArray& cos, const DeviceArray& sin,
                const Execution& execution) {
    cuda::AxisDims dims{axis_dims.size(), {}};
    if (axis_dims.size() > cuda::kMostAxes) throw py::value_error("axis_dims: too many axes");
    std::copy(axis_dims.begin(), axis_dims.end(), dims.dims);
    with_floats(cos, [&]<class F>() {
        cuda::rope_table(positions.as<double>(), positions.extent(0), dims, theta, cos.as<F>(),
                         sin.as<F>(), execution);
    });
}

void rope_apply(const DeviceArray& x, const DeviceArray& cos, const DeviceArray& sin,
                bool interleaved, bool inverse, const DeviceArray& out,
                const Execution& execution) {
    with_features_and_tables(x, [&]<class T, class F>() {
        cuda::rope_apply(features_of<T>(x, out), cos.as<F>(), sin.as<F>(), interleaved, inverse,
                         execution);
    });
}

// runs: (begin, end, group) each. coefficient (cameras, groups, 4, period).
void prope_apply(const DeviceArray& x, const std::vector<std::array<unsigned, 3>>& runs,
                 std::size_t spread, const DeviceArray& coefficient, const DeviceArray& camera,
                 const std::optional<DeviceArray>& cos, const std::optional<DeviceArray>& sin,
                 bool inverse, const DeviceArray& out, const Execution& execution) {
    if (runs.size() > cuda::kMostRuns)
        throw py::value_error("runs: more sub-frames than the kernel takes");
    with_features_and_tables(x, [&]<class T, class F>() {
        cuda::CameraMatrices<F> matrices{static_cast<unsigned>(runs.size()),
                                         {},
                                         spread,
                                         coefficient.extent(3),
                                         coefficient.extent(1),
                                         coefficient.as<F>(),
                                         camera.as<std::int32_t>()};
        for (std::size_t i = 0; i < runs.size(); ++i)
            matrices.runs[i] = {runs[i][0], runs[i][1], runs[i][2]};
        cuda::prope_apply(
            features_of<T>(x, out), matrices,
            cuda::QuarterRotation<F>{data_or_null<F>(cos), data_or_null<F>(sin), inverse},
            execution);
    });
}

}  // namespace

void bind_cuda_positions(py::module_& m) {
    m.def("rope_table", &rope_table, py::arg("positions"), py::arg("axis_dims"), py::arg("theta"),
          py::arg("cos"), py::arg("sin"), py::arg("execution"));
    m.def("rope_apply", &rope_apply, py::arg("x"), py::arg("cos"), py::arg("sin"),
          py::arg("interleaved"), py::arg("inverse"), py::arg("out"), py::arg("execution"));
    m.def("prope_apply", &prope_apply, py::arg("x"), py::arg("runs"), py::arg("spread"),
          py::arg("coefficient"), py::arg("camera"), py::arg("cos"), py::arg("sin"),
          py::arg("inverse"), py::arg("out"), py::arg("execution"));
}

}  // namespace mosaicmem::bindings
