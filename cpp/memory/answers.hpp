// Where a store writes what it answers: arrays of the caller, in the memory of the host or of a
// device. All are padded: each of the views has as much room as any.
#pragma once

#include <cstddef>
#include <cstdint>

namespace mosaicmem {

// Patches that each view sees, front to back, by (depth, id).
struct FoundArrays {
    std::size_t top_k;  // that there is room for
    // (views, top_k): -1, or 0, beyond the count
    std::int64_t* ids;
    double *scores, *pixels, *depth;  // before the diversity penalty; (u, v) and metres, of centres
    std::int32_t* count;              // (views)
};

// The tokens of those patches, `cells` for each, in place: fewer live at the borders of a keyframe,
// and where it has no depth.
struct TokenArrays {
    std::size_t cells;     // patch_size^2
    std::size_t channels;  // that there is room for
    // (views, top_k)
    std::int32_t* sources;    // positions in a table of observations; -1: no patch
    std::uint8_t* generated;  // whether a model made the patch's keyframe up
    // (views, top_k, cells, ...), zero where not valid
    float* latents;                  // channels
    double* positions;               // t, y, x in cells of the target
    std::int32_t* source_positions;  // row and column in the keyframe
    float* depth;                    // metres
    float* confidence;
    std::uint8_t* valid;
    std::uint8_t* coverage;     // (views, rows, columns): what bilinear footprints reach
    std::uint8_t* observed;     // of the coverage, what observed keyframes reach
    std::size_t rows, columns;  // of the target grid
    double stride;              // pixels per cell
    double seconds_per_latent;  // for t as the age in latent frames; 0: t is the view
};

// Canvases of views, one after the other.
struct CanvasArrays {
    std::size_t channels;    // that there is room for
    float* latents;          // (views, rows, columns, channels), zero where uncovered
    std::uint8_t* coverage;  // (views, rows, columns)
    float* depth;            // metres, of the front surface; 0 where uncovered
    std::int32_t* source;    // position in a table, of what counts most in a cell; -1 for none
    float* weight;           // total worth; 0 where uncovered
    std::uint8_t* observed;  // of the coverage, where `source` is an observed keyframe
};

}  // namespace mosaicmem
