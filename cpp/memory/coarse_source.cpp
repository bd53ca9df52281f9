#include "cpp/memory/coarse_source.hpp"

#include <algorithm>

#include "cpp/memory/coarse_grid.hpp"

namespace mosaicmem {
namespace {

// Projects n cells of several rows, each given the start of its row's rays and its position in
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

constexpr std::int32_t kNoCell = -1, kSeveralCells = -2;

// The target cell that each source cell covers, kNoCell or kSeveralCells.
MOSAICMEM_CLONES
void covered_cells(const float* __restrict x, const float* __restrict y,
                   const float* __restrict worth, const float* __restrict spread, std::size_t n,
                   std::int32_t rows, std::int32_t columns, std::int32_t* __restrict cells) {
    const auto width = static_cast<float>(columns), height = static_cast<float>(rows);
    for (std::size_t i = 0; i < n; ++i) {
        const bool lands =
            (worth[i] > 0) & (x[i] > -2) & (y[i] > -2) & (x[i] < width + 1) & (y[i] < height + 1);
        const float half = 0.5f * (spread[i] - 1);
        const float at_x = lands ? x[i] : -9.0f, at_y = lands ? y[i] : -9.0f;
        const std::int32_t left = floor_of(at_x - half + 0.5f),
                           right = floor_of(at_x + half + 0.5f);
        const std::int32_t top = floor_of(at_y - half + 0.5f),
                           bottom = floor_of(at_y + half + 0.5f);
        const bool is_outside = (right < 0) | (left >= columns) | (bottom < 0) | (top >= rows);
        const bool is_single = (left == right) & (top == bottom);
        const std::int32_t cell = is_single ? top * columns + left : kSeveralCells;
        cells[i] = is_outside ? kNoCell : cell;
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

void cover(const ProjectedCells& projected, const TargetGrid& target,
           std::vector<std::int32_t>& covered, float* depth, float* worth) {
    const auto rows = static_cast<std::int32_t>(target.rows);
    const auto columns = static_cast<std::int32_t>(target.columns);
    covered.resize(projected.size());
    covered_cells(projected.x.data(), projected.y.data(), projected.worth.data(),
                  projected.spread.data(), projected.size(), rows, columns, covered.data());
    for (std::size_t i = 0; i < projected.size(); ++i) {
        if (covered[i] == kNoCell) continue;
        const float z = projected.z[i], value = projected.worth[i];
        const auto enter = [&](std::size_t cell) {
            if (z >= depth[cell]) return;
            depth[cell] = z;
            worth[cell] = value;
        };
        if (covered[i] == kSeveralCells) {
            for_each_covered(projected.x[i], projected.y[i], value, projected.spread[i], rows,
                             columns, enter);
        } else {
            enter(static_cast<std::size_t>(covered[i]));
        }
    }
}

}  // namespace mosaicmem
