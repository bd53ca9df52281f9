// View-conditioned retrieval, strategy top_k.
#pragma once

#include <vector>

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

}  // namespace mosaicmem
