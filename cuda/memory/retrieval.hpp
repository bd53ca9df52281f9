// View-conditioned retrieval on the device, strategy top_k: the twin of cpp/memory/retrieval.cpp,
// for all views of a window at once.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cpp/memory/answers.hpp"
#include "cpp/memory/score.hpp"
#include "cuda/base/stream.hpp"
#include "cuda/memory/mirror.hpp"

namespace mosaicmem::cuda {

// As it lies in device memory.
struct RetrievalView {
    View view;
    Affine camera_from_index;
    double time;  // seconds
};

// A patch that may be among the best of a view.
struct RetrievalCandidate {
    Projected at;  // with the score, but for penalties
    std::uint64_t id;
    std::int32_t row, patch;  // of the mirror's observations, and in it
    std::uint32_t penalties, is_gone;
};

// How far a view is. Seen is what may be listed. Listed is what has more than the threshold, or as
// much and an id below the limit. The bins of the histogram are of 2^shift each, beginning at
// `low`: scores as integers, or ids, of which the smaller come first.
struct RetrievalState {
    double threshold, target;  // and how many to list
    std::uint64_t id_limit, low;
    unsigned long long least, most, most_id;  // of what was counted in a window
    std::int32_t shift;
    std::uint32_t seen, listed, taken, is_done, rounds, blocks_past;
    // The bins are of ids; are of scores within one bin of before; hold all that was listed.
    std::uint32_t counts_ids, is_window, is_counted;
};

struct RetrievalScratch {
    RetrievalState* states;          // (views)
    RetrievalCandidate* candidates;  // (views, room)
    std::size_t room;
    std::uint64_t* seen;  // (views, seen_room): places in the table of centres
    std::size_t seen_room;
    std::uint32_t* histogram;           // (views, kScoreBins)
    RetrievalCandidate* taken;          // (views, top_k), as they are taken
    std::int32_t *first_of_bin, *next;  // (views, kTakenBins^2), (views, top_k)
};

constexpr std::size_t kScoreBins = 126 * 128 + 1;
constexpr std::size_t kTakenBins = 65;  // along an axis of the image

// How many candidates are listed for a view, at least and at most, and how many are noted for each
// that is listed before footprints are looked at.
struct RetrievalRoom {
    std::size_t fewest = 1 << 13, most = 1 << 17, seen = 4;
};

constexpr std::size_t kMostTopK = 1 << 16;

std::size_t retrieve_workspace_bytes(std::size_t views, std::size_t top_k,
                                     const RetrievalRoom& room);

// params.time is not read. places (views, top_k, 2): row of the mirror, and patch. Exact: ids,
// scores and order are those of the CPU.
void retrieve(const Mirror& mirror, const RetrievalView* views, std::size_t count,
              const RetrievalParams& params, const RetrievalRoom& room, const FoundArrays& found,
              std::int32_t* places, void* workspace, const Stream& stream);

// The tokens of the patches at `places`; sources are rows of the mirror.
void project_tokens(const Mirror& mirror, const RetrievalView* views, std::size_t count,
                    std::size_t top_k, const std::int32_t* places, const TokenArrays& tokens,
                    const Stream& stream);

}  // namespace mosaicmem::cuda
