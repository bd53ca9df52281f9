// Tasks of the kernels that encode positions and cameras into token features.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "cpp/base/heads.hpp"

namespace mosaicmem {

// Tokens that are encoded in all heads before the next ones, so that their tables stay in cache.
constexpr std::size_t kTokenTile = 64;

// The fewest tiles that are worth starting a thread for.
template <class T>
std::size_t encode_grain(const HeadFeatures<T>& f) {
    return (1 << 17) / (f.batch * f.heads * kTokenTile * f.dim + 1) + 1;
}

// Whether to write the result with streaming stores, past the caches: it is larger than a core's
// caches, and all its rows begin at a cache line.
template <class T>
bool should_stream(const HeadFeatures<T>& f) {
    constexpr std::size_t kCacheLine = 64, kMuch = 2 << 20;
    const HeadStrides& s = f.out_strides;
    const std::size_t places = reinterpret_cast<std::size_t>(f.out) | s.batch * sizeof(T) |
                               s.head * sizeof(T) | s.token * sizeof(T);
    return places % kCacheLine == 0 && f.batch * f.heads * f.tokens * f.dim * sizeof(T) >= kMuch;
}

// Streaming stores take whole aligned vectors, whatever the vector width. These say whether
// features written from `first` on, or in two halves of n, qualify.
constexpr std::size_t kWidest = 16;

constexpr bool at_vectors(std::size_t first) { return first % kWidest == 0; }

// A half of 8 or 4 fills vectors only on narrower machines; wider ones do not stream it.
constexpr bool halves_at_vectors(std::size_t n) { return n % kWidest == 0 || n == 8 || n == 4; }

struct RotaryTask {
    std::size_t first, last;  // tokens, at most kTokenTile
    const float *cos, *sin;   // (tokens, dim / 2)
    bool interleaved, inverse;
    bool stream;  // write past the caches
};

// Features [begin, end) of a head are multiplied by matrices of `group`.
struct MatrixRun {
    std::size_t begin, end, group;
};

// The components of a four-vector are `spread` features apart: component j of one that begins at
// feature e is feature e + j * spread. So feature e of a run becomes
//   sum over j of coefficient[j][e % period] * x[e - e % (4 spread) + j spread + e % spread]
// with the coefficients of the token's camera, coefficient (cameras, groups, 4, period).
template <class F>
struct CameraMatrices {
    std::span<const MatrixRun> runs;
    std::size_t spread, period, groups;
    const F* coefficient;
    const std::int32_t* camera;  // (tokens)
};

// The last half of a head rotates with x and y: two quarters of split-half pairs, (a, b) ->
// (a cos + b sin, b cos - a sin), or by the opposite angle if inverse. cos, sin (tokens, dim / 4),
// or null.
template <class F>
struct QuarterRotation {
    const F *cos, *sin;
    bool inverse;
};

struct CameraTask {
    std::size_t first, last;  // tokens
    CameraMatrices<float> matrices;
    QuarterRotation<float> rotation;
    bool stream;  // write past the caches
};

}  // namespace mosaicmem
