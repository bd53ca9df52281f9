// Compiles the code between MOSAICMEM_BEGIN_TARGET("...") and MOSAICMEM_END_TARGET for a wider
// instruction set than the rest of the library. Nothing of the standard library may be instantiated
// there: all files share its inline functions.
#pragma once

#define MOSAICMEM_PRAGMA(text) _Pragma(#text)

#if defined(__clang__)
#define MOSAICMEM_BEGIN_TARGET(name) \
    MOSAICMEM_PRAGMA(clang attribute push(__attribute__((target(name))), apply_to = function))
#define MOSAICMEM_END_TARGET MOSAICMEM_PRAGMA(clang attribute pop)
#else
#define MOSAICMEM_BEGIN_TARGET(name) \
    MOSAICMEM_PRAGMA(GCC push_options) MOSAICMEM_PRAGMA(GCC target(name))
#define MOSAICMEM_END_TARGET MOSAICMEM_PRAGMA(GCC pop_options)
#endif
