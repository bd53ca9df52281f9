#include "cpp/attention/sample.hpp"
#include "cpp/attention/splat.hpp"
#include "cpp/bindings/arrays.hpp"

namespace mosaicmem::bindings {
namespace {

template <class T>
py::tuple splat(const Array<T>& latents, const Array<float>& position, const Array<float>& depth,
                const std::optional<Array<float>>& weight, std::size_t rows, std::size_t columns,
                Splat mode, float depth_tolerance) {
    const SplatTokens tokens{position.data(), depth.data(), data_or_null(weight), extent(depth, 0)};
    const auto r = static_cast<py::ssize_t>(rows), c = static_cast<py::ssize_t>(columns);
    auto canvas = make_array<T>({r, c, latents.shape(1)});
    auto coverage = make_array<bool>({r, c});
    auto front = make_array<float>({r, c});
    auto source = make_array<std::int32_t>({r, c});
    const SplatGrid grid{rows, columns, reinterpret_cast<std::uint8_t*>(coverage.mutable_data()),
                         front.mutable_data(), source.mutable_data()};
    const T* in = latents.data();
    T* out = canvas.mutable_data();
    const std::size_t channels = extent(latents, 1);
    {
        const py::gil_scoped_release release;
        mosaicmem::splat(tokens, {mode, depth_tolerance}, in, channels, grid, out);
    }
    return py::make_tuple(canvas, coverage, front, source);
}

// front and source are what splat gave.
template <class T>
Array<T> splat_adjoint(const Array<T>& canvas, const Array<float>& position,
                       const Array<float>& depth, const std::optional<Array<float>>& weight,
                       const Array<float>& front, const Array<std::int32_t>& source, Splat mode,
                       float depth_tolerance) {
    const SplatTokens tokens{position.data(), depth.data(), data_or_null(weight), extent(depth, 0)};
    auto latents = make_array<T>({depth.shape(0), canvas.shape(2)});
    // The kernel only reads them here.
    const SplatGrid grid{extent(canvas, 0), extent(canvas, 1), nullptr,
                         const_cast<float*>(front.data()),
                         const_cast<std::int32_t*>(source.data())};
    const T* in = canvas.data();
    T* out = latents.mutable_data();
    const std::size_t channels = extent(canvas, 2);
    {
        const py::gil_scoped_release release;
        mosaicmem::splat_adjoint(tokens, {mode, depth_tolerance}, grid, in, channels, out);
    }
    return latents;
}

template <class T>
py::tuple bilinear_sample(const Array<T>& grid, const Array<float>& position, int num_threads) {
    const SamplePlaces places{position.data(), extent(position, 0), extent(grid, 0),
                              extent(grid, 1)};
    auto values = make_array<T>({position.shape(0), grid.shape(2)});
    auto inside = make_array<bool>({position.shape(0)});
    const T* in = grid.data();
    T* out = values.mutable_data();
    auto* is_inside = reinterpret_cast<std::uint8_t*>(inside.mutable_data());
    const std::size_t channels = extent(grid, 2);
    {
        const py::gil_scoped_release release;
        mosaicmem::bilinear_sample(places, in, channels, out, is_inside, num_threads);
    }
    return py::make_tuple(values, inside);
}

template <class T>
Array<T> bilinear_sample_adjoint(const Array<T>& values, const Array<float>& position,
                                 std::size_t rows, std::size_t columns) {
    const SamplePlaces places{position.data(), extent(position, 0), rows, columns};
    auto grid = make_array<T>(
        {static_cast<py::ssize_t>(rows), static_cast<py::ssize_t>(columns), values.shape(1)});
    const T* in = values.data();
    T* out = grid.mutable_data();
    const std::size_t channels = extent(values, 1);
    {
        const py::gil_scoped_release release;
        mosaicmem::bilinear_sample_adjoint(places, in, channels, out);
    }
    return grid;
}

template <class T>
void bind_features(py::module_& m) {
    m.def("splat", &splat<T>, py::arg("latents").noconvert(), py::arg("position").noconvert(),
          py::arg("depth").noconvert(), py::arg("weight").noconvert(), py::arg("rows"),
          py::arg("columns"), py::arg("mode"), py::arg("depth_tolerance"));
    m.def("splat_adjoint", &splat_adjoint<T>, py::arg("canvas").noconvert(),
          py::arg("position").noconvert(), py::arg("depth").noconvert(),
          py::arg("weight").noconvert(), py::arg("front").noconvert(),
          py::arg("source").noconvert(), py::arg("mode"), py::arg("depth_tolerance"));
    m.def("bilinear_sample", &bilinear_sample<T>, py::arg("grid").noconvert(),
          py::arg("position").noconvert(), py::arg("num_threads") = 0);
    m.def("bilinear_sample_adjoint", &bilinear_sample_adjoint<T>, py::arg("values").noconvert(),
          py::arg("position").noconvert(), py::arg("rows"), py::arg("columns"));
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
