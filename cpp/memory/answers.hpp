// Where a store writes query results: arrays that the caller owns, in host or device memory. All
// are padded to equal room per view.
#pragma once

#include <cstddef>
#include <cstdint>

namespace mosaicmem {

// The patches retrieved for each view, front to back, by (depth, id).
struct FoundArrays {
    std::size_t top_k;  // room per view
    // (views, top_k); beyond the count ids are -1, the rest 0
    std::int64_t* ids;
    double *scores, *pixels, *depth;  // before the diversity penalty; (u, v) and metres, of centres
    std::int32_t* count;              // (views)
};

// The tokens of those patches, `cells` entries per patch, one for each of its cells. Entries beyond
// the keyframe's border or without depth hold no token.
struct TokenArrays {
    std::size_t cells;     // patch_size^2
    std::size_t channels;  // room per token
    // (views, top_k)
    std::int32_t* sources;    // positions in the observation table; -1: no patch
    std::uint8_t* generated;  // whether the patch's keyframe was generated
    // (views, top_k, cells, ...), zero where not valid
    float* latents;                  // channels
    double* positions;               // t, y, x in target cells
    std::int32_t* source_positions;  // row and column in the keyframe
    float* depth;                    // metres
    float* confidence;
    std::uint8_t* valid;
    std::uint8_t* coverage;     // (views, rows, columns): cells that bilinear footprints reach
    std::uint8_t* observed;     // covered cells that observed keyframes reach
    std::size_t rows, columns;  // of the target grid
    double stride;              // pixels per cell
    double seconds_per_latent;  // makes t the age in latent frames; 0: t is the view's index
};

// Canvases, one per view, contiguous.
struct CanvasArrays {
    std::size_t channels;    // room per cell
    float* latents;          // (views, rows, columns, channels), zero where uncovered
    std::uint8_t* coverage;  // (views, rows, columns)
    float* depth;            // metres, of the front surface; 0 where uncovered
    std::int32_t* source;    // table position of the source that weighs most; -1: none
    float* weight;           // total weight; 0 where uncovered
    std::uint8_t* observed;  // covered cells whose `source` is an observed keyframe
};

}  // namespace mosaicmem
