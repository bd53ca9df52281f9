// Makes C++ objects that Python owns, so that running out of memory raises MemoryError.
//
// pybind11 registers every object in a table of its own. If that fails, its py::init ends the
// process, or the object is freed twice: by its maker and by the half-made Python object. Here the
// maker owns the object until it is registered.
#pragma once

#include <pybind11/pybind11.h>

#include <exception>
#include <memory>
#include <utility>

namespace mosaicmem::bindings {

namespace py = pybind11;

// Like pybind11's tp_new, which does not check that the allocation succeeded.
extern "C" inline PyObject* new_instance(PyTypeObject* type, PyObject*, PyObject*) {
    PyObject* const self = type->tp_alloc(type, 0);
    if (self) reinterpret_cast<py::detail::instance*>(self)->allocate_layout();
    return self;
}

// For each py::class_ whose objects def_init() or to_python() make.
inline py::custom_type_setup checked_new() {
    return py::custom_type_setup(
        [](PyHeapTypeObject* type) { type->ht_type.tp_new = &new_instance; });
}

template <class T>
void hold(py::detail::value_and_holder& place, std::unique_ptr<T> made) {
    place.value_ptr() = made.get();
    try {
        place.type->init_instance(place.inst, &made);
    } catch (...) {
        place.value_ptr() = nullptr;
        throw;
    }
}

// Like T(arguments...).
template <class T, class... Args>
std::unique_ptr<T> make_new(Args... args) {
    return std::unique_ptr<T>(new T{std::forward<Args>(args)...});
}

// Like .def(py::init(make), extra...).
template <class T, class... Args, class... Extra>
void def_init(py::class_<T>& type, std::unique_ptr<T> (*make)(Args...), const Extra&... extra) {
    type.def(
        "__init__",
        [make](py::detail::value_and_holder& place, Args... args) {
            hold(place, make(std::forward<Args>(args)...));
        },
        py::detail::is_new_style_constructor(), extra...);
}

// Hands the object over to Python.
template <class T>
py::object to_python(std::unique_ptr<T> made) {
    const auto* const type = py::detail::get_type_info(typeid(T), true);
    auto object = py::reinterpret_steal<py::object>(new_instance(type->type, nullptr, nullptr));
    if (!object) throw py::error_already_set();
    auto* const instance = reinterpret_cast<py::detail::instance*>(object.ptr());
    auto place = instance->get_value_and_holder(type);
    hold(place, std::move(made));
    return object;
}

// pybind11 reports that Python ran out of memory as a std::runtime_error or a TypeError.
inline void keep_memory_errors(std::exception_ptr failure) {
    if (PyErr_Occurred() && PyErr_ExceptionMatches(PyExc_MemoryError)) return;
    std::rethrow_exception(failure);
}

}  // namespace mosaicmem::bindings
