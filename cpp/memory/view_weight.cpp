#include "cpp/memory/view_weight.hpp"

namespace mosaicmem {
namespace {

// depth and trust, n each.
MOSAICMEM_CLONES
void project_row(const float* __restrict depth, const float* __restrict trust, std::size_t n,
                 const RowProjection& row, float* __restrict x, float* __restrict y,
                 float* __restrict z, float* __restrict worth, float* __restrict spread) {
    for (std::size_t i = 0; i < n; ++i) {
        const ProjectedCell cell = row(depth[i], trust[i], static_cast<std::int32_t>(i));
        x[i] = cell.x;
        y[i] = cell.y;
        z[i] = cell.z;
        worth[i] = cell.worth;
        spread[i] = cell.spread;
    }
}

}  // namespace

void project_parts(const SourceGrid& source, const TargetGrid& target,
                   const ViewWeightScales& scales, ProjectedCells& parts) {
    const std::size_t n = source.subcells, columns = n * source.columns;
    const GridProjection projection(source, target, scales, 1 / static_cast<double>(n));
    parts.resize(n * source.rows * columns);
    const float* const depth = source.subcell_depth ? source.subcell_depth : source.depth;
    std::vector<float> trust(columns, 1.0f);
    for (std::size_t r = 0; r < n * source.rows; ++r) {
        if (source.confidence && r % n == 0) {
            const float* const own = source.confidence + r / n * source.columns;
            for (std::size_t c = 0; c < columns; ++c) trust[c] = own[c / n];
        }
        const std::size_t out = r * columns;
        project_row(depth + out, trust.data(), columns, projection.row(r), &parts.x[out],
                    &parts.y[out], &parts.z[out], &parts.worth[out], &parts.spread[out]);
    }
}

}  // namespace mosaicmem
