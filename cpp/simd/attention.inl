// Attention of a group of queries, with an online softmax.
//
// Everything is transposed: a panel of 48 queries lies across the lanes, and keys run down. So rows
// of k and v are read in memory order, and maxima and sums need no cross-lane reduction.

constexpr int kPanelVectors = kPanelQueries / kLanes;
constexpr int kTileVectors = 3;                  // query vectors held in registers
constexpr int kTileKeys = kLanes == 16 ? 8 : 4;  // 24 accumulators of 32 registers, or 12 of 16
constexpr int kOutRows = 6;

// The unmasked keys of first .. first + kKeyTile, packed as the product reads them.
struct KeyTile {
    const float* k;
    const float* v;
    std::size_t k_stride, v_stride;  // in floats
    std::size_t count;
    float bias[kKeyTile];
    float time[kKeyTile];  // in half-lives times ln 2
};

MOSAICMEM_INLINE void widen_row(const float* from, std::size_t n, float* to) {
    __builtin_memcpy(to, from, n * sizeof(float));
}

MOSAICMEM_INLINE void widen_row(const std::uint16_t* from, std::size_t n, float* to) {
    std::size_t i = 0;
    for (; i + kLanes <= n; i += kLanes) store(load(from + i), to + i);
    for (; i < n; ++i) to[i] = __builtin_bit_cast(float, static_cast<std::uint32_t>(from[i]) << 16);
}

// One row of features as elements of the product, zero-padded to a whole element.
template <class Math, class T>
MOSAICMEM_INLINE void pack_row(const T* from, std::size_t n, float* to) {
    if constexpr (Math::kValues == 1) {
        widen_row(from, n, to);
    } else {
        if (n % 2) to[n / 2] = __builtin_bit_cast(float, static_cast<std::uint32_t>(from[n - 1]));
        __builtin_memcpy(to, from, n / 2 * sizeof(float));
    }
}

// The values of `count` keys: rows of float32 padded to `width`, or rows of two keys' bfloat16
// interleaved.
template <class Math, class T>
MOSAICMEM_INLINE void pack_values(const T* v, std::size_t stride, const std::uint8_t* chosen,
                                  std::size_t count, std::size_t value_dim, std::size_t width,
                                  float* to) {
    if constexpr (Math::kValues == 1) {
        for (std::size_t j = 0; j < count; ++j) {
            widen_row(v + chosen[j] * stride, value_dim, to + j * width);
        }
    } else {
        for (std::size_t j = 0; j < count; j += 2) {
            const bool pair = j + 1 < count;
            const T* low = v + chosen[j] * stride;
            const T* high = v + chosen[pair ? j + 1 : j] * stride;
            const Words keep = pair ? ~Words{} : Words{};
            float* row = to + j / 2 * width;
            std::size_t c = 0;
            for (; c + kLanes <= value_dim; c += kLanes) {
                store((Vector)((Words)load(low + c) >> 16 | ((Words)load(high + c) & keep)),
                      row + c);
            }
            for (; c < value_dim; ++c) {
                const std::uint32_t upper = pair ? high[c] : 0;
                row[c] = __builtin_bit_cast(float, low[c] | upper << 16);
            }
        }
    }
}

// Finds the unmasked keys of a tile, their biases and times. Returns how many keys there are.
inline std::size_t choose_keys(const AttentionTask& task, std::size_t first, KeyTile& tile,
                               std::uint8_t* chosen) {
    const std::size_t last = first + kKeyTile < task.keys ? first + kKeyTile : task.keys;
    tile.count = 0;
    for (std::size_t key = first; key < last; ++key) {
        const float bias = task.key_bias ? task.key_bias[key] : 0.0f;
        if ((task.key_mask && !task.key_mask[key]) || bias == -__builtin_inff()) continue;
        chosen[tile.count] = static_cast<std::uint8_t>(key - first);
        tile.bias[tile.count] = bias;
        if (task.key_time) tile.time[tile.count] = task.key_time[key];
        ++tile.count;
    }
    return last - first;
}

// A panel of queries and its online-softmax state after the keys so far.
struct Panel {
    const float* q;  // (elements, kPanelQueries)
    float* o;        // (kPanelQueries, width) not yet divided by l
    float *m, *l;    // (kPanelQueries) largest logit, sum of e^(logit - m)
    float* time;     // (kPanelQueries) in half-lives times ln 2
};

// By memcpy, since a pair of bfloat16 need not be 4-byte aligned.
MOSAICMEM_INLINE float element_at(const char* row, std::size_t i) {
    float x;
    __builtin_memcpy(&x, row + 4 * i, sizeof x);
    return x;
}

// Computes a tile's logits (keys, kPanelQueries) and updates each query's largest. Heads of more
// than kSumBlock elements have their own instantiation, since summing in blocks takes registers
// that the others need.
template <class Math, bool kBlocks>
inline void panel_logits(const KeyTile& keys, const Panel& panel, std::size_t elements, float scale,
                         bool decay, float* logits, Vector* largest) {
    for (std::size_t first = 0; first < keys.count; first += kTileKeys) {
        // Rows beyond the last key repeat this tile's first one: no maximum changes, and their
        // logits are never read.
        std::size_t key[kTileKeys];
        const char* row[kTileKeys];
        for (std::size_t r = 0; r < kTileKeys; ++r) {
            key[r] = first + (first + r < keys.count ? r : 0);
            row[r] = reinterpret_cast<const char*>(keys.k) + 4 * key[r] * keys.k_stride;
        }
        for (int c = 0; c < kPanelVectors; c += kTileVectors) {
            Vector acc[kTileKeys][kTileVectors] = {};
            const auto key_element = [&](int r, std::size_t d)
                                         MOSAICMEM_LAMBDA { return element_at(row[r], d); };
            const float* queries = panel.q + c * kLanes;
            if constexpr (kBlocks) {
                add_in_blocks<Math>(key_element, queries, kPanelQueries, elements, acc);
            } else {
                add_product<Math>(key_element, queries, kPanelQueries, elements, acc);
            }
#pragma GCC unroll 8
            for (int r = 0; r < kTileKeys; ++r) {
#pragma GCC unroll 8
                for (int i = 0; i < kTileVectors; ++i) {
                    acc[r][i] = acc[r][i] * scale + keys.bias[key[r]];
                    if (decay) {
                        acc[r][i] -=
                            magnitude(load(panel.time + (c + i) * kLanes) - keys.time[key[r]]);
                    }
                }
            }
#pragma GCC unroll 8
            for (int i = 0; i < kTileVectors; ++i) {
                Vector top = largest[c + i];
#pragma GCC unroll 8
                for (int r = 0; r < kTileKeys; ++r) {
                    top = larger(acc[r][i], top);
                    store(acc[r][i], logits + (first + r) * kPanelQueries + (c + i) * kLanes);
                }
                largest[c + i] = top;
            }
        }
    }
}

// Packs two rows of weights as pairs of bfloat16, the first in the lower half.
MOSAICMEM_INLINE Vector side_by_side(Vector low, Vector high) {
    const Words l = (Words)low, h = (Words)high;
    return (Vector)((l + 0x7FFFu + (l >> 16 & 1u)) >> 16 |
                    ((h + 0x7FFFu + (h >> 16 & 1u)) & 0xFFFF0000u));
}

// Turns logits into weights e^(logit - m), packed for the product, and adds them to l a few keys at
// a time, so that rounding errors stay small.
template <class Math>
MOSAICMEM_INLINE void panel_weights(std::size_t keys, const Vector* m, float* logits, Vector* l) {
    constexpr std::size_t kSumKeys = 16;
    for (std::size_t first = 0; first < keys; first += kSumKeys) {
        const std::size_t last = first + kSumKeys < keys ? first + kSumKeys : keys;
        Vector sum[kPanelVectors] = {};
        for (std::size_t j = first; j < last; j += Math::kValues) {
#pragma GCC unroll 16
            for (int c = 0; c < kPanelVectors; ++c) {
                const float* from = logits + j * kPanelQueries + c * kLanes;
                Vector p = exp_nonpositive(load(from) - m[c]);
                sum[c] += p;
                if constexpr (Math::kValues == 2) {
                    Vector next = {};
                    if (j + 1 < keys) next = exp_nonpositive(load(from + kPanelQueries) - m[c]);
                    sum[c] += next;
                    p = side_by_side(p, next);
                }
                store(p, logits + j / Math::kValues * kPanelQueries + c * kLanes);
            }
        }
        for (int c = 0; c < kPanelVectors; ++c) l[c] += sum[c];
    }
}

// o += weights^T v, for kVectors vectors of columns.
template <class Math, int kVectors>
MOSAICMEM_INLINE void add_values(const KeyTile& keys, const float* weights, std::size_t elements,
                                 std::size_t column, std::size_t width, float* o) {
    for (std::size_t first = 0; first < kPanelQueries; first += kOutRows) {
        float* row = o + first * width + column;
        Vector acc[kOutRows][kVectors] = {};
        const float* weight = weights + first;
        add_product<Math>([&](int r, std::size_t d)
                              MOSAICMEM_LAMBDA { return weight[d * kPanelQueries + r]; },
                          keys.v + column, keys.v_stride, elements, acc);
#pragma GCC unroll 8
        for (int r = 0; r < kOutRows; ++r) {
#pragma GCC unroll 8
            for (int c = 0; c < kVectors; ++c) {
                float* to = row + r * width + c * kLanes;
                store(load(to) + acc[r][c], to);
            }
        }
    }
}

// Products on float32 lanes.
template <class M>
struct Lanes {
    using Math = M;

    static std::size_t elements(std::size_t head_dim) {
        return (head_dim + Math::kValues - 1) / Math::kValues;
    }
    static std::size_t query_floats(std::size_t head_dim) {
        return kPanelQueries * elements(head_dim);
    }
    static std::size_t key_floats(std::size_t head_dim) {
        return kKeyTile * round_up(head_dim, 16);
    }
    static std::size_t value_floats(std::size_t width) { return kKeyTile * width; }
    static std::size_t weight_floats() { return 0; }
    static void begin() {}
    static void end() {}

    // Transposes a panel's queries across the lanes; zeros beyond the last query.
    template <class T>
    static MOSAICMEM_INLINE bool take_queries(const AttentionTask& task, std::size_t first,
                                              float* row, float* to) {
        const std::size_t count = elements(task.head_dim);
        for (std::size_t q = 0; q < kPanelQueries; ++q) {
            if (first + q < task.queries) {
                pack_row<Math>(static_cast<const T*>(task.q) + (first + q) * task.q_stride,
                               task.head_dim, row);
            } else {
                for (std::size_t d = 0; d < count; ++d) row[d] = 0.0f;
            }
            for (std::size_t d = 0; d < count; ++d) to[d * kPanelQueries + q] = row[d];
        }
        return true;
    }

    template <class T>
    static MOSAICMEM_INLINE bool take_keys(const AttentionTask& task, std::size_t first,
                                           std::size_t width, float* packed_k, float* packed_v,
                                           KeyTile& tile) {
        std::uint8_t chosen[kKeyTile];
        const bool all = choose_keys(task, first, tile, chosen) == tile.count;
        const T* k = static_cast<const T*>(task.k) + first * task.k_stride;
        const T* v = static_cast<const T*>(task.v) + first * task.v_stride;
        constexpr bool kPacked = sizeof(T) * Math::kValues != sizeof(float);  // must be widened
        if (all && !kPacked && task.head_dim % Math::kValues == 0 &&
            task.k_stride % Math::kValues == 0) {
            tile.k = reinterpret_cast<const float*>(k);
            tile.k_stride = task.k_stride / Math::kValues;
        } else {
            tile.k = packed_k;
            tile.k_stride = round_up(task.head_dim, 16);
            for (std::size_t j = 0; j < tile.count; ++j) {
                pack_row<Math>(k + chosen[j] * task.k_stride, task.head_dim,
                               packed_k + j * tile.k_stride);
            }
        }
        if (all && !kPacked && Math::kValues == 1 && task.value_dim == width) {
            tile.v = reinterpret_cast<const float*>(v);
            tile.v_stride = task.v_stride;
        } else {
            tile.v = packed_v;
            tile.v_stride = width;
            pack_values<Math>(v, task.v_stride, chosen, tile.count, task.value_dim, width,
                              packed_v);
        }
        return true;
    }

    static MOSAICMEM_INLINE void find_logits(const AttentionTask& task, const KeyTile& keys,
                                             const Panel& panel, float* logits, Vector* largest) {
        const std::size_t count = elements(task.head_dim);
        const auto logits_of =
            count > kSumBlock ? panel_logits<Math, true> : panel_logits<Math, false>;
        logits_of(keys, panel, count, task.scale, task.key_time != nullptr, logits, largest);
    }

    static MOSAICMEM_INLINE void add_weighted_values(const KeyTile& keys, const float* weights,
                                                     float*, std::size_t width, float* o) {
        const std::size_t rows = elements(keys.count);
        std::size_t column = 0;
        if constexpr (kLanes == 16) {
            for (; column + 4 * kLanes <= width; column += 4 * kLanes)
                add_values<Math, 4>(keys, weights, rows, column, width, o);
        }
        for (; column < width; column += 2 * kLanes)
            add_values<Math, 2>(keys, weights, rows, column, width, o);
    }
};

template <class Product>
MOSAICMEM_INLINE void attend_panel(const AttentionTask& task, const KeyTile& keys,
                                   const Panel& panel, std::size_t width, float* logits,
                                   float* weights) {
    Vector m[kPanelVectors], l[kPanelVectors], decay[kPanelVectors];
    for (int c = 0; c < kPanelVectors; ++c) m[c] = load(panel.m + c * kLanes);
    Product::find_logits(task, keys, panel, logits, m);
    bool moved = false;
    for (int c = 0; c < kPanelVectors; ++c) {
        const Vector before = load(panel.m + c * kLanes);
        decay[c] = exp_nonpositive(before - m[c]);
        l[c] = load(panel.l + c * kLanes) * decay[c];
        for (int i = 0; i < kLanes; ++i) moved |= !(before[i] == m[c][i]);
    }
    if (moved) {
        float factor[kPanelQueries];
        __builtin_memcpy(factor, decay, sizeof factor);
        for (std::size_t q = 0; q < kPanelQueries; ++q) {
            for (std::size_t c = 0; c < width; c += kLanes) {
                store(load(panel.o + q * width + c) * factor[q], panel.o + q * width + c);
            }
        }
    }
    panel_weights<typename Product::Math>(keys.count, m, logits, l);
    for (int c = 0; c < kPanelVectors; ++c) {
        store(m[c], panel.m + c * kLanes);
        store(l[c], panel.l + c * kLanes);
    }
    Product::add_weighted_values(keys, logits, weights, width, panel.o);
}

MOSAICMEM_INLINE void write_row(const float* o, float factor, std::size_t n, float* out) {
    for (std::size_t c = 0; c < n; ++c) out[c] = o[c] * factor;
}

MOSAICMEM_INLINE void write_row(const float* o, float factor, std::size_t n, std::uint16_t* out) {
    std::uint16_t last[kLanes];
    std::size_t c = 0;
    for (; c + kLanes <= n; c += kLanes) store(load(o + c) * factor, out + c);
    if (c == n) return;
    store(load(o + c) * factor, last);  // o is padded to whole vectors
    __builtin_memcpy(out + c, last, (n - c) * sizeof *out);
}

// Bytes / 4 for the transposed queries, the output with its maxima, sums and times, one tile of
// logits, and one packed tile each of keys, values and weights.
template <class Product>
std::size_t scratch_floats(std::size_t head_dim, std::size_t value_dim) {
    const std::size_t width = round_up(value_dim, 2 * kLanes);
    return kGroupPanels * (Product::query_floats(head_dim) + kPanelQueries * (width + 3)) +
           kKeyTile * kPanelQueries + Product::key_floats(head_dim) + Product::value_floats(width) +
           Product::weight_floats();
}

// Returns false, with nothing written, if the product cannot represent an operand.
template <class Product, class T>
MOSAICMEM_INLINE bool attend(const AttentionTask& task) {
    const std::size_t width = round_up(task.value_dim, 2 * kLanes);
    const std::size_t panels = (task.queries + kPanelQueries - 1) / kPanelQueries;
    float* at = task.scratch;
    const auto take = [&at](std::size_t n) { return (at += n) - n; };
    float* logits = take(kKeyTile * kPanelQueries);
    float* packed_k = take(Product::key_floats(task.head_dim));
    float* packed_v = take(Product::value_floats(width));
    float* weights = take(Product::weight_floats());
    Panel panel[kGroupPanels];
    for (std::size_t p = 0; p < panels; ++p) {
        float* q = take(Product::query_floats(task.head_dim));
        if (!Product::template take_queries<T>(task, p * kPanelQueries, packed_k, q)) return false;
        panel[p] = {q, take(kPanelQueries * width), take(kPanelQueries), take(kPanelQueries),
                    take(kPanelQueries)};
    }
    for (std::size_t p = 0; p < panels; ++p) {
        for (std::size_t i = 0; i < kPanelQueries * width; ++i) panel[p].o[i] = 0.0f;
        for (std::size_t i = 0; i < kPanelQueries; ++i) {
            const std::size_t query = p * kPanelQueries + i;
            panel[p].m[i] = -__builtin_inff();
            panel[p].l[i] = 0.0f;
            panel[p].time[i] = task.query_time && query < task.queries ? task.query_time[query] : 0;
        }
    }
    KeyTile keys;
    bool is_exact = true;
    Product::begin();
    for (std::size_t first = 0; first < task.keys && is_exact; first += kKeyTile) {
        is_exact = Product::template take_keys<T>(task, first, width, packed_k, packed_v, keys);
        if (keys.count == 0) continue;
        for (std::size_t p = 0; p < panels && is_exact; ++p)
            attend_panel<Product>(task, keys, panel[p], width, logits, weights);
    }
    Product::end();
    if (!is_exact) return false;
    for (std::size_t query = 0; query < task.queries; ++query) {
        const Panel& from = panel[query / kPanelQueries];
        const std::size_t i = query % kPanelQueries;
        const float l = from.l[i];
        const bool none = l == 0.0f;  // NaN stays NaN
        write_row(from.o + i * width, none ? 0.0f : 1.0f / l, task.value_dim,
                  static_cast<T*>(task.out) + query * task.out_stride);
        if (task.lse) {
            task.lse[query] = none ? -__builtin_inff() : from.m[i] + __builtin_logf(l);
        }
    }
    return true;
}
