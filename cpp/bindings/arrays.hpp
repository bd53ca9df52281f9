// What the bindings share. Python has validated shapes and made arrays contiguous; here types are
// only converted.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <cstring>
#include <memory>
#include <optional>
#include <vector>

#include "cpp/base/camera.hpp"
#include "cpp/bindings/objects.hpp"

namespace mosaicmem::bindings {

namespace py = pybind11;

// Copies unaligned arrays on input, even with noconvert().
constexpr int kAligned = py::detail::npy_api::NPY_ARRAY_ALIGNED_;
template <class T>
using Array = py::array_t<T, py::array::c_style | kAligned>;

// An output array, which must never be copied.
template <class T>
using Out = py::array_t<T, py::array::c_style>;

template <class T>
Array<T> make_array(std::vector<py::ssize_t> shape) {
    return Array<T>(std::move(shape));
}

template <class T>
const T* data_or_null(const std::optional<Array<T>>& array) {
    return array ? array->data() : nullptr;
}

// Hands the vector over to NumPy without a copy.
template <class T>
Array<T> take_vector(std::vector<T>&& values, std::vector<py::ssize_t> shape) {
    auto owned = std::make_unique<std::vector<T>>(std::move(values));
    const T* data = owned->data();
    const py::capsule owner(owned.get(), [](void* p) { delete static_cast<std::vector<T>*>(p); });
    owned.release();
    return Array<T>(std::move(shape), data, owner);
}

// Keeps Python objects alive for the core, which releases them on any thread, with or without the
// GIL. The result points to the tuple.
std::shared_ptr<const void> keep_alive(py::tuple objects);

inline std::size_t extent(const py::array& array, int axis) {
    return static_cast<std::size_t>(array.shape(axis));
}

// (fx, fy, cx, cy) in pixels.
inline Intrinsics to_intrinsics(const std::array<double, 4>& k) { return {k[0], k[1], k[2], k[3]}; }

// (4, 4) or (3, 4) float64.
inline Affine to_affine(const Array<double>& matrix) {
    if (matrix.size() < 12) throw py::value_error("expected a (3, 4) or (4, 4) matrix");
    Affine affine;
    std::memcpy(affine.m.data(), matrix.data(), sizeof affine.m);
    return affine;
}

// (n, 4, 4)
inline std::vector<Affine> to_affines(const Array<double>& matrices) {
    std::vector<Affine> affines(extent(matrices, 0));
    for (std::size_t i = 0; i < affines.size(); ++i)
        std::memcpy(affines[i].m.data(), matrices.data() + 16 * i, sizeof affines[i].m);
    return affines;
}

// camera: (fx, fy, cx, cy, width, height, near, far).
inline View to_view(const std::array<double, 8>& camera, const Affine& camera_from_world) {
    return {{camera[0], camera[1], camera[2], camera[3]},
            camera_from_world,
            camera[4],
            camera[5],
            camera[6],
            camera[7]};
}
inline View to_view(const std::array<double, 8>& camera, const Array<double>& camera_from_world) {
    return to_view(camera, to_affine(camera_from_world));
}

// One view for each of camera_from_world (n, 4, 4). cameras (n, 8), as to_view takes them, or one
// that all views share (1, 8).
inline std::vector<View> to_views(const Array<double>& cameras,
                                  const Array<double>& camera_from_world) {
    const std::vector<Affine> affines = to_affines(camera_from_world);
    const bool shared = extent(cameras, 0) == 1;
    if (extent(cameras, 1) != 8 || extent(cameras, 0) != (shared ? 1 : affines.size()))
        throw py::value_error("expected one camera of 8 numbers, or one for each view");
    std::vector<View> views;
    for (std::size_t i = 0; i < affines.size(); ++i) {
        std::array<double, 8> camera;
        std::memcpy(camera.data(), cameras.data() + (shared ? 0 : 8 * i), sizeof camera);
        views.push_back(to_view(camera, affines[i]));
    }
    return views;
}

void bind_geometry(py::module_& m);
void bind_memory(py::module_& m);
void bind_point_index(py::module_& m);
void bind_positions(py::module_& m);
void bind_attention(py::module_& m);
void bind_latents(py::module_& m);
void bind_patch_memory(py::module_& m);
void bind_cuda(py::module_& m);  // in cuda/bindings

}  // namespace mosaicmem::bindings
