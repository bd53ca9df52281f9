// Function multiversioning, so that plain loops use the machine's full vector width.
#pragma once

// Compiles a leaf kernel once per x86-64 level and picks one when the library is loaded. Everything
// it calls must be inlined into it. Empty where the loader has no ifunc, and under the sanitizers,
// whose runtime is not initialised yet when ifuncs are resolved. Kernels that need a certain
// register tiling use explicit vectors instead: see levels.hpp.
#if defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 12 && defined(__x86_64__) && \
    defined(__GLIBC__) && !defined(MOSAICMEM_SANITIZE) && !defined(__SANITIZE_THREAD__)
#define MOSAICMEM_CLONES \
    __attribute__((target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")))
#else
#define MOSAICMEM_CLONES
#endif

#define MOSAICMEM_INLINE inline __attribute__((always_inline))
#define MOSAICMEM_LAMBDA __attribute__((always_inline))
