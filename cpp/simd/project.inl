// Rows of x against one packed panel of a weight: see Kernels.

inline void project(const float* x, std::size_t n, std::size_t in, const float* panel,
                    std::size_t panel_stride, std::size_t columns, std::size_t out, float* y) {
    constexpr int kRows = 6;
    for (std::size_t first = 0; first < n; first += kRows) {
        const std::size_t rows = n - first < kRows ? n - first : kRows;
        const float* row[kRows];
        for (std::size_t r = 0; r < kRows; ++r) row[r] = x + (first + (r < rows ? r : 0)) * in;
        Vector total[kRows][2] = {};
        add_in_blocks<Float32>([&](int r, std::size_t d) MOSAICMEM_LAMBDA { return row[r][d]; },
                               panel, panel_stride, in, total);
        for (std::size_t r = 0; r < rows; ++r) {
            __builtin_memcpy(y + (first + r) * out, total[r], columns * sizeof(float));
        }
    }
}

// Panels as wide as the product's tile.
struct LanesProjection {
    static constexpr std::size_t kColumns = 2 * kLanes;
    static std::size_t scratch_floats(std::size_t) { return 0; }

    static void apply(const float* x, std::size_t n, std::size_t in, const float* panel,
                      std::size_t columns, std::size_t out, float* y, float*) {
        project(x, n, in, panel, kColumns, columns, out, y);
    }
};
