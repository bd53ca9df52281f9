#include "sight.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

#include "simd/clones.hpp"

namespace mosaicmem {
namespace {

// exp(-x) for x >= 0, within 3e-7 relative; 0 from 88 on, and for NaN. Plain arithmetic, so that
// loops over it vectorise.
MOSAICMEM_INLINE float exp_negative(float x) {
    const float exponent = std::min(88.5f, x) * -1.44269504f;
    const float whole = (exponent + 12582912.0f) - 12582912.0f;  // the nearest integer
    const float t = (exponent - whole) * 0.693147181f;
    const float p =
        1.0f +
        t * (1.0f + t * (0.5f + t * (0.166666667f + t * (0.0416666667f + t * (0.00833333333f)))));
    const auto n = static_cast<std::int32_t>(std::max(-127.0f, whole));
    return p * std::bit_cast<float>((n + 127) << 23);
}

// What is constant over a row of cells.
struct RowSight {
    float start[3], step[3], centre[3];  // ray of cell 0, from cell to cell, and the source camera
    float source_x, source_x_step, source_y;
    float fx, fy, cx, cy;  // of the target, in cells
    float near, far;
    float cell_ratio, per_viewing, per_field, recency;
};

// depth and trust, n each.
MOSAICMEM_CLONES
void land_row(const float* __restrict depth, const float* __restrict trust, std::size_t n,
              const RowSight& row, float* __restrict x, float* __restrict y, float* __restrict z,
              float* __restrict worth, float* __restrict spread) {
    constexpr float most = static_cast<float>(kMostSpread);
    for (std::size_t i = 0; i < n; ++i) {
        const float c = static_cast<float>(static_cast<std::int32_t>(i));
        const bool given = (depth[i] > 0) & (depth[i] < std::numeric_limits<float>::infinity());
        const float d = given ? depth[i] : 1.0f;
        const float px = d * (row.start[0] + c * row.step[0]) + row.centre[0];
        const float py = d * (row.start[1] + c * row.step[1]) + row.centre[1];
        const float pz = d * (row.start[2] + c * row.step[2]) + row.centre[2];
        const bool valid = given & (pz > row.near) & (pz <= row.far);
        const float inverse = 1.0f / (valid ? pz : 1.0f);
        const float u = px * inverse, v = py * inverse;
        const float du = row.source_x + c * row.source_x_step - u, dv = row.source_y - v;
        const float field = std::sqrt(du * du + dv * dv);
        const float qx = px - row.centre[0], qy = py - row.centre[1], qz = pz - row.centre[2];
        const float lengths =
            std::sqrt(px * px + py * py + pz * pz) * std::sqrt(qx * qx + qy * qy + qz * qz);
        const float cosine = (px * qx + py * qy + pz * qz) / std::max(lengths, 1e-30f);
        const float viewing = std::sqrt(std::max(2.0f - 2.0f * cosine, 0.0f));
        const float size = row.cell_ratio * d * inverse;
        const float value = trust[i] * row.recency *
                            exp_negative(viewing * row.per_viewing + field * row.per_field) *
                            std::min(size, 1.0f / size);
        x[i] = row.fx * u + row.cx;
        y[i] = row.fy * v + row.cy;
        z[i] = pz;
        // A cell that is worth little is still better than none.
        worth[i] = valid & (trust[i] > 0) ? std::max(value, 1e-9f) : 0.0f;
        spread[i] = std::min(std::max(size, 1.0f), most);
    }
}

}  // namespace

double scale_of(const Affine& target_from_source) {
    const auto& m = target_from_source.m;
    const double volume = m[0] * (m[5] * m[10] - m[6] * m[9]) -
                          m[1] * (m[4] * m[10] - m[6] * m[8]) + m[2] * (m[4] * m[9] - m[5] * m[8]);
    return std::cbrt(std::abs(volume));
}

void land_cells(const SourceGrid& source, const TargetGrid& target, const SightScales& scales,
                std::size_t step, LandedCells& cells) {
    const Affine target_from_source = target.view.camera_from_world * source.world_from_camera;
    const PixelRay ray(source.k, target_from_source);
    const double scale = scale_of(target_from_source);
    const double reach = static_cast<double>(step) * source.stride;
    const auto middle = [&](std::size_t i) {
        return (static_cast<double>(i * step) + 0.5 * static_cast<double>(step)) * source.stride;
    };
    const auto set = [](float(&to)[3], const Vec3& from) {
        to[0] = static_cast<float>(from.x);
        to[1] = static_cast<float>(from.y);
        to[2] = static_cast<float>(from.z);
    };
    RowSight row;
    set(row.step, {ray.du.x * reach, ray.du.y * reach, ray.du.z * reach});
    set(row.centre, ray.t);
    row.source_x = static_cast<float>((middle(0) - source.k.cx) / source.k.fx);
    row.source_x_step = static_cast<float>(reach / source.k.fx);
    row.fx = static_cast<float>(target.view.k.fx / target.stride);
    row.fy = static_cast<float>(target.view.k.fy / target.stride);
    row.cx = static_cast<float>(target.view.k.cx / target.stride - 0.5);
    row.cy = static_cast<float>(target.view.k.cy / target.stride - 0.5);
    row.near = static_cast<float>(target.view.near);
    row.far = static_cast<float>(target.view.far);
    row.cell_ratio =
        static_cast<float>(scale * reach / source.k.fx * target.view.k.fx / target.stride);
    row.per_viewing = static_cast<float>(1 / scales.viewing_angle);
    row.per_field = static_cast<float>(1 / scales.field_angle);
    row.recency = static_cast<float>(recency_of(source.timestamp, target.time, scales.half_life));

    const std::size_t rows = source.rows / step, columns = source.columns / step;
    cells.resize(rows * columns);
    std::vector<float> depth(columns), trust(columns, 1.0f);
    for (std::size_t r = 0; r < rows; ++r) {
        const double v = middle(r);
        set(row.start, ray.direction(middle(0), v));
        row.source_y = static_cast<float>((v - source.k.cy) / source.k.fy);
        const std::size_t first = (r * step + step / 2) * source.columns + step / 2;
        for (std::size_t c = 0; c < columns; ++c) {
            depth[c] = source.depth[first + c * step];
            if (source.confidence) trust[c] = source.confidence[first + c * step];
        }
        const std::size_t out = r * columns;
        land_row(depth.data(), trust.data(), columns, row, &cells.x[out], &cells.y[out],
                 &cells.z[out], &cells.worth[out], &cells.spread[out]);
    }
}

double worth_of(const Vec3& p, const Vec3& centre, const SightOfPoint& sight,
                const SightScales& scales) {
    const Vec3 q{p.x - centre.x, p.y - centre.y, p.z - centre.z};
    const double lengths =
        std::sqrt((p.x * p.x + p.y * p.y + p.z * p.z) * (q.x * q.x + q.y * q.y + q.z * q.z));
    const double cosine = (p.x * q.x + p.y * q.y + p.z * q.z) / std::max(lengths, 1e-30);
    const double viewing = std::sqrt(std::max(0.0, 2 - 2 * cosine));
    const double du = sight.source_x - p.x / p.z, dv = sight.source_y - p.y / p.z;
    const double field = std::sqrt(du * du + dv * dv);
    const double size = std::max(sight.size, 1e-6);
    return sight.recency * std::exp(-viewing / scales.viewing_angle - field / scales.field_angle) *
           std::min(size, 1 / size);
}

}  // namespace mosaicmem
