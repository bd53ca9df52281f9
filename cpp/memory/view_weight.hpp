// Where the cells of a source grid land in a target view, and what they are worth there: how well
// the source camera saw what the target is to show. For the CPU and the GPU.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

#include "cpp/base/camera.hpp"
#include "cpp/base/cells.hpp"
#include "cpp/base/clones.hpp"
#include "cpp/memory/score.hpp"

namespace mosaicmem {

// One keyframe on its latent grid, placed in the world.
struct SourceGrid {
    const float* latents;     // (rows, columns, channels)
    const float* depth;       // (rows, columns) metres, <= 0 or not finite where invalid
    const float* confidence;  // (rows, columns) in [0, 1], or null for 1 everywhere
    std::size_t rows, columns;
    double stride;  // pixels per cell
    Intrinsics k;
    Affine world_from_camera;
    double timestamp;  // seconds
    Provenance provenance;
    const float* subcell_depth = nullptr;  // (subcells rows, subcells columns), or null
    std::size_t subcells = 1;              // along the edge of a cell; 1 without subcell_depth
};

// A cell's parts, in row-major order of its subcells, follow one another.
MOSAICMEM_HOST_DEVICE inline std::size_t parts_of(const SourceGrid& source) {
    return source.subcells * source.subcells;
}

// The latent grid of a view.
struct TargetGrid {
    View view;
    std::size_t rows, columns;
    double stride;  // pixels per cell
    double time;    // seconds
};

// The worth of a source cell is
//   confidence * recency * weight * exp(-viewing / viewing_angle - field / field_angle) *
//   resolution
// where `viewing` is the angle at the surface between the two cameras, `field` the distance between
// the surface's positions in the two images, as tangents (errors of calibration, lens and
// vignetting cancel where the positions agree), recency is 0.5^(age / half_life), weight is
// generated_weight for generated and 1 for observed keyframes, and resolution is the ratio of the
// sizes of source and target cell on the surface, the smaller over the larger.
struct ViewWeightScales {
    double viewing_angle;     // radians
    double field_angle;       // radians
    double half_life;         // seconds; 0: age does not count
    double generated_weight;  // in [0, 1]; 0 excludes generated keyframes

    MOSAICMEM_HOST_DEVICE bool excludes(Provenance provenance) const {
        return weight_of(provenance, generated_weight) == 0;
    }
    // recency * weight: the factors of a keyframe that do not depend on the viewpoint.
    MOSAICMEM_HOST_DEVICE double standing(Provenance provenance, double timestamp,
                                          double time) const {
        return recency_of(timestamp, time, half_life) * weight_of(provenance, generated_weight);
    }
};

// Cells of less confidence are doubtful: they show only where nothing else does.
constexpr float kDoubtful = 0.01f;
constexpr double kMostSpread = 3;  // cells; coarser sources leave holes

// The least half-width of the tent over a source cell of which there are `parts` along an edge of a
// whole cell, in target cells: as far as it can share area with a target cell of its own size.
MOSAICMEM_HOST_DEVICE inline double least_spread(double parts) {
    return 0.5 + 0.5 / std::max(parts, 1.0);
}

// A source cell, or a part of one, projected into the target.
struct ProjectedCell {
    float x, y;    // cell coordinates of the target, integers at cell centres
    float z;       // metres
    float worth;   // 0 if it does not project; negative if it is doubtful
    float spread;  // its size in target cells, at least least_spread()
};

// exp(-x) for x >= 0, within 3e-7 relative; 0 from 88 on, and for NaN. Plain arithmetic, so that
// loops over it vectorise.
MOSAICMEM_HOST_DEVICE MOSAICMEM_INLINE float exp_negative(float x) {
    const float exponent = std::min(88.5f, x) * -1.44269504f;
    const float whole = (exponent + 12582912.0f) - 12582912.0f;  // the nearest integer
    const float t = (exponent - whole) * 0.693147181f;
    const float p =
        1.0f +
        t * (1.0f + t * (0.5f + t * (0.166666667f + t * (0.0416666667f + t * (0.00833333333f)))));
    const auto n = static_cast<std::int32_t>(std::max(-127.0f, whole));
    return p * std::bit_cast<float>((n + 127) << 23);
}

// The factor by which edits have scaled things since their source camera saw them, 1 without edits.
MOSAICMEM_HOST_DEVICE inline double scale_of(const Affine& target_from_source) {
    const auto& m = target_from_source.m;
    const double volume = m[0] * (m[5] * m[10] - m[6] * m[9]) -
                          m[1] * (m[4] * m[10] - m[6] * m[8]) + m[2] * (m[4] * m[9] - m[5] * m[8]);
    return std::cbrt(std::abs(volume));
}

// The constants of a row of cells.
struct RowProjection {
    float start[3], step[3], centre[3];  // ray of cell 0, step per cell, source camera
    float source_x, source_x_step, source_y;
    float fx, fy, cx, cy;  // of the target, in cells
    float near, far;
    float cell_ratio, part;  // sizes: of a cell at equal depths; of what is sampled, in cells
    float least_spread;
    float per_viewing, per_field, standing;

    MOSAICMEM_HOST_DEVICE MOSAICMEM_INLINE ProjectedCell operator()(float depth, float trust,
                                                                    std::int32_t column) const {
        constexpr float most = static_cast<float>(kMostSpread);
        const float c = static_cast<float>(column);
        const bool given = (depth > 0) & (depth < std::numeric_limits<float>::infinity());
        const float d = given ? depth : 1.0f;
        const float px = d * (start[0] + c * step[0]) + centre[0];
        const float py = d * (start[1] + c * step[1]) + centre[1];
        const float pz = d * (start[2] + c * step[2]) + centre[2];
        const bool valid = given & (pz > near) & (pz <= far);
        const float inverse = 1.0f / (valid ? pz : 1.0f);
        const float u = px * inverse, v = py * inverse;
        const float du = source_x + c * source_x_step - u, dv = source_y - v;
        const float field = std::sqrt(du * du + dv * dv);
        const float qx = px - centre[0], qy = py - centre[1], qz = pz - centre[2];
        const float lengths =
            std::sqrt(px * px + py * py + pz * pz) * std::sqrt(qx * qx + qy * qy + qz * qz);
        const float cosine = (px * qx + py * qy + pz * qz) / std::max(lengths, 1e-30f);
        const float viewing = std::sqrt(std::max(2.0f - 2.0f * cosine, 0.0f));
        const float size = cell_ratio * d * inverse;
        const float value = trust * standing *
                            exp_negative(viewing * per_viewing + field * per_field) *
                            std::min(size, 1.0f / size);
        // A cell that is worth little is still better than none.
        const float least = std::max(value, 1e-9f), worth = trust < kDoubtful ? -least : least;
        return {fx * u + cx, fy * v + cy, pz, (valid & (trust > 0)) ? worth : 0.0f,
                std::min(std::max(size * part, least_spread), most)};
    }
};

// The constants of a source grid and a target. Samples every step-th cell of every step-th row,
// each of which stands for a square of cells; with a step of 1 / n, the n x n parts of each cell.
class GridProjection {
  public:
    GridProjection() = default;
    MOSAICMEM_HOST_DEVICE GridProjection(const SourceGrid& source, const TargetGrid& target,
                                         const ViewWeightScales& scales, double step)
        : step_(step), stride_(source.stride), k_(source.k) {
        const Affine target_from_source = target.view.camera_from_world * source.world_from_camera;
        ray_ = PixelRay(source.k, target_from_source);
        const double reach = step_ * stride_;
        set(row_.step, {ray_.du.x * reach, ray_.du.y * reach, ray_.du.z * reach});
        set(row_.centre, ray_.t);
        row_.source_x = static_cast<float>((middle(0) - k_.cx) / k_.fx);
        row_.source_x_step = static_cast<float>(reach / k_.fx);
        row_.fx = static_cast<float>(target.view.k.fx / target.stride);
        row_.fy = static_cast<float>(target.view.k.fy / target.stride);
        row_.cx = static_cast<float>(target.view.k.cx / target.stride - 0.5);
        row_.cy = static_cast<float>(target.view.k.cy / target.stride - 0.5);
        row_.near = static_cast<float>(target.view.near);
        row_.far = static_cast<float>(target.view.far);
        const double cell = std::max(step_, 1.0);
        row_.cell_ratio = static_cast<float>(scale_of(target_from_source) * cell * stride_ / k_.fx *
                                             target.view.k.fx / target.stride);
        row_.part = static_cast<float>(step_ / cell);
        row_.least_spread = static_cast<float>(least_spread(1 / step_));
        row_.per_viewing = static_cast<float>(1 / scales.viewing_angle);
        row_.per_field = static_cast<float>(1 / scales.field_angle);
        row_.standing =
            static_cast<float>(scales.standing(source.provenance, source.timestamp, target.time));
        if (scales.excludes(source.provenance)) row_.far = row_.near;  // nothing lands
    }

    // The constants of the r-th sampled row.
    MOSAICMEM_HOST_DEVICE RowProjection row(std::size_t r) const {
        RowProjection row = row_;
        const double v = middle(r);
        set(row.start, ray_.direction(middle(0), v));
        row.source_y = static_cast<float>((v - k_.cy) / k_.fy);
        return row;
    }

  private:
    MOSAICMEM_HOST_DEVICE double middle(std::size_t i) const {  // pixels
        return (static_cast<double>(i) * step_ + 0.5 * step_) * stride_;
    }
    MOSAICMEM_HOST_DEVICE static void set(float (&to)[3], const Vec3& from) {
        to[0] = static_cast<float>(from.x);
        to[1] = static_cast<float>(from.y);
        to[2] = static_cast<float>(from.z);
    }

    double step_, stride_;
    Intrinsics k_;
    PixelRay ray_;
    RowProjection row_;  // except start and source_y
};

// One entry per cell or part, row by row.
struct ProjectedCells {
    std::vector<float> x, y, z, worth, spread;  // see ProjectedCell

    void resize(std::size_t n) {
        for (auto* field : {&x, &y, &z, &worth, &spread}) field->resize(n);
    }
    std::size_t size() const { return x.size(); }
};

// All subcells of all cells; all cells if the source has no subcells.
void project_parts(const SourceGrid& source, const TargetGrid& target,
                   const ViewWeightScales& scales, ProjectedCells& parts);

// How a source camera sees a surface point.
struct PointView {
    double source_x, source_y;  // tangents in the source image
    double size;                // of the source cell in target cells
    double standing;            // of the keyframe
};

// The worth of point p seen by a source camera at `centre`, both in the target's frame.
MOSAICMEM_HOST_DEVICE inline double worth_of(const Vec3& p, const Vec3& centre,
                                             const PointView& seen_from,
                                             const ViewWeightScales& scales) {
    const Vec3 q{p.x - centre.x, p.y - centre.y, p.z - centre.z};
    const double lengths =
        std::sqrt((p.x * p.x + p.y * p.y + p.z * p.z) * (q.x * q.x + q.y * q.y + q.z * q.z));
    const double cosine = (p.x * q.x + p.y * q.y + p.z * q.z) / std::max(lengths, 1e-30);
    const double viewing = std::sqrt(std::max(0.0, 2 - 2 * cosine));
    const double du = seen_from.source_x - p.x / p.z, dv = seen_from.source_y - p.y / p.z;
    const double field = std::sqrt(du * du + dv * dv);
    const double size = std::max(seen_from.size, 1e-6);
    return seen_from.standing *
           std::exp(-viewing / scales.viewing_angle - field / scales.field_angle) *
           std::min(size, 1 / size);
}

}  // namespace mosaicmem
