#include "cpp/bindings/faults.hpp"

#include <atomic>
#include <cstddef>
#include <new>

#include "cpp/base/parallel.hpp"

namespace {

std::atomic<long> left = 0;  // allocations until one fails; 0: none does
std::atomic<bool> is_lasting = false;
std::atomic<long> failed = 0;

bool fails() noexcept {
    if (left.load(std::memory_order_relaxed) <= 0) return false;
    if (left.fetch_sub(1, std::memory_order_relaxed) != 1) return false;
    if (is_lasting) left = 1;
    ++failed;
    return true;
}

// fail_allocation_after(n, lasting): without pybind11, whose own allocations would count.
PyObject* fail_allocation_after(PyObject*, PyObject* arguments) {
    long n;
    int lasting;
    if (!PyArg_ParseTuple(arguments, "lp:fail_allocation_after", &n, &lasting)) return nullptr;
    const long before = failed.exchange(0);
    is_lasting = lasting != 0;
    left = n;
    return PyLong_FromLong(before);
}

PyMethodDef methods[] = {{"fail_allocation_after", fail_allocation_after, METH_VARARGS, nullptr},
                         {nullptr, nullptr, 0, nullptr}};

}  // namespace

// The linker redirects the core's calls of X to __wrap_X, and __real_X to X. Memory still comes
// from the real allocator, so it is freed as usual.
#define MOSAICMEM_THROWS(NAME, PARAMETERS, ...) \
    extern "C" void* __real_##NAME PARAMETERS;  \
    extern "C" void* __wrap_##NAME PARAMETERS;  \
    extern "C" void* __wrap_##NAME PARAMETERS { \
        if (fails()) throw std::bad_alloc();    \
        return __real_##NAME(__VA_ARGS__);      \
    }
#define MOSAICMEM_GIVES_NULL(NAME, PARAMETERS, ...)            \
    extern "C" void* __real_##NAME PARAMETERS;                 \
    extern "C" void* __wrap_##NAME PARAMETERS;                 \
    extern "C" void* __wrap_##NAME PARAMETERS {                \
        return fails() ? nullptr : __real_##NAME(__VA_ARGS__); \
    }

// The Itanium ABI's names of operator new and new[] where std::size_t is unsigned long.
MOSAICMEM_THROWS(_Znwm, (std::size_t n), n)
MOSAICMEM_THROWS(_Znam, (std::size_t n), n)
MOSAICMEM_THROWS(_ZnwmSt11align_val_t, (std::size_t n, std::align_val_t align), n, align)
MOSAICMEM_THROWS(_ZnamSt11align_val_t, (std::size_t n, std::align_val_t align), n, align)
MOSAICMEM_GIVES_NULL(_ZnwmRKSt9nothrow_t, (std::size_t n, const std::nothrow_t& tag), n, tag)
MOSAICMEM_GIVES_NULL(_ZnamRKSt9nothrow_t, (std::size_t n, const std::nothrow_t& tag), n, tag)
MOSAICMEM_GIVES_NULL(malloc, (std::size_t n), n)
MOSAICMEM_GIVES_NULL(calloc, (std::size_t count, std::size_t size), count, size)

namespace mosaicmem::bindings {

void bind_faults(pybind11::module_& m) {
    if (PyModule_AddFunctions(m.ptr(), methods) != 0) throw pybind11::error_already_set();
    m.def("ignore_grain", &mosaicmem::ignore_grain, pybind11::arg("on"));
}

}  // namespace mosaicmem::bindings
