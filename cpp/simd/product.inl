// The core's only matrix product: a tile of a few rows by a few vectors, held in registers.
// Attention and the projections around it are built on it.

// How elements multiply: one float32 at a time, or two bfloat16 side by side.
struct Float32 {
    using Element = float;
    static constexpr std::size_t kValues = 1;  // values per element
    static MOSAICMEM_INLINE void add_product(Vector& acc, float a, Vector b) { acc += a * b; }
};

#if MOSAICMEM_BF16_DOT
struct BFloat16Pairs {
    using Element = float;  // only moved, never read as a number
    static constexpr std::size_t kValues = 2;
    static MOSAICMEM_INLINE void add_product(Vector& acc, float a, Vector b) {
        acc = (Vector)_mm512_dpbf16_ps((__m512)acc, (__m512bh)splat_bits(a), (__m512bh)b);
    }
    static MOSAICMEM_INLINE __m512i splat_bits(float a) {
        __m512i bits = _mm512_set1_epi32(__builtin_bit_cast(std::int32_t, a));
#if defined(__clang__) && __clang_major__ < 18
        asm("" : "+v"(bits));  // these crash when they fold the broadcast into the product
#endif
        return bits;
    }
};
#endif

// acc (kRows, kVectors of columns) += a(row, d) * b (depth, columns of stride ldb) over d < depth.
template <class Math, int kRows, int kVectors, class A>
MOSAICMEM_INLINE void add_product(const A& a, const float* b, std::size_t ldb, std::size_t depth,
                                  Vector (&acc)[kRows][kVectors]) {
    for (std::size_t d = 0; d < depth; ++d) {
        Vector right[kVectors];
#pragma GCC unroll 8
        for (int c = 0; c < kVectors; ++c) right[c] = load(b + d * ldb + c * kLanes);
#pragma GCC unroll 8
        for (int r = 0; r < kRows; ++r) {
            const float left = a(r, d);
#pragma GCC unroll 8
            for (int c = 0; c < kVectors; ++c) Math::add_product(acc[r][c], left, right[c]);
        }
    }
}

// The same, with sums restarted every kSumBlock elements, so that rounding errors grow with the
// number of blocks, not of products.
constexpr std::size_t kSumBlock = 128;

template <class Math, int kRows, int kVectors, class A>
MOSAICMEM_INLINE void add_in_blocks(const A& a, const float* b, std::size_t ldb, std::size_t depth,
                                    Vector (&acc)[kRows][kVectors]) {
    for (std::size_t from = 0; from < depth; from += kSumBlock) {
        const std::size_t count = depth - from < kSumBlock ? depth - from : kSumBlock;
        Vector sum[kRows][kVectors] = {};
        add_product<Math>([&](int r, std::size_t d) MOSAICMEM_LAMBDA { return a(r, from + d); },
                          b + from * ldb, ldb, count, sum);
        for (int r = 0; r < kRows; ++r) {
            for (int c = 0; c < kVectors; ++c) acc[r][c] += sum[r][c];
        }
    }
}
