// PRoPE on the GPU: the counterpart of cpp/attention/prope.hpp.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cpp/base/heads.hpp"
#include "cuda/base/stream.hpp"

namespace mosaicmem::cuda {

constexpr std::size_t kMostRuns = 16;

// Like mosaicmem::CameraMatrices: features [begin, end) of a run are multiplied by the matrices of
// its group; runs are contiguous from the start of the head.
template <class F>
struct CameraMatrices {
    struct Run {
        unsigned begin, end, group;
    };
    unsigned run_count;
    Run runs[kMostRuns];
    std::size_t spread, period, groups;
    const F* coefficient;        // (cameras, groups, 4, period)
    const std::int32_t* camera;  // (tokens)
};

// Like mosaicmem::QuarterRotation.
template <class F>
struct QuarterRotation {
    const F *cos, *sin;  // (tokens, dim / 4) or null
    bool inverse;
};

// See mosaicmem::prope_apply. T and F as in rope.hpp.
template <class T, class F>
void prope_apply(const HeadFeatures<T>& features, const CameraMatrices<F>& matrices,
                 const QuarterRotation<F>& rotation, const Stream& stream);

}  // namespace mosaicmem::cuda
