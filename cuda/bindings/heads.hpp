// Adapters for features of attention heads on the GPU: (batch, heads, tokens, dim), with contiguous
// features per token.
#pragma once

#include "cpp/base/heads.hpp"
#include "cuda/base/half_types.hpp"
#include "cuda/bindings/device_array.hpp"

namespace mosaicmem::bindings {

inline HeadStrides strides_of(const DeviceArray& x) {
    return {x.strides.at(0), x.strides.at(1), x.strides.at(2)};
}

template <class T>
HeadFeatures<T> features_of(const DeviceArray& x, const DeviceArray& out) {
    return {x.as<T>(),   out.as<T>(), strides_of(x), strides_of(out),
            x.extent(0), x.extent(1), x.extent(2),   x.extent(3)};
}

}  // namespace mosaicmem::bindings
