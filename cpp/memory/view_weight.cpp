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

// The same for cells of several rows, each given the start of its row's rays and its position in
// the source image.
MOSAICMEM_CLONES
void project_each(const float* __restrict depth, const float* __restrict trust,
                  const std::int32_t* __restrict column, const float* __restrict start_x,
                  const float* __restrict start_y, const float* __restrict start_z,
                  const float* __restrict source_y, std::size_t n, const RowProjection& row,
                  float* __restrict x, float* __restrict y, float* __restrict z,
                  float* __restrict worth, float* __restrict spread) {
    for (std::size_t i = 0; i < n; ++i) {
        RowProjection own = row;
        own.start[0] = start_x[i];
        own.start[1] = start_y[i];
        own.start[2] = start_z[i];
        own.source_y = source_y[i];
        const ProjectedCell cell = own(depth[i], trust[i], column[i]);
        x[i] = cell.x;
        y[i] = cell.y;
        z[i] = cell.z;
        worth[i] = cell.worth;
        spread[i] = cell.spread;
    }
}

}  // namespace

CoarseSource::CoarseSource(const SourceGrid& source, std::size_t step)
    : source_(source), step_(step), rows_(source.rows / step), columns_(source.columns / step) {
    constexpr std::size_t kLanes = 16;
    const std::size_t size = (rows_ * columns_ + kLanes - 1) / kLanes * kLanes;
    depth_.resize(size, 0.0f);
    trust_.resize(size, 1.0f);
    column_.resize(size, 0);
    std::size_t i = 0;
    for (std::size_t r = 0; r < rows_; ++r) {
        for (std::size_t c = 0; c < columns_; ++c, ++i) {
            const std::size_t at = (r * step + step / 2) * source.columns + c * step + step / 2;
            depth_[i] = source.depth[at];
            if (source.confidence) trust_[i] = source.confidence[at];
            column_[i] = static_cast<std::int32_t>(c);
        }
    }
}

void CoarseSource::project(const TargetGrid& target, const ViewWeightScales& scales,
                           ProjectedCells& cells) const {
    const GridProjection projection(source_, target, scales, static_cast<double>(step_));
    const std::size_t n = depth_.size();
    std::vector<float> starts(4 * n);  // x, y and z of rays, and the position in the source image
    for (std::size_t r = 0; r < rows_; ++r) {
        const RowProjection row = projection.row(r);
        float* const at = starts.data() + r * columns_;
        for (std::size_t k = 0; k < 3; ++k) std::fill_n(at + k * n, columns_, row.start[k]);
        std::fill_n(at + 3 * n, columns_, row.source_y);
    }
    cells.resize(n);
    project_each(depth_.data(), trust_.data(), column_.data(), starts.data(), starts.data() + n,
                 starts.data() + 2 * n, starts.data() + 3 * n, n, projection.row(0), cells.x.data(),
                 cells.y.data(), cells.z.data(), cells.worth.data(), cells.spread.data());
}

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
