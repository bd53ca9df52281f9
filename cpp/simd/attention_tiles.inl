// Attention of a group of queries on AMX tiles: attention.inl with other products.
//
// bfloat16 is multiplied as it is. A float32 is the sum of three bfloat16, its parts, and a product
// the sum of the six products of parts that matter in float32: six times the work of bfloat16, and
// still half of what float32 lanes need. Operands that have no such parts, infinite or too small,
// are left to those lanes. Products below 2^-126 count as zero, and those of parts may be: a sum of
// nothing else is off by as much.
//
// A part of a matrix lies behind the one before it.

static_assert(kPanelQueries == 3 * kTileSide);

template <int kParts>
struct PartPairs;

template <>
struct PartPairs<1> {
    static constexpr int kCount = 1, kOf[1][2] = {{0, 0}};
};

template <>
struct PartPairs<3> {  // small products first
    static constexpr int kCount = 6, kOf[6][2] = {{2, 0}, {0, 2}, {1, 1}, {1, 0}, {0, 1}, {0, 0}};
};

// The nearest bfloat16, in the upper halves of words; NaN stays NaN.
MOSAICMEM_INLINE Words upper_half(Vector x) {
    return x == x ? ((Words)x + 0x8000u) & 0xFFFF0000u : Words{} + 0x7FC00000u;
}

// The parts of 16 float32, in the upper halves of words.
MOSAICMEM_INLINE void split(Vector x, Words (&part)[3]) {
    part[0] = upper_half(x);
    const Vector rest = x - (Vector)part[0];
    part[1] = upper_half(rest);
    part[2] = (Words)(rest - (Vector)part[1]) & 0xFFFF0000u;  // bits are lost of subnormals only
}

// All bits set in the lanes of numbers that are not the sum of three bfloat16. NaN is.
MOSAICMEM_INLINE Integers has_no_parts(Vector x) {
    constexpr float kSmall = 0x1p-100f, kLarge = 0x1p127f;
    const Vector size = magnitude(x);
    return (size >= kLarge) | ((size < kSmall) & (size != 0.0f));
}

// Rows of float32 as rows of their parts.
struct PartRows {
    float* to;           // (rows, stride)
    std::size_t stride;  // elements of two bfloat16
    std::size_t apart;   // from part to part

    float* row(std::size_t r) const { return to + r * stride; }
};

// Calls visit(i, count) for each whole vector of n numbers, and once for the rest; the first with a
// count that compilers know.
template <class Visit>
MOSAICMEM_INLINE void for_each_vector(std::size_t n, const Visit& visit) {
    std::size_t i = 0;
    for (; i + kLanes <= n; i += kLanes) visit(i, std::integral_constant<std::size_t, kLanes>());
    if (i < n) visit(i, n - i);
}

// Returns whether all numbers have parts.
MOSAICMEM_INLINE bool split_row(const float* from, std::size_t n, const PartRows& rows,
                                std::size_t r) {
    Integers bad = {};
    for_each_vector(n, [&](std::size_t i, auto count) MOSAICMEM_LAMBDA {
        Vector x = {};
        __builtin_memcpy(&x, from + i, count * sizeof(float));
        bad |= has_no_parts(x);
        Words part[3];
        split(x, part);
        for (int p = 0; p < 3; ++p) {
            const Halves half = __builtin_convertvector(part[p] >> 16, Halves);
            char* const to = reinterpret_cast<char*>(rows.row(r) + p * rows.apart) + 2 * i;
            __builtin_memcpy(to, &half, count * sizeof(std::uint16_t));
        }
    });
    return !any(bad);
}

MOSAICMEM_INLINE bool split_row(const std::uint16_t* from, std::size_t n, const PartRows& rows,
                                std::size_t r) {
    __builtin_memcpy(rows.row(r), from, n * sizeof *from);
    return true;
}

// Rows of two rows' elements side by side, as the right operand has them; row `low` of `from` and
// row `high` of it, or zeros if that is null. Returns whether all numbers have parts.
MOSAICMEM_INLINE bool split_pair(const float* low, const float* high, std::size_t n, float* to,
                                 std::size_t apart) {
    Integers bad = {};
    for_each_vector(n, [&](std::size_t i, auto count) MOSAICMEM_LAMBDA {
        Vector x = {}, y = {};
        __builtin_memcpy(&x, low + i, count * sizeof(float));
        if (high) __builtin_memcpy(&y, high + i, count * sizeof(float));
        bad |= has_no_parts(x) | has_no_parts(y);
        Words of_x[3], of_y[3];
        split(x, of_x);
        split(y, of_y);
        for (int p = 0; p < 3; ++p) {
            const Words pair = of_x[p] >> 16 | of_y[p];
            __builtin_memcpy(to + p * apart + i, &pair, count * sizeof(float));
        }
    });
    return !any(bad);
}

// to (16, 16 of stride) = from^T, of 32-bit elements.
MOSAICMEM_INLINE void transpose(const __m512i (&from)[16], float* to, std::size_t stride) {
    constexpr __mmask8 kPairs = 0xFF;
    __m512i a[16], b[16];
    for (int i = 0; i < 16; i += 2) {  // pairs of rows, within quarters
        a[i] = _mm512_maskz_unpacklo_epi32(kAll, from[i], from[i + 1]);
        a[i + 1] = _mm512_maskz_unpackhi_epi32(kAll, from[i], from[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {  // fours of rows
        b[i] = _mm512_maskz_unpacklo_epi64(kPairs, a[i], a[i + 2]);
        b[i + 1] = _mm512_maskz_unpackhi_epi64(kPairs, a[i], a[i + 2]);
        b[i + 2] = _mm512_maskz_unpacklo_epi64(kPairs, a[i + 1], a[i + 3]);
        b[i + 3] = _mm512_maskz_unpackhi_epi64(kPairs, a[i + 1], a[i + 3]);
    }
    // b[4 i + j] holds column 4 q + j of rows 4 i to 4 i + 3 in its quarter q.
    for (int j = 0; j < 4; ++j) {
        const __m512i low = _mm512_maskz_shuffle_i32x4(kAll, b[j], b[4 + j], 0x88),
                      high = _mm512_maskz_shuffle_i32x4(kAll, b[8 + j], b[12 + j], 0x88),
                      low_odd = _mm512_maskz_shuffle_i32x4(kAll, b[j], b[4 + j], 0xDD),
                      high_odd = _mm512_maskz_shuffle_i32x4(kAll, b[8 + j], b[12 + j], 0xDD);
        _mm512_storeu_si512(to + j * stride, _mm512_maskz_shuffle_i32x4(kAll, low, high, 0x88));
        _mm512_storeu_si512(to + (4 + j) * stride,
                            _mm512_maskz_shuffle_i32x4(kAll, low_odd, high_odd, 0x88));
        _mm512_storeu_si512(to + (8 + j) * stride,
                            _mm512_maskz_shuffle_i32x4(kAll, low, high, 0xDD));
        _mm512_storeu_si512(to + (12 + j) * stride,
                            _mm512_maskz_shuffle_i32x4(kAll, low_odd, high_odd, 0xDD));
    }
}

// Products on tiles: of bfloat16 with one part, of float32 with three.
template <int kParts>
struct Tiles {
    using Math = std::conditional_t<kParts == 1, BFloat16Pairs, Float32>;
    using Pairs = PartPairs<kParts>;
    // The weighted values of one tile of keys are summed on their own and then added to the output,
    // so that rounding errors grow with the number of tiles, not of products.
    static constexpr bool kExact = kParts == 3;
    static constexpr std::size_t kWeightStride = kKeyTile / 2;  // elements of a query's weights
    static constexpr std::size_t kWeights = kPanelQueries * kWeightStride;

    static std::size_t elements(std::size_t head_dim) {
        return round_up((head_dim + 1) / 2, kTileSide);
    }
    static std::size_t query_floats(std::size_t head_dim) {
        return kParts * kPanelQueries * elements(head_dim);
    }
    static std::size_t key_floats(std::size_t head_dim) {
        return kParts * kKeyTile * elements(head_dim);
    }
    static std::size_t value_floats(std::size_t width) { return kParts * kKeyTile / 2 * width; }
    static std::size_t weight_floats() { return kParts * kWeights; }
    static void begin() { begin_tiles(); }
    static void end() { end_tiles(); }

    static PartRows rows_of_keys(std::size_t head_dim, float* packed_k) {
        return {packed_k, elements(head_dim), kKeyTile * elements(head_dim)};
    }

    template <class T>
    static MOSAICMEM_INLINE bool take_queries(const AttentionTask& task, std::size_t first,
                                              float* packed_k, float* to) {
        const PartRows rows = rows_of_keys(task.head_dim, packed_k);
        bool is_exact = true;
        for (std::size_t q = 0; q < kPanelQueries; ++q) {
            const bool is_there = first + q < task.queries;
            if (is_there) {
                is_exact &= split_row(static_cast<const T*>(task.q) + (first + q) * task.q_stride,
                                      task.head_dim, rows, 0);
            }
            for (std::size_t d = 0; d < kParts * rows.stride; ++d) {
                const float* from = packed_k + d / rows.stride * rows.apart + d % rows.stride;
                to[d * kPanelQueries + q] = is_there ? *from : 0.0f;
            }
        }
        return is_exact;
    }

    template <class T>
    static MOSAICMEM_INLINE bool take_keys(const AttentionTask& task, std::size_t first,
                                           std::size_t width, float* packed_k, float* packed_v,
                                           KeyTile& tile) {
        std::uint8_t chosen[kKeyTile];
        const bool all = choose_keys(task, first, tile, chosen) == tile.count;
        const T* k = static_cast<const T*>(task.k) + first * task.k_stride;
        const T* v = static_cast<const T*>(task.v) + first * task.v_stride;
        bool is_exact = true;
        if (kParts == 1 && all && task.head_dim % (2 * kTileSide) == 0 && task.k_stride % 2 == 0 &&
            tile.count % kTileSide == 0) {
            tile.k = reinterpret_cast<const float*>(k);
            tile.k_stride = task.k_stride / 2;
        } else {
            const PartRows rows = rows_of_keys(task.head_dim, packed_k);
            tile.k = packed_k;
            tile.k_stride = rows.stride;
            for (std::size_t j = 0; j < tile.count; ++j)
                is_exact &= split_row(k + chosen[j] * task.k_stride, task.head_dim, rows, j);
        }
        tile.v = packed_v;
        tile.v_stride = width;
        const std::size_t pairs = (tile.count + 1) / 2, apart = kKeyTile / 2 * width;
        if constexpr (kParts == 1) {
            pack_values<Math>(v, task.v_stride, chosen, tile.count, task.value_dim, width,
                              packed_v);
        } else {
            for (std::size_t j = 0; j < tile.count; j += 2) {
                const float* high =
                    j + 1 < tile.count ? v + chosen[j + 1] * task.v_stride : nullptr;
                is_exact &= split_pair(v + chosen[j] * task.v_stride, high, task.value_dim,
                                       packed_v + j / 2 * width, apart);
            }
        }
        for (std::size_t p = 0; p < kParts; ++p) {
            float* const rows = packed_v + p * apart;
            for (std::size_t i = pairs * width; i < round_up(pairs, kTileSide) * width; ++i)
                rows[i] = 0.0f;
        }
        return is_exact;
    }

    static MOSAICMEM_INLINE void find_logits(const AttentionTask& task, const KeyTile& keys,
                                             const Panel& panel, float* logits, Vector* largest) {
        const std::size_t count = elements(task.head_dim);
        memory_is_read();
        for (std::size_t first = 0; first < keys.count; first += kTileSide) {
            zero_sums();
            for (int pair = 0; pair < Pairs::kCount; ++pair) {
                const float* k =
                    keys.k + first * keys.k_stride + Pairs::kOf[pair][0] * kKeyTile * keys.k_stride;
                const float* q = panel.q + Pairs::kOf[pair][1] * kPanelQueries * count;
                for (std::size_t d = 0; d < count; d += kTileSide) {
                    dot_common_left(k + d, keys.k_stride, q + d * kPanelQueries, kPanelQueries,
                                    kTileSide);
                }
            }
            store_sums(logits + first * kPanelQueries, kPanelQueries, kTileSide);
        }
        Vector time[kPanelVectors];
        for (int c = 0; c < kPanelVectors; ++c) time[c] = load(panel.time + c * kLanes);
        for (std::size_t j = 0; j < keys.count; ++j) {
            for (int c = 0; c < kPanelVectors; ++c) {
                float* const at = logits + j * kPanelQueries + c * kLanes;
                Vector logit = load(at) * task.scale + keys.bias[j];
                if (task.key_time) logit -= magnitude(time[c] - keys.time[j]);
                largest[c] = larger(logit, largest[c]);
                store(logit, at);
            }
        }
    }

    // Weights (keys, kPanelQueries), of bfloat16 in pairs of keys, to the left operands of the
    // product with the values: parts of (kPanelQueries, keys). Zeros beyond the last key.
    static MOSAICMEM_INLINE void pack_weights(std::size_t keys, const float* weights, float* to) {
        const std::size_t pairs = (keys + 1) / 2;
        for (std::size_t first = 0; first < pairs; first += kTileSide) {
            for (std::size_t q = 0; q < kPanelQueries; q += kTileSide) {
                __m512i pair[kParts][16];
                for (std::size_t i = 0; i < kTileSide; ++i) {
                    const std::size_t j = 2 * (first + i);
                    if constexpr (kParts == 1) {
                        pair[0][i] = j < keys ? (__m512i)load(weights + j / 2 * kPanelQueries + q)
                                              : __m512i{};
                    } else {
                        Words low[3] = {}, high[3] = {};
                        if (j < keys) split(load(weights + j * kPanelQueries + q), low);
                        if (j + 1 < keys) split(load(weights + (j + 1) * kPanelQueries + q), high);
                        for (int p = 0; p < 3; ++p) pair[p][i] = (__m512i)(low[p] >> 16 | high[p]);
                    }
                }
                for (int p = 0; p < kParts; ++p)
                    transpose(pair[p], to + p * kWeights + q * kWeightStride + first,
                              kWeightStride);
            }
        }
    }

    static MOSAICMEM_INLINE void add_weighted_values(const KeyTile& keys, const float* weights,
                                                     float* packed, std::size_t width, float* o) {
        pack_weights(keys.count, weights, packed);
        const std::size_t pairs = round_up((keys.count + 1) / 2, kTileSide);
        memory_is_read();
        for (std::size_t column = 0; column < width; column += kTileSide) {
            float* const sums = o + column;
            kExact ? zero_sums() : load_sums(sums, width, kTileSide * width);
            for (int pair = 0; pair < Pairs::kCount; ++pair) {
                const float* w = packed + Pairs::kOf[pair][0] * kWeights;
                const float* v = keys.v + Pairs::kOf[pair][1] * (kKeyTile / 2) * width + column;
                for (std::size_t i = 0; i < pairs; i += kTileSide) {
                    dot_common_right(w + i, kWeightStride, kTileSide * kWeightStride, v + i * width,
                                     width);
                }
            }
            if constexpr (kExact) {
                float more[kPanelQueries * kTileSide];
                store_sums(more, kTileSide, kTileSide * kTileSide);
                for (std::size_t q = 0; q < kPanelQueries; ++q)
                    store(load(sums + q * width) + load(more + q * kTileSide), sums + q * width);
            } else {
                store_sums(sums, width, kTileSide * width);
            }
        }
    }
};
