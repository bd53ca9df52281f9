// For tests: allocations of the core that fail when they are told to, and threads for small inputs.
#pragma once

#include <pybind11/pybind11.h>

namespace mosaicmem::bindings {

// Adds fail_allocation_after() and ignore_grain() to the module. The build links every allocation of the core through
// it (see CMakeLists.txt), so only a build for tests has it.
void bind_faults(pybind11::module_& m);

}  // namespace mosaicmem::bindings
