#include "attention.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "matmul_tile.hpp"
#include "parallel.hpp"
#include "simd.hpp"

namespace mosaicmem {
namespace {

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();
constexpr std::size_t kKeyTile = 128;               // a multiple of kTileColumns
constexpr std::size_t kQueryTile = 16 * kTileRows;  // queries that share one packing of a key tile

std::size_t round_up(std::size_t n, std::size_t to) { return (n + to - 1) / to * to; }

// Online softmax of a tile of queries: unnormalised output o, running maximum m, running sum l.
struct State {
    std::vector<float> o;  // (kQueryTile, padded value_dim)
    float m[kQueryTile], l[kQueryTile];
};

// One tile of keys, packed for the matrix product and padded with zeros.
struct KeyTile {
    std::vector<float> k;  // (kKeyTile / kTileColumns, head_dim, kTileColumns)
    std::vector<float> v;  // (kKeyTile, padded value_dim)
    float bias[kKeyTile];  // -infinity where a key takes no part
    bool any;              // whether one takes part
};

// logits (kTileRows, kKeyTile) of `rows` queries.
MOSAICMEM_INLINE void tile_logits(const float* q, std::size_t rows, std::size_t head_dim,
                                  const KeyTile& keys, float scale,
                                  float (&logits)[kTileRows][kKeyTile]) {
    for (std::size_t first = 0; first < kKeyTile; first += kTileColumns) {
        float acc[kTileRows][kTileColumns] = {};
        matmul_tile(q, head_dim, rows, keys.k.data() + first * head_dim, kTileColumns, head_dim,
                    acc);
        for (std::size_t r = 0; r < kTileRows; ++r) {
            for (std::size_t c = 0; c < kTileColumns; ++c) {
                logits[r][first + c] = acc[r][c] * scale + keys.bias[first + c];
            }
        }
    }
}

// Replaces the logits of one query by exp(logit - m) and rescales what it has so far. Maximum and
// sum run in sixteen lanes, which vectorise without reassociating anything.
MOSAICMEM_INLINE void online_softmax(float (&logits)[kKeyTile], float& m, float& l, float* o,
                                     std::size_t value_dim) {
    constexpr std::size_t kLanes = 16;
    float lane[kLanes];
    for (std::size_t c = 0; c < kLanes; ++c) lane[c] = logits[c];
    for (std::size_t first = kLanes; first < kKeyTile; first += kLanes) {
        for (std::size_t c = 0; c < kLanes; ++c) {
            lane[c] = logits[first + c] > lane[c] ? logits[first + c] : lane[c];
        }
    }
    float largest = m;
    for (std::size_t c = 0; c < kLanes; ++c) largest = lane[c] > largest ? lane[c] : largest;
    for (std::size_t c = 0; c < kLanes; ++c) lane[c] = 0.0f;
    for (std::size_t first = 0; first < kKeyTile; first += kLanes) {
        for (std::size_t c = 0; c < kLanes; ++c) {
            const float p = exp_nonpositive(logits[first + c] - largest);
            logits[first + c] = p;
            lane[c] += p;
        }
    }
    float sum = 0.0f;
    for (std::size_t c = 0; c < kLanes; ++c) sum += lane[c];
    const float decay = exp_nonpositive(m - largest);
    l = l * decay + sum;
    m = largest;
    for (std::size_t d = 0; d < value_dim; ++d) o[d] *= decay;
}

MOSAICMEM_CLONES
void attend_tile(const float* q, std::size_t queries, std::size_t head_dim, const KeyTile& keys,
                 std::size_t value_dim, float scale, State& state) {
    float logits[kTileRows][kKeyTile];
    for (std::size_t first = 0; first < queries; first += kTileRows) {
        const std::size_t rows = queries - first < kTileRows ? queries - first : kTileRows;
        tile_logits(q + first * head_dim, rows, head_dim, keys, scale, logits);
        for (std::size_t r = 0; r < rows; ++r) {
            online_softmax(logits[r], state.m[first + r], state.l[first + r],
                           state.o.data() + (first + r) * value_dim, value_dim);
        }
        for (std::size_t column = 0; column < value_dim; column += kTileColumns) {
            float acc[kTileRows][kTileColumns];
            for (std::size_t r = 0; r < kTileRows; ++r) {
                for (std::size_t c = 0; c < kTileColumns; ++c) {
                    acc[r][c] = r < rows ? state.o[(first + r) * value_dim + column + c] : 0.0f;
                }
            }
            matmul_tile(&logits[0][0], kKeyTile, rows, keys.v.data() + column, value_dim, kKeyTile,
                        acc);
            for (std::size_t r = 0; r < rows; ++r) {
                for (std::size_t c = 0; c < kTileColumns; ++c)
                    state.o[(first + r) * value_dim + column + c] = acc[r][c];
            }
        }
    }
}

void pack_keys(const AttentionShape& shape, const float* k, const float* v,
               const std::uint8_t* mask, const float* bias, std::size_t first,
               std::size_t padded_value_dim, KeyTile& tile) {
    tile.any = false;
    for (std::size_t key = 0; key < kKeyTile; ++key) {
        const bool present = first + key < shape.keys && (!mask || mask[first + key]) &&
                             !(bias && bias[first + key] == kMinusInfinity);
        tile.any |= present;
        tile.bias[key] = present ? (bias ? bias[first + key] : 0.0f) : kMinusInfinity;
        float* panel =
            &tile.k[key / kTileColumns * kTileColumns * shape.head_dim + key % kTileColumns];
        for (std::size_t d = 0; d < shape.head_dim; ++d) {
            panel[d * kTileColumns] = present ? k[(first + key) * shape.head_dim + d] : 0.0f;
        }
        for (std::size_t d = 0; d < shape.value_dim; ++d) {
            tile.v[key * padded_value_dim + d] =
                present ? v[(first + key) * shape.value_dim + d] : 0.0f;
        }
    }
}

}  // namespace

void attention(const AttentionShape& shape, const float* q, const float* k, const float* v,
               const std::uint8_t* mask, const float* bias, float scale, float* out, float* lse,
               int num_threads) {
    const std::size_t value_dim = round_up(shape.value_dim, kTileColumns);
    const std::size_t query_tiles = (shape.queries + kQueryTile - 1) / kQueryTile;
    const std::size_t work = shape.keys * kQueryTile * (shape.head_dim + value_dim);
    const std::size_t grain = (1 << 22) / (work + 1) + 1;
    parallel_for(
        shape.batch * shape.heads * query_tiles, grain, num_threads,
        [&](std::size_t begin, std::size_t end) {
            State state;
            state.o.resize(kQueryTile * value_dim);
            KeyTile tile;
            tile.k.resize(kKeyTile * shape.head_dim);
            tile.v.assign(kKeyTile * value_dim, 0.0f);
            for (std::size_t item = begin; item < end; ++item) {
                const std::size_t head = item / query_tiles, batch = head / shape.heads;
                const std::size_t first = item % query_tiles * kQueryTile;
                const std::size_t queries = std::min(kQueryTile, shape.queries - first);
                std::fill(state.o.begin(), state.o.end(), 0.0f);
                std::fill_n(state.m, kQueryTile, kMinusInfinity);
                std::fill_n(state.l, kQueryTile, 0.0f);
                for (std::size_t key = 0; key < shape.keys; key += kKeyTile) {
                    pack_keys(shape, k + head * shape.keys * shape.head_dim,
                              v + head * shape.keys * shape.value_dim,
                              mask ? mask + batch * shape.keys : nullptr,
                              bias ? bias + batch * shape.keys : nullptr, key, value_dim, tile);
                    if (!tile.any) continue;
                    attend_tile(q + (head * shape.queries + first) * shape.head_dim, queries,
                                shape.head_dim, tile, value_dim, scale, state);
                }
                for (std::size_t i = 0; i < queries; ++i) {
                    const float inverse =
                        state.l[i] == 0.0f ? 0.0f : 1.0f / state.l[i];  // NaN stays NaN
                    const std::size_t row = head * shape.queries + first + i;
                    for (std::size_t d = 0; d < shape.value_dim; ++d) {
                        out[row * shape.value_dim + d] = state.o[i * value_dim + d] * inverse;
                    }
                    if (lse)
                        lse[row] =
                            state.l[i] == 0.0f ? kMinusInfinity : state.m[i] + std::log(state.l[i]);
                }
            }
        });
}

}  // namespace mosaicmem
