// The threshold above which a view lists patches, by score and, among equal scores, by id; and the
// bins that count how many patches are above it.
#pragma once

#include "cuda/base/launch.cuh"
#include "cuda/memory/retrieval.hpp"

namespace mosaicmem::cuda::retrieval {

// kScoreBins cover all scores up to 1: the exponent and seven mantissa bits of a double.
constexpr double kLeastScore = 0x1p-126;
constexpr int kScoreShift = 45;
// Bins within one of them, or within the range below all of them.
constexpr int kWindowBits = 13;
constexpr std::size_t kWindowBins = std::size_t{1} << kWindowBits;
constexpr int kAllBelowShift = 49;  // of a window over all scores; the bits of 2.0 are 2^62
static_assert(kWindowBins << kAllBelowShift == std::size_t{1} << 62);

// Scores as integers: non-negative doubles order like their bits.
__device__ inline unsigned long long bits_of(double score) {
    return static_cast<unsigned long long>(__double_as_longlong(score));
}
__device__ inline double score_of(std::uint64_t bits) {
    return __longlong_as_double(static_cast<long long>(bits));
}

__device__ inline bool passes(const RetrievalState& state, double score, std::uint64_t id) {
    return score > state.threshold || (score == state.threshold && id < state.id_limit);
}

// Higher bins come first.
__device__ inline std::size_t bin_of(const RetrievalState& state, double score, std::uint64_t id) {
    if (state.counts_ids) {
        if (score > state.threshold || id < state.low) return kWindowBins;
        return kWindowBins - 1 - ((id - state.low) >> state.shift);
    }
    const std::uint64_t bits = bits_of(score);
    if (bits < state.low) return 0;
    return static_cast<std::size_t>(
        min((bits - state.low) >> state.shift, static_cast<std::uint64_t>(kScoreBins - 1)));
}

// Resets the bins to cover all scores; scores that share a bin differ by less than 1 %.
__device__ inline void count_all_scores(RetrievalState& state) {
    state.low = bits_of(kLeastScore);
    state.shift = kScoreShift;
    state.id_limit = ~std::uint64_t{0};
    state.counts_ids = state.is_window = state.is_counted = 0;
}

// Sets finer bins within one bin, which alone has more patches than there is room for.
__device__ inline void count_within(RetrievalState& state, std::size_t bin) {
    const int finer = max(0, state.shift - kWindowBits);
    if (state.counts_ids) {
        state.low += (kWindowBins - 1 - bin) << state.shift;
        state.id_limit = state.low + (std::uint64_t{1} << state.shift);
        state.shift = finer;
        return;
    }
    if (bin == 0 && !state.is_window) {  // also scores below all bins, down to 0
        state.threshold = 0;
        state.low = 0;
        state.shift = kAllBelowShift;
        state.is_window = 1;
        return;
    }
    const std::uint64_t bits = state.low + (static_cast<std::uint64_t>(bin) << state.shift);
    if (state.shift == 0 || (state.is_window && state.least == state.most)) {
        state.threshold = score_of(state.shift == 0 ? bits : state.least);
        state.counts_ids = 1;
        state.is_window = 0;
        state.low = 0;
        for (state.shift = 0; state.most_id >> state.shift >= kWindowBins;) ++state.shift;
        return;
    }
    state.threshold = score_of(bits);
    state.low = bits;
    state.shift = finer;
    state.is_window = 1;
}

// Sets the threshold to the lower end of a bin.
__device__ inline void begin_at(RetrievalState& state, std::size_t bin) {
    if (state.counts_ids) {
        state.id_limit = state.low + ((kWindowBins - bin) << state.shift);
    } else {
        const bool is_all = bin == 0 && !state.is_window;
        state.threshold =
            is_all ? 0 : score_of(state.low + (static_cast<std::uint64_t>(bin) << state.shift));
    }
}

}  // namespace mosaicmem::cuda::retrieval
