// View-conditioned retrieval on the device, strategy top_k: the twin of cpp/retrieval.cpp, for all
// views of a window at once.
#pragma once

#include <cstddef>
#include <cstdint>

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

// Front to back, by (depth, id); (views, top_k), ids -1 beyond the count.
struct RetrievedOnDevice {
    std::int64_t* ids;
    double *scores, *pixels, *depth;  // pixels (views, top_k, 2)
    std::int32_t* places;             // (views, top_k, 2): row of the mirror, and patch
    std::int32_t* count;              // (views)
};

// params.time is not read. Exact: ids, scores and order are those of the CPU.
void retrieve(const Mirror& mirror, const RetrievalView* views, std::size_t count,
              const RetrievalParams& params, const RetrievalScratch& scratch,
              const RetrievedOnDevice& retrieved, const Stream& stream);

// The tokens of retrieved patches, `cells` for each, fewer at the borders of a keyframe.
struct ProjectedOnDevice {
    std::size_t cells;  // patch_size^2
    // (views, top_k, cells, ...), zero where not valid
    float* latents;    // channels
    float* positions;  // t, y, x in cells of the target
    float* depth;      // metres
    float* confidence;
    std::uint8_t* valid;
    std::uint8_t* coverage;     // (views, rows, columns)
    std::uint8_t* observed;     // of the coverage, what observed keyframes reach
    std::size_t rows, columns;  // of the target grid
    double stride;              // pixels per cell
    double seconds_per_latent;  // for t as the age in latent frames; 0: t is the view
};

void project_tokens(const Mirror& mirror, const RetrievalView* views, std::size_t count,
                    std::size_t top_k, const std::int32_t* places,
                    const ProjectedOnDevice& projected, const Stream& stream);

}  // namespace mosaicmem::cuda
