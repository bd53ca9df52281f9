// View-conditioned retrieval, strategy top_k.
#pragma once

#include <algorithm>
#include <vector>

#include "cpp/geometry/frustum.hpp"
#include "cpp/memory/score.hpp"
#include "cpp/memory/store_state.hpp"

namespace mosaicmem {

struct RetrievedPatch {
    PatchId id;
    double score;  // before the diversity penalty
    double u, v;   // pixels, of the centre
    double depth;  // metres, of the centre
};

// Front to back, by (depth, id).
std::vector<RetrievedPatch> retrieve(const StoreState& state, const View& view,
                                     const RetrievalParams& params);

// The penalised score of the last patch that greedy selection takes: what another patch must reach
// to be taken in its stead. 0 if it takes fewer than top_k.
double least_taken(const StoreState& state, const View& view, const RetrievalParams& params);

// An upper bound of the scores of patches in a box, none of them seen after `newest_time`; -1 if
// all of it lies outside the frustum. Sets the pixels inside the image that its points project to.
// Margins absorb rounding errors.
template <class AnyBox>
double score_bound(const AnyBox& box, double newest_time, const Affine& camera_from_box,
                   const View& view, const RetrievalParams& params, PixelRect& rect) {
    constexpr double kMargin = 1e-10;
    BoxInView seen;
    if (!see_box(box, camera_from_box, view, seen)) return -1;
    rect = seen.rect;
    const double du = std::max({0.0, rect.u_first - view.k.cx, view.k.cx - rect.u_last});
    const double dv = std::max({0.0, rect.v_first - view.k.cy, view.k.cy - rect.v_last});
    return (centrality_of(du, dv, view) + kMargin) * proximity_of(seen.nearest) *
           recency_of(newest_time, params.time, params.half_life) * (1 + kMargin);
}

}  // namespace mosaicmem
