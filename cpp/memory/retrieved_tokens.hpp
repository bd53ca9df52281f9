// What a store shows to the views of a window: patches, and their tokens aligned to each view.
#pragma once

#include <optional>
#include <span>

#include "cpp/memory/answers.hpp"
#include "cpp/memory/retrieval.hpp"

namespace mosaicmem {

// Views are looked through in parallel; params has one entry for each. False, and nothing is
// written, where the store has more patches than there is room for, and top_k asks for them: it has
// grown since they were counted.
bool retrieve_window(const StoreState& state, std::span<const View> views,
                     std::span<const RetrievalParams> params, const FoundArrays& found,
                     int num_threads);

// The same, and the tokens. Written for as many patches as any view has; what is beyond them is
// left as it is, but for the ids. Returns the observations that patches come from, in the order of
// their slots: the table of `sources`. Room for no channels is of a store that was empty when it
// was asked for them, and finds nothing; room for others than the store has is a
// std::runtime_error.
std::optional<ObservationTable> retrieve_tokens(const StoreState& state,
                                                std::span<const View> views,
                                                std::span<const RetrievalParams> params,
                                                const FoundArrays& found, const TokenArrays& tokens,
                                                int num_threads);

}  // namespace mosaicmem
