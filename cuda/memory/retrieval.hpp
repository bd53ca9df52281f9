// View-conditioned retrieval on the GPU, strategy top_k: the counterpart of
// cpp/memory/retrieval.cpp, for all views of a window at once.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cpp/memory/answers.hpp"
#include "cpp/memory/score.hpp"
#include "cuda/base/stream.hpp"
#include "cuda/memory/mirror.hpp"

namespace mosaicmem::cuda {

// A view, as stored in device memory.
struct RetrievalView {
    View view;
    Affine camera_from_index;
    double time;  // seconds
};

// A patch that may be among the best of a view.
struct RetrievalCandidate {
    Projected at;  // with the score, without penalties
    std::uint64_t id;
    std::int32_t row, patch;  // row in the mirror's observations, patch in that one
    std::uint32_t penalties, is_gone;
};

// The progress of a view. `seen` counts patches that may be listed; `listed` counts those that
// score above the threshold, or equal to it with an id below the limit. The bins of the histogram
// are 2^shift wide each, beginning at `low`: of scores as integers, or of ids, the smallest ids in
// the highest bins.
struct RetrievalState {
    double threshold, target;  // least score to list, and how many to list
    std::uint64_t id_limit, low;
    unsigned long long least, most, most_id;  // of the scores and ids counted in a window
    std::int32_t shift;
    std::uint32_t seen, listed, taken, is_done, rounds, blocks_past;
    // counts_ids: the bins are of ids. is_window: they are of scores within one bin of the previous
    // ones. is_counted: they count everything that was listed.
    std::uint32_t counts_ids, is_window, is_counted;
};

struct RetrievalScratch {
    RetrievalState* states;          // (views)
    RetrievalCandidate* candidates;  // (views, room)
    std::size_t room;
    std::uint64_t* seen;  // (views, seen_room): positions in the table of centres
    std::size_t seen_room;
    std::uint32_t* histogram;           // (views, kScoreBins)
    RetrievalCandidate* taken;          // (views, top_k), in the order taken
    std::int32_t *first_of_bin, *next;  // (views, kTakenBins^2), (views, top_k)
};

constexpr std::size_t kScoreBins = 126 * 128 + 1;
constexpr std::size_t kTakenBins = 65;  // per axis of the image

// Room per view: for at least `fewest` and at most `most` candidates, and for `seen` times as many
// patches that are noted before footprints are computed.
struct RetrievalRoom {
    std::size_t fewest = 1 << 13, most = 1 << 17, seen = 4;
};

constexpr std::size_t kMostTopK = 1 << 16;

std::size_t retrieve_workspace_bytes(std::size_t views, std::size_t top_k,
                                     const RetrievalRoom& room);

// Ignores params.time. places (views, top_k, 2): row of the mirror, and patch. Exact: ids, scores
// and order equal those of the CPU.
void retrieve(const Mirror& mirror, const RetrievalView* views, std::size_t count,
              const RetrievalParams& params, const RetrievalRoom& room, const FoundArrays& found,
              std::int32_t* places, void* workspace, const Stream& stream);

// Writes the tokens of the patches at `places`; `sources` are rows of the mirror.
void project_tokens(const Mirror& mirror, const RetrievalView* views, std::size_t count,
                    std::size_t top_k, const std::int32_t* places, const TokenArrays& tokens,
                    const Stream& stream);

}  // namespace mosaicmem::cuda
