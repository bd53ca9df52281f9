#include "cuda/attention/sample.hpp"
#include "cuda/attention/splat.hpp"
#include "cuda/bindings/device_array.hpp"

namespace mosaicmem::bindings {
namespace {

using MaybeArray = std::optional<DeviceArray>;

cuda::SplatTokens to_tokens(const DeviceArray& position, const DeviceArray& depth,
                            const MaybeArray& weight) {
    return {position.as<float>(), depth.as<float>(), data_or_null<float>(weight), depth.extent(0)};
}

void splat(const DeviceArray& latents, const DeviceArray& position, const DeviceArray& depth,
           const MaybeArray& weight, Splat mode, float depth_tolerance, const DeviceArray& canvas,
           const DeviceArray& coverage, const DeviceArray& surface, const DeviceArray& source,
           const Execution& execution) {
    const cuda::SplatGrid grid{coverage.extent(0), coverage.extent(1), coverage.as<std::uint8_t>(),
                               surface.as<float>(), source.as<std::int32_t>()};
    void* const workspace = execution.scratch(
        cuda::splat_workspace_bytes(depth.extent(0), grid.rows, grid.columns, mode));
    with_floats(latents, [&]<class T>() {
        cuda::splat(to_tokens(position, depth, weight), {mode, depth_tolerance}, latents.as<T>(),
                    latents.extent(1), grid, canvas.as<T>(), workspace, execution);
    });
}

void splat_adjoint(const DeviceArray& canvas, const DeviceArray& position, const DeviceArray& depth,
                   const MaybeArray& weight, const DeviceArray& surface, const DeviceArray& source,
                   Splat mode, float depth_tolerance, const DeviceArray& latents,
                   const Execution& execution) {
    const cuda::SplatGrid grid{surface.extent(0), surface.extent(1), nullptr, surface.as<float>(),
                               source.as<std::int32_t>()};
    void* const workspace = execution.scratch(
        cuda::splat_workspace_bytes(depth.extent(0), grid.rows, grid.columns, mode));
    with_floats(canvas, [&]<class T>() {
        cuda::splat_adjoint(to_tokens(position, depth, weight), {mode, depth_tolerance}, grid,
                            canvas.as<T>(), canvas.extent(2), latents.as<T>(), workspace,
                            execution);
    });
}

void bilinear_sample(const DeviceArray& grid, const DeviceArray& position,
                     const DeviceArray& values, const DeviceArray& inside,
                     const Execution& execution) {
    with_floats(grid, [&]<class T>() {
        cuda::bilinear_sample(
            {position.as<float>(), position.extent(0), grid.extent(0), grid.extent(1)},
            grid.as<T>(), grid.extent(2), values.as<T>(), inside.as<std::uint8_t>(), execution);
    });
}

void bilinear_sample_adjoint(const DeviceArray& values, const DeviceArray& position,
                             const DeviceArray& grid, const Execution& execution) {
    const cuda::SamplePlaces places{position.as<float>(), position.extent(0), grid.extent(0),
                                    grid.extent(1)};
    void* const workspace =
        execution.scratch(cuda::bilinear_sample_adjoint_workspace_bytes(places));
    with_floats(values, [&]<class T>() {
        cuda::bilinear_sample_adjoint(places, values.as<T>(), grid.extent(2), grid.as<T>(),
                                      workspace, execution);
    });
}

}  // namespace

void bind_cuda_latents(py::module_& m) {
    m.def("splat", &splat, py::arg("latents"), py::arg("position"), py::arg("depth"),
          py::arg("weight"), py::arg("mode"), py::arg("depth_tolerance"), py::arg("canvas"),
          py::arg("coverage"), py::arg("surface"), py::arg("source"), py::arg("execution"));
    m.def("splat_adjoint", &splat_adjoint, py::arg("canvas"), py::arg("position"), py::arg("depth"),
          py::arg("weight"), py::arg("surface"), py::arg("source"), py::arg("mode"),
          py::arg("depth_tolerance"), py::arg("latents"), py::arg("execution"));
    m.def("bilinear_sample", &bilinear_sample, py::arg("grid"), py::arg("position"),
          py::arg("values"), py::arg("inside"), py::arg("execution"));
    m.def("bilinear_sample_adjoint", &bilinear_sample_adjoint, py::arg("values"),
          py::arg("position"), py::arg("grid"), py::arg("execution"));
}

}  // namespace mosaicmem::bindings
