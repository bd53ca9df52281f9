// Arrays that begin at a cache line, as vectors of any width and streaming stores need.
#pragma once

#include <cstddef>
#include <memory>
#include <new>

namespace mosaicmem {

struct FreeAligned {
    void operator()(void* p) const { ::operator delete[](p, std::align_val_t(64)); }
};

template <class T>
using AlignedArray = std::unique_ptr<T[], FreeAligned>;

// n numbers, not initialised.
template <class T>
AlignedArray<T> aligned_array(std::size_t n) {
    return AlignedArray<T>(static_cast<T*>(::operator new[](n * sizeof(T), std::align_val_t(64))));
}

}  // namespace mosaicmem
