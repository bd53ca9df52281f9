// Arrays in device memory, as bound to Python. Python has validated them; here types are only
// converted.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <memory>
#include <new>
#include <optional>
#include <string>
#include <type_traits>
#include <vector>

#include "cpp/bindings/arrays.hpp"
#include "cuda/base/execution.hpp"

namespace mosaicmem::bindings {

struct DeviceArray {
    std::uintptr_t address;
    std::vector<std::size_t> shape, strides;  // strides count elements
    std::string dtype;                        // "float32", "bfloat16", "bool", ...

    std::size_t extent(std::size_t axis) const { return shape.at(axis); }

    // T is any type of the elements' size.
    template <class T>
    T* as() const {
        return reinterpret_cast<T*>(address);
    }
};

// A call from Python, which allocates memory in the caller's framework. May be used without the
// GIL.
class Execution final : public cuda::Execution {
  public:
    py::object call;

    void* scratch(std::size_t bytes) const override {
        if (bytes == 0) return nullptr;
        const py::gil_scoped_acquire acquire;
        return reinterpret_cast<void*>(py::cast<std::uintptr_t>(call.attr("allocate")(bytes)));
    }

    Owned own(std::size_t bytes) const override {
        const py::gil_scoped_acquire acquire;
        const py::object array = call.attr("own_bytes")(bytes);
        const auto address = py::cast<std::uintptr_t>(call.attr("address_of")(array));
        return {reinterpret_cast<void*>(address), keep_alive(py::make_tuple(array))};
    }

    // An interrupt may come in between: it is deferred, and the call made again.
    void release(std::shared_ptr<const void> owner) const noexcept override {
        const py::gil_scoped_acquire acquire;
        bool is_interrupted = false, is_done = false;
        for (int attempt = 0; attempt < 2 && !is_done; ++attempt) {
            try {
                call.attr("release")((*static_cast<const py::tuple*>(owner.get()))[0]);
                is_done = true;
            } catch (py::error_already_set& error) {
                is_interrupted |= error.matches(PyExc_KeyboardInterrupt);
                if (attempt > 0) error.discard_as_unraisable("mosaicmem: release of device memory");
            } catch (...) {  // no memory for the call
            }
        }
        if (!is_done) new (std::nothrow) std::shared_ptr<const void>(std::move(owner));
        if (is_interrupted) PyErr_SetInterrupt();
    }

    std::shared_ptr<const void> stream_owner() const override {
        const py::gil_scoped_acquire acquire;
        return keep_alive(py::make_tuple(call.attr("stream_owner")));
    }
};

template <class T>
T* data_or_null(const std::optional<DeviceArray>& array) {
    return array ? array->as<T>() : nullptr;
}

// Calls body.operator()<T>() for the element type of an array of float32 or float64.
template <class Body>
void with_floats(const DeviceArray& array, const Body& body) {
    if (array.dtype == "float64") return body.template operator()<double>();
    body.template operator()<float>();
}

void bind_cuda_attention(py::module_& m);
void bind_cuda_device_store(py::module_& m);
void bind_cuda_geometry(py::module_& m);
void bind_cuda_latents(py::module_& m);
void bind_cuda_patch_memory(py::module_& m);
void bind_cuda_positions(py::module_& m);
void bind_cuda_voxel_map(py::module_& m);

}  // namespace mosaicmem::bindings

namespace pybind11::detail {

// (device, handle)
template <>
struct type_caster<mosaicmem::cuda::Stream> {
    PYBIND11_TYPE_CASTER(mosaicmem::cuda::Stream, const_name("tuple[int, int]"));

    bool load(handle source, bool convert) {
        make_caster<std::pair<int, std::uintptr_t>> pair;
        if (!pair.load(source, convert)) return false;
        const auto [device, address] = cast_op<std::pair<int, std::uintptr_t>>(pair);
        value = {device, reinterpret_cast<void*>(address)};
        return true;
    }
};

// (device, handle, call), or (device, handle), which cannot allocate memory.
template <>
struct type_caster<mosaicmem::bindings::Execution> {
    PYBIND11_TYPE_CASTER(mosaicmem::bindings::Execution, const_name("tuple[int, int, Any]"));

    bool load(handle source, bool) {
        if (!isinstance<tuple>(source)) return false;
        const auto parts = reinterpret_borrow<tuple>(source);
        if (parts.size() != 2 && parts.size() != 3) return false;
        value.stream = {pybind11::cast<int>(parts[0]),
                        reinterpret_cast<void*>(pybind11::cast<std::uintptr_t>(parts[1]))};
        if (parts.size() == 3) value.call = parts[2];
        return true;
    }
};

}  // namespace pybind11::detail
