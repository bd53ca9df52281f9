// Projections of float32 on AMX tiles, as the products of its parts: see attention_tiles.inl.

struct TilesProjection {
    static constexpr std::size_t kRows = 3 * kTileSide;
    // Rows of x are split once for all of these.
    static constexpr std::size_t kColumns = 12 * kTileSide;
    using Pairs = PartPairs<3>;

    static std::size_t elements(std::size_t in) { return round_up((in + 1) / 2, kTileSide); }
    static std::size_t scratch_floats(std::size_t in) {
        return 3 * elements(in) * (kColumns + kRows) + kRows * kTileSide;
    }

    static void apply(const float* x, std::size_t n, std::size_t in, const float* panel,
                      std::size_t columns, std::size_t out, float* y, float* scratch) {
        const std::size_t depth = elements(in), apart = depth * kColumns;
        float* const weights = scratch;
        const PartRows rows{weights + 3 * apart, depth, kRows * depth};
        float* const sums = rows.to + 3 * rows.apart;
        bool has_parts = true;
        for (std::size_t i = 0; i < in; i += 2) {
            const float* high = i + 1 < in ? panel + (i + 1) * kColumns : nullptr;
            has_parts &=
                split_pair(panel + i * kColumns, high, kColumns, weights + i / 2 * kColumns, apart);
        }
        begin_tiles();
        for (std::size_t first = 0; first < n; first += kRows) {
            const std::size_t count = n - first < kRows ? n - first : kRows;
            bool is_exact = has_parts;
            for (std::size_t r = 0; r < count; ++r)
                is_exact &= split_row(x + (first + r) * in, in, rows, r);
            memory_is_read();
            for (std::size_t c = 0; c < columns && is_exact; c += kTileSide) {
                zero_sums();
                for (int pair = 0; pair < Pairs::kCount; ++pair) {
                    const float* left = rows.to + Pairs::kOf[pair][0] * rows.apart;
                    const float* right = weights + Pairs::kOf[pair][1] * apart + c;
                    for (std::size_t d = 0; d < depth; d += kTileSide) {
                        dot_common_right(left + d, depth, kTileSide * depth, right + d * kColumns,
                                         kColumns);
                    }
                }
                store_sums(sums, kTileSide, kTileSide * kTileSide);
                const std::size_t width = columns - c < kTileSide ? columns - c : kTileSide;
                for (std::size_t r = 0; r < count; ++r) {
                    __builtin_memcpy(y + (first + r) * out + c, sums + r * kTileSide,
                                     width * sizeof(float));
                }
            }
            if (!is_exact)
                on_lanes(x + first * in, count, in, panel, columns, out, y + first * out);
        }
        end_tiles();
    }

  private:
    static void on_lanes(const float* x, std::size_t n, std::size_t in, const float* panel,
                         std::size_t columns, std::size_t out, float* y) {
        constexpr std::size_t kWidth = LanesProjection::kColumns;
        for (std::size_t c = 0; c < columns; c += kWidth) {
            const std::size_t width = columns - c < kWidth ? columns - c : kWidth;
            project(x, n, in, panel + c, kColumns, width, out, y + c);
        }
    }
};
