// Partition of points in three dimensions, for building kd-trees: see Kernels.

typedef float ItemVector __attribute__((vector_size(16)));

#if MOSAICMEM_LANES == 16

// For each set of the four items of a vector that go left: where they come from, and then the
// others; and the same with left and right exchanged.
struct PartitionOrder {
    std::int32_t left_first[16], right_first[16];
};

struct PartitionTable {
    PartitionOrder of[16];
};

constexpr PartitionTable partition_table() {
    PartitionTable table = {};
    for (int set = 0; set < 16; ++set) {
        int to = 0;
        for (int right = 0; right <= 1; ++right) {
            for (int item = 0; item < 4; ++item) {
                if ((set >> item & 1) == right) continue;
                for (int lane = 0; lane < 4; ++lane) {
                    table.of[set].left_first[4 * to + lane] = 4 * item + lane;
                    table.of[set ^ 15].right_first[4 * to + lane] = 4 * item + lane;
                }
                ++to;
            }
        }
    }
    return table;
}

alignas(64) constexpr PartitionTable kPartition = partition_table();
constexpr __mmask16 kAll = 0xFFFF;  // GCC 12 warns of the forms without a mask

#endif

// Branch-free, since the side of the next item is unpredictable.
inline std::size_t partition_items(PointItem* items, std::size_t n, int axis, float cut,
                                   PointItem* spare) {
    PointItem *left = items, *right = spare;
    std::size_t i = 0;
#if MOSAICMEM_LANES == 16
    const unsigned of_axis = 0x1111u << axis;
    const __m512 cuts = _mm512_set1_ps(cut);
    for (; i + 4 <= n; i += 4) {
        const __m512 four = _mm512_loadu_ps(items + i);
        const unsigned set = _pext_u32(_mm512_cmp_ps_mask(four, cuts, _CMP_LE_OQ), of_axis);
        const PartitionOrder& order = kPartition.of[set];
        // What lies behind those of each side is overwritten later, or has been read.
        _mm512_storeu_ps(
            left, _mm512_maskz_permutexvar_ps(kAll, _mm512_load_si512(order.left_first), four));
        _mm512_storeu_ps(
            right, _mm512_maskz_permutexvar_ps(kAll, _mm512_load_si512(order.right_first), four));
        const long count = __builtin_popcount(set);
        left += count;
        right += 4 - count;
    }
#endif
    for (; i < n; ++i) {
        const bool goes_left = items[i].x[axis] <= cut;
        ItemVector item;  // in one register, where copies of the structure may take four
        __builtin_memcpy(&item, items + i, sizeof item);
        __builtin_memcpy(left, &item, sizeof item);
        __builtin_memcpy(right, &item, sizeof item);
        left += goes_left;
        right += !goes_left;
    }
    return static_cast<std::size_t>(left - items);
}

// The last of the four numbers of low and high has no meaning.
inline void bounds_of_items(const PointItem* items, std::size_t n, float* low, float* high) {
    ItemVector least, most;
    __builtin_memcpy(&least, items, sizeof least);
    most = least;
    std::size_t i = 1;
#if MOSAICMEM_LANES == 16
    if (n >= 8) {
        __m512 lows = _mm512_loadu_ps(items), highs = lows;
        for (i = 4; i + 4 <= n; i += 4) {
            const __m512 four = _mm512_loadu_ps(items + i);
            lows = _mm512_maskz_min_ps(kAll, four, lows);
            highs = _mm512_maskz_max_ps(kAll, four, highs);
        }
        ItemVector of_lows[4], of_highs[4];
        __builtin_memcpy(of_lows, &lows, sizeof lows);
        __builtin_memcpy(of_highs, &highs, sizeof highs);
        for (int j = 0; j < 4; ++j) {
            least = of_lows[j] < least ? of_lows[j] : least;
            most = of_highs[j] > most ? of_highs[j] : most;
        }
    }
#endif
    for (; i < n; ++i) {
        ItemVector x;
        __builtin_memcpy(&x, items + i, sizeof x);
        least = x < least ? x : least;
        most = x > most ? x : most;
    }
    __builtin_memcpy(low, &least, sizeof least);
    __builtin_memcpy(high, &most, sizeof most);
}
