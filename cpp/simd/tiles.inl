// AMX: eight registers of 16 rows of 64 bytes, and products of two of them. A tile of bfloat16 has
// 32 columns; as the right operand it has 16 rows of pairs, one below the other. With
// MOSAICMEM_EMULATE_AMX the instructions are functions that compute the same on any processor.

constexpr std::size_t kTileSide = 16;  // rows, and float32 or pairs of bfloat16 in a row

#if MOSAICMEM_EMULATE_AMX

struct EmulatedTile {
    std::uint32_t rows[kTileSide][kTileSide];
};

inline thread_local EmulatedTile emulated_tiles[8];

inline void emulated_load(int tile, const void* from, std::size_t stride) {
    for (std::size_t r = 0; r < kTileSide; ++r) {
        __builtin_memcpy(emulated_tiles[tile].rows[r], static_cast<const char*>(from) + r * stride,
                         sizeof emulated_tiles[tile].rows[r]);
    }
}

inline void emulated_store(int tile, void* to, std::size_t stride) {
    for (std::size_t r = 0; r < kTileSide; ++r) {
        __builtin_memcpy(static_cast<char*>(to) + r * stride, emulated_tiles[tile].rows[r],
                         sizeof emulated_tiles[tile].rows[r]);
    }
}

// Subnormal operands and results count as zero. Even and odd products have sums of their own.
inline void emulated_dot(int into, int left, int right) {
    const auto flush = [](float x) {
        return __builtin_fabsf(x) < 1.17549435e-38f ? __builtin_copysignf(0.0f, x) : x;
    };
    const auto value = [&](std::uint32_t pair, bool odd) {
        return flush(__builtin_bit_cast(float, odd ? pair & 0xFFFF0000u : pair << 16));
    };
    for (std::size_t m = 0; m < kTileSide; ++m) {
        for (std::size_t n = 0; n < kTileSide; ++n) {
            float even = 0.0f, odd = 0.0f;
            for (std::size_t k = 0; k < kTileSide; ++k) {
                const std::uint32_t a = emulated_tiles[left].rows[m][k],
                                    b = emulated_tiles[right].rows[k][n];
                even = flush(even + value(a, false) * value(b, false));
                odd = flush(odd + value(a, true) * value(b, true));
            }
            std::uint32_t& sum = emulated_tiles[into].rows[m][n];
            sum = __builtin_bit_cast(std::uint32_t,
                                     flush(__builtin_bit_cast(float, sum) + flush(even + odd)));
        }
    }
}

#define MOSAICMEM_TILE_ZERO(tile) (emulated_tiles[tile] = {})
#define MOSAICMEM_TILE_LOAD(tile, from, stride) emulated_load(tile, from, stride)
#define MOSAICMEM_TILE_STORE(tile, to, stride) emulated_store(tile, to, stride)
#define MOSAICMEM_TILE_DOT(into, left, right) emulated_dot(into, left, right)

inline void begin_tiles() {}
inline void end_tiles() {}

#else

// Numbers of tiles are part of the instruction: these take literals.
#define MOSAICMEM_TILE_ZERO(tile) _tile_zero(tile)
#define MOSAICMEM_TILE_LOAD(tile, from, stride) _tile_loadd(tile, from, stride)
#define MOSAICMEM_TILE_STORE(tile, to, stride) _tile_stored(tile, to, stride)
#define MOSAICMEM_TILE_DOT(into, left, right) _tile_dpbf16ps(into, left, right)

// Each thread configures its tiles, and releases them: a context switch then saves nothing.
inline void begin_tiles() {
    struct alignas(64) {
        std::uint8_t palette, start_row, reserved[14];
        std::uint16_t bytes_a_row[16];
        std::uint8_t rows[16];
    } shape = {};
    static_assert(sizeof shape == 64);
    shape.palette = 1;
    for (int i = 0; i < 8; ++i) {
        shape.bytes_a_row[i] = 4 * kTileSide;
        shape.rows[i] = kTileSide;
    }
    asm volatile("" ::"m"(shape) : "memory");  // all of it is read
    _tile_loadconfig(&shape);
}

inline void end_tiles() { _tile_release(); }

#endif

// Compilers may take the instructions for ones that read no memory.
MOSAICMEM_INLINE void memory_is_read() { asm volatile("" ::: "memory"); }

// Tiles 0, 1 and 2 += a common left tile times three right ones, each `apart` elements of 4 bytes
// from the next.
MOSAICMEM_INLINE void dot_common_left(const float* left, std::size_t left_stride,
                                      const float* right, std::size_t right_stride,
                                      std::size_t apart) {
    MOSAICMEM_TILE_LOAD(3, left, 4 * left_stride);
    MOSAICMEM_TILE_LOAD(4, right, 4 * right_stride);
    MOSAICMEM_TILE_DOT(0, 3, 4);
    MOSAICMEM_TILE_LOAD(5, right + apart, 4 * right_stride);
    MOSAICMEM_TILE_DOT(1, 3, 5);
    MOSAICMEM_TILE_LOAD(6, right + 2 * apart, 4 * right_stride);
    MOSAICMEM_TILE_DOT(2, 3, 6);
}

// The same of three left tiles and a common right one.
MOSAICMEM_INLINE void dot_common_right(const float* left, std::size_t left_stride,
                                       std::size_t apart, const float* right,
                                       std::size_t right_stride) {
    MOSAICMEM_TILE_LOAD(3, right, 4 * right_stride);
    MOSAICMEM_TILE_LOAD(4, left, 4 * left_stride);
    MOSAICMEM_TILE_DOT(0, 4, 3);
    MOSAICMEM_TILE_LOAD(5, left + apart, 4 * left_stride);
    MOSAICMEM_TILE_DOT(1, 5, 3);
    MOSAICMEM_TILE_LOAD(6, left + 2 * apart, 4 * left_stride);
    MOSAICMEM_TILE_DOT(2, 6, 3);
}

MOSAICMEM_INLINE void zero_sums() {
    MOSAICMEM_TILE_ZERO(0);
    MOSAICMEM_TILE_ZERO(1);
    MOSAICMEM_TILE_ZERO(2);
}

MOSAICMEM_INLINE void load_sums(const float* from, std::size_t stride, std::size_t apart) {
    MOSAICMEM_TILE_LOAD(0, from, 4 * stride);
    MOSAICMEM_TILE_LOAD(1, from + apart, 4 * stride);
    MOSAICMEM_TILE_LOAD(2, from + 2 * apart, 4 * stride);
}

MOSAICMEM_INLINE void store_sums(float* to, std::size_t stride, std::size_t apart) {
    MOSAICMEM_TILE_STORE(0, to, 4 * stride);
    MOSAICMEM_TILE_STORE(1, to + apart, 4 * stride);
    MOSAICMEM_TILE_STORE(2, to + 2 * apart, 4 * stride);
}
