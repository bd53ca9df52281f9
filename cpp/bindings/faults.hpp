// For tests: allocations of the core that fail on demand, and threads for small inputs.
#pragma once

#include <pybind11/pybind11.h>

namespace mosaicmem::bindings {

// Adds fail_allocation_after() and ignore_grain() to the module. Only in test builds, which route
// every allocation of the core through faults.cpp (see CMakeLists.txt).
void bind_faults(pybind11::module_& m);

}  // namespace mosaicmem::bindings
