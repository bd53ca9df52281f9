#include "cpp/attention/sample.hpp"
#include "cpp/attention/splat.hpp"
#include "cpp/bindings/arrays.hpp"

namespace mosaicmem::bindings {
namespace {

template <class T>
void splat(const Array<T>& latents, const Array<float>& position, const Array<float>& depth,
           const std::optional<Array<float>>& weight, Splat mode, float depth_tolerance,
           Out<T> canvas, Out<bool> coverage, Out<float> surface, Out<std::int32_t> source,
           int /*num_threads*/) {
    const SplatTokens tokens{position.data(), depth.data(), data_or_null(weight), extent(depth, 0)};
    const SplatGrid grid{extent(coverage, 0), extent(coverage, 1),
                         reinterpret_cast<std::uint8_t*>(coverage.mutable_data()),
                         surface.mutable_data(), source.mutable_data()};
    const T* in = latents.data();
    T* out = canvas.mutable_data();
    const std::size_t channels = extent(latents, 1);
    const py::gil_scoped_release release;
    mosaicmem::splat(tokens, {mode, depth_tolerance}, in, channels, grid, out);
}

// surface and source are outputs of splat.
template <class T>
void splat_adjoint(const Array<T>& canvas, const Array<float>& position, const Array<float>& depth,
                   const std::optional<Array<float>>& weight, const Array<float>& surface,
                   const Array<std::int32_t>& source, Splat mode, float depth_tolerance,
                   Out<T> latents, int /*num_threads*/) {
    const SplatTokens tokens{position.data(), depth.data(), data_or_null(weight), extent(depth, 0)};
    // The kernel only reads these arrays here.
    const SplatGrid grid{extent(canvas, 0), extent(canvas, 1), nullptr,
                         const_cast<float*>(surface.data()),
                         const_cast<std::int32_t*>(source.data())};
    const T* in = canvas.data();
    T* out = latents.mutable_data();
    const std::size_t channels = extent(canvas, 2);
    const py::gil_scoped_release release;
    mosaicmem::splat_adjoint(tokens, {mode, depth_tolerance}, grid, in, channels, out);
}

template <class T>
void bilinear_sample(const Array<T>& grid, const Array<float>& position, Out<T> values,
                     Out<bool> inside, int num_threads) {
    const SamplePlaces places{position.data(), extent(position, 0), extent(grid, 0),
                              extent(grid, 1)};
    const T* in = grid.data();
    T* out = values.mutable_data();
    auto* is_inside = reinterpret_cast<std::uint8_t*>(inside.mutable_data());
    const std::size_t channels = extent(grid, 2);
    const py::gil_scoped_release release;
    mosaicmem::bilinear_sample(places, in, channels, out, is_inside, num_threads);
}

template <class T>
void bilinear_sample_adjoint(const Array<T>& values, const Array<float>& position, Out<T> grid,
                             int /*num_threads*/) {
    const SamplePlaces places{position.data(), extent(position, 0), extent(grid, 0),
                              extent(grid, 1)};
    const T* in = values.data();
    T* out = grid.mutable_data();
    const std::size_t channels = extent(values, 1);
    const py::gil_scoped_release release;
    mosaicmem::bilinear_sample_adjoint(places, in, channels, out);
}

template <class T>
void bind_features(py::module_& m) {
    m.def("splat", &splat<T>, py::arg("latents").noconvert(), py::arg("position").noconvert(),
          py::arg("depth").noconvert(), py::arg("weight").noconvert(), py::arg("mode"),
          py::arg("depth_tolerance"), py::arg("canvas").noconvert(),
          py::arg("coverage").noconvert(), py::arg("surface").noconvert(),
          py::arg("source").noconvert(), py::arg("num_threads"));
    m.def("splat_adjoint", &splat_adjoint<T>, py::arg("canvas").noconvert(),
          py::arg("position").noconvert(), py::arg("depth").noconvert(),
          py::arg("weight").noconvert(), py::arg("surface").noconvert(),
          py::arg("source").noconvert(), py::arg("mode"), py::arg("depth_tolerance"),
          py::arg("latents").noconvert(), py::arg("num_threads"));
    m.def("bilinear_sample", &bilinear_sample<T>, py::arg("grid").noconvert(),
          py::arg("position").noconvert(), py::arg("values").noconvert(),
          py::arg("inside").noconvert(), py::arg("num_threads"));
    m.def("bilinear_sample_adjoint", &bilinear_sample_adjoint<T>, py::arg("values").noconvert(),
          py::arg("position").noconvert(), py::arg("grid").noconvert(), py::arg("num_threads"));
}

}  // namespace

void bind_latents(py::module_& m) {
    py::enum_<Splat>(m, "Splat")
        .value("nearest", Splat::nearest)
        .value("block", Splat::block)
        .value("bilinear", Splat::bilinear);
    bind_features<float>(m);
    bind_features<double>(m);
}

}  // namespace mosaicmem::bindings
