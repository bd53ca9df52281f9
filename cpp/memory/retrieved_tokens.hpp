// Retrieves patches for the views of a window, and their tokens aligned to each view.
#pragma once

#include <optional>
#include <span>

#include "cpp/memory/answers.hpp"
#include "cpp/memory/retrieval.hpp"

namespace mosaicmem {

// Processes views in parallel; params has one entry per view. Returns false and writes nothing if
// found.top_k is below both top_k and the number of living patches: the store has grown since the
// caller counted them.
bool retrieve_window(const StoreState& state, std::span<const View> views,
                     std::span<const RetrievalParams> params, const FoundArrays& found,
                     int num_threads);

// Like retrieve_window(), but writes the tokens as well and returns nullopt for false. Writes
// tokens for as many patches as the view with the most has; leaves token arrays beyond that
// unchanged. Returns the observations that patches come from, in slot order: the table that
// `sources` refers to. tokens.channels = 0 means that the store was empty when the caller asked for
// its channels: nothing is found. Throws std::runtime_error if tokens.channels otherwise differs
// from the store's.
std::optional<ObservationTable> retrieve_tokens(const StoreState& state,
                                                std::span<const View> views,
                                                std::span<const RetrievalParams> params,
                                                const FoundArrays& found, const TokenArrays& tokens,
                                                int num_threads);

}  // namespace mosaicmem
