// Vectors of MOSAICMEM_LANES floats as compiler vector extensions, which become the instructions of
// whatever target this file is compiled for.

constexpr int kLanes = MOSAICMEM_LANES;

typedef float Vector __attribute__((vector_size(4 * MOSAICMEM_LANES)));
typedef std::int32_t Integers __attribute__((vector_size(4 * MOSAICMEM_LANES)));
typedef std::uint32_t Words __attribute__((vector_size(4 * MOSAICMEM_LANES)));
typedef std::uint16_t Halves __attribute__((vector_size(2 * MOSAICMEM_LANES)));

MOSAICMEM_INLINE Vector splat(float x) { return x - Vector{}; }

MOSAICMEM_INLINE Vector load(const float* from) {
    Vector v;
    __builtin_memcpy(&v, from, sizeof v);
    return v;
}

MOSAICMEM_INLINE void store(Vector v, float* to) { __builtin_memcpy(to, &v, sizeof v); }

// bfloat16 is the upper half of a float32. Rounds to nearest, ties to even; NaN stays NaN.
MOSAICMEM_INLINE Halves to_bfloat16(Vector v) {
#if MOSAICMEM_BF16_DOT
    return (Halves)_mm512_cvtneps_pbh((__m512)v);
#else
    const Words bits = (Words)v;
    const Words rounded = (bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16;
    const Words quiet = bits >> 16 | 0x40u;
    return __builtin_convertvector(v == v ? rounded : quiet, Halves);
#endif
}

MOSAICMEM_INLINE Vector load(const std::uint16_t* from) {
    Halves v;
    __builtin_memcpy(&v, from, sizeof v);
    return (Vector)(__builtin_convertvector(v, Words) << 16);
}

MOSAICMEM_INLINE void store(Vector v, std::uint16_t* to) {
    const Halves half = to_bfloat16(v);
    __builtin_memcpy(to, &half, sizeof half);
}

// Streaming store to a vector-aligned address, past the caches: for results larger than the caches,
// where an ordinary store would first read each cache line.
MOSAICMEM_INLINE void stream(Vector v, float* to) {
#if !defined(__x86_64__)
    store(v, to);
#elif MOSAICMEM_LANES == 16
    _mm512_stream_ps(to, (__m512)v);
#elif MOSAICMEM_LANES == 8
    _mm256_stream_ps(to, (__m256)v);
#else
    _mm_stream_ps(to, (__m128)v);
#endif
}

MOSAICMEM_INLINE void stream(Vector v, std::uint16_t* to) {
#if defined(__x86_64__) && MOSAICMEM_LANES == 16
    _mm256_stream_si256(reinterpret_cast<__m256i*>(to), (__m256i)to_bfloat16(v));
#elif defined(__x86_64__) && MOSAICMEM_LANES == 8
    _mm_stream_si128(reinterpret_cast<__m128i*>(to), (__m128i)to_bfloat16(v));
#else
    store(v, to);
#endif
}

template <bool kStream, class T>
MOSAICMEM_INLINE void write(Vector v, T* to) {
    if constexpr (kStream) {
        stream(v, to);
    } else {
        store(v, to);
    }
}

// b where either is NaN.
MOSAICMEM_INLINE Vector larger(Vector a, Vector b) { return a > b ? a : b; }

MOSAICMEM_INLINE Vector magnitude(Vector x) { return (Vector)((Words)x & 0x7FFFFFFFu); }

// e^x for x <= 0, relative error below 2e-7; 0 below -88; NaN stays NaN.
// x = n ln 2 + r with |r| <= ln(2) / 2: e^r by a minimax polynomial, 2^n by exponent bits.
MOSAICMEM_INLINE Vector exp_nonpositive(Vector x) {
    constexpr float kLog2e = 1.44269504f;
    constexpr float kLn2High = 0.693359375f;  // nine bits: n * kLn2High is exact
    constexpr float kLn2Low = -2.12194440e-4f;
    constexpr float kRound =
        12582912.0f + 127.0f;              // 1.5 * 2^23 + bias: the low bits become n + 127
    x = x < -88.03f ? splat(-88.03f) : x;  // there n is -127, and 2^n comes out as 0
    const Vector shifted = x * kLog2e + kRound;
    const Vector n = shifted - kRound;
    const Vector r = (x - n * kLn2High) - n * kLn2Low;
    Vector p = splat(1.38146132e-3f);
    p = p * r + 8.36870985e-3f;
    p = p * r + 4.16683874e-2f;
    p = p * r + 1.66665207e-1f;
    p = p * r + 4.99999935e-1f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    return p * (Vector)((Words)shifted << 23);
}

MOSAICMEM_INLINE bool any(Integers bits) {
    std::uint64_t part[sizeof bits / 8], found = 0;
    __builtin_memcpy(part, &bits, sizeof bits);
    for (const std::uint64_t each : part) found |= each;
    return found != 0;
}
