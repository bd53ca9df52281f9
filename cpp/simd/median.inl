// Medians of cells of pixels: neighbouring cells have a lane each.
//
// Positive floats order like their bits, so the k-th smallest is found by bisecting the range of
// bit patterns and counting, which needs no branch where sorting does.

constexpr std::int32_t kNoDepth = 0x7FFFFFFF;
constexpr std::int32_t kDeepest = 0x7F7FFFFF;  // bits of the largest finite float

MOSAICMEM_INLINE Integers load_bits(const std::int32_t* from) {
    Integers v;
    __builtin_memcpy(&v, from, sizeof v);
    return v;
}

// bits (n, kLanes): pixel i of each cell. Pixels not in (0, largest float] are not counted. Returns
// the bits of the lower medians, 0 for cells with fewer valid pixels.
inline Integers lower_medians(std::int32_t* bits, std::size_t n, std::int32_t min_valid) {
    Integers low = Integers{} + kNoDepth, high = {}, valid = {};
    for (std::size_t i = 0; i < n; ++i) {
        const Integers pixel = load_bits(bits + i * kLanes);
        const Integers is_valid = (pixel > 0) & (pixel <= kDeepest);
        const Integers counted = pixel & is_valid, rest = counted | (~is_valid & kNoDepth);
        __builtin_memcpy(bits + i * kLanes, &rest, sizeof rest);
        valid -= is_valid;
        low = rest < low ? rest : low;
        high = counted > high ? counted : high;
    }
    const Integers has_enough = (valid >= min_valid) & (valid > 0);
    low &= has_enough;
    high &= has_enough;
    const Integers rank = (valid - 1) >> 1;
    for (Integers is_open = low < high; any(is_open); is_open = low < high) {
        const Integers middle = low + ((high - low) >> 1);
        Integers count = {};
        for (std::size_t i = 0; i < n; ++i) count -= load_bits(bits + i * kLanes) <= middle;
        const Integers is_below = count > rank;
        high = is_open & is_below ? middle : high;
        low = is_open & ~is_below ? middle + 1 : low;
    }
    return low;
}

// See Kernels. Lanes beyond the last cell are zero.
inline void median_row(const float* corner, std::size_t width, std::size_t stride,
                       std::size_t columns, std::size_t min_valid, std::int32_t* scratch,
                       float* out) {
    for (std::size_t first = 0; first < columns; first += kLanes) {
        const std::size_t count = columns - first < kLanes ? columns - first : kLanes;
        if (count < kLanes) __builtin_memset(scratch, 0, stride * stride * sizeof(Integers));
        std::int32_t* to = scratch;
        for (std::size_t i = 0; i < stride; ++i) {
            for (std::size_t j = 0; j < stride; ++j, to += kLanes) {
                const float* from = corner + i * width + first * stride + j;
                for (std::size_t c = 0; c < count; ++c)
                    __builtin_memcpy(to + c, from + c * stride, sizeof *from);
            }
        }
        const Integers medians =
            lower_medians(scratch, stride * stride, static_cast<std::int32_t>(min_valid));
        __builtin_memcpy(out + first, &medians, count * sizeof(float));
    }
}
