// What the kernels are given that write positions into the features of tokens.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "cpp/base/heads.hpp"

namespace mosaicmem {

// Tokens that are encoded for all heads before the next ones, so that tables stay in cache.
constexpr std::size_t kTokenTile = 64;

// Tiles that are worth a thread.
template <class T>
std::size_t encode_grain(const HeadFeatures<T>& f) {
    return (1 << 17) / (f.batch * f.heads * kTokenTile * f.dim + 1) + 1;
}

// Whether the result should be written past the caches: it is larger than what a core has of them,
// and all its rows begin at a cache line.
template <class T>
bool should_stream(const HeadFeatures<T>& f) {
    constexpr std::size_t kCacheLine = 64, kMuch = 2 << 20;
    const HeadStrides& s = f.out_strides;
    const std::size_t places = reinterpret_cast<std::size_t>(f.out) | s.batch * sizeof(T) |
                               s.head * sizeof(T) | s.token * sizeof(T);
    return places % kCacheLine == 0 && f.batch * f.heads * f.tokens * f.dim * sizeof(T) >= kMuch;
}

// Writing past the caches takes whole vectors at their own addresses, at every width. These say
// whether features that a kernel writes from `first` on, or in two halves of n, lie so.
constexpr std::size_t kWidest = 16;

constexpr bool at_vectors(std::size_t first) { return first % kWidest == 0; }

// A narrower half is one vector of a narrower machine, and is not streamed by a wider one.
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

// Four-vectors lie at a distance of `spread` features: component j of one that begins at feature e
// is e + j * spread. So feature e of a run becomes
//   sum over j of coefficient[j][e % period] * x[e - e % (4 spread) + j spread + e % spread]
// with the coefficients of the token's camera, coefficient (cameras, groups, 4, period).
template <class F>
struct CameraMatrices {
    std::span<const MatrixRun> runs;
    std::size_t spread, period, groups;
    const F* coefficient;
    const std::int32_t* camera;  // (tokens)
};

// The last half of a head turns with x and y: two quarters of split-half pairs, (a, b) -> (a cos +
// b sin, b cos - a sin), or the opposite way if inverse. cos, sin (tokens, dim / 4), or null.
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
