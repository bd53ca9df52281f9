// Adapters for features of attention heads: (batch, heads, tokens, dim) with any strides, as long
// as the features of a token are contiguous. Python has ensured that, and allocated the outputs.
#pragma once

#include "cpp/attention/rope.hpp"
#include "cpp/base/heads.hpp"
#include "cpp/bindings/arrays.hpp"

namespace mosaicmem::bindings {

template <class T>
using Strided = py::array_t<T, kAligned>;
template <class T>
using StridedOut = py::array_t<T, 0>;

template <class T, int kFlags>
HeadStrides strides_of(const py::array_t<T, kFlags>& x) {
    const auto elements = [&](int axis) {
        return static_cast<std::size_t>(x.strides(axis)) / sizeof(T);
    };
    return {elements(0), elements(1), elements(2)};
}

template <class T>
HeadFeatures<T> features_of(const Strided<T>& x, StridedOut<T>& out) {
    return {x.data(),     out.mutable_data(), strides_of(x), strides_of(out),
            extent(x, 0), extent(x, 1),       extent(x, 2),  extent(x, 3)};
}

inline Pairing pairing_of(bool interleaved) {
    return interleaved ? Pairing::interleaved : Pairing::split_half;
}

}  // namespace mosaicmem::bindings
