// Rows of x against one packed panel of a weight.

inline void project(const float* x, std::size_t n, std::size_t in, const float* panel,
                    std::size_t columns, std::size_t out, float* y) {
    constexpr int kRows = 6;
    for (std::size_t first = 0; first < n; first += kRows) {
        const std::size_t rows = n - first < kRows ? n - first : kRows;
        const float* row[kRows];
        for (std::size_t r = 0; r < kRows; ++r) row[r] = x + (first + (r < rows ? r : 0)) * in;
        Vector total[kRows][2] = {};
        add_in_blocks<Float32>([&](int r, std::size_t d) MOSAICMEM_LAMBDA { return row[r][d]; },
                               panel, 2 * kLanes, in, total);
        for (std::size_t r = 0; r < rows; ++r) {
            __builtin_memcpy(y + (first + r) * out, total[r], columns * sizeof(float));
        }
    }
}
