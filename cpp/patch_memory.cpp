// Compiled without contraction of a * b + c, so that fusion rounds as the published code does.

#include "patch_memory.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

#include "parallel.hpp"
#include "simd/clones.hpp"

namespace mosaicmem {
namespace {

constexpr double kStride = 16;          // pixels a latent cell
constexpr std::size_t kDownsample = 4;  // latent cells along a coarse cell
constexpr std::size_t kPoolStride = 2;  // coverage looks at every second frame
constexpr double kApart = 0.1;          // metres between picks
constexpr double kFilled = 0.95;        // of the cells: enough
constexpr double kLeastSource = 1e-3;   // metres
constexpr double kLeastTarget = 1e-2;   // metres

// The nearest integer, halves to even, without the call that rint is below SSE4.1; beyond 2^22 and
// 2^51 it is somewhere beyond.
MOSAICMEM_INLINE float round_even(float x) {
    constexpr float shift = 12582912.0f;  // 1.5 * 2^23
    return (x + shift) - shift;
}
MOSAICMEM_INLINE double round_even(double x) {
    constexpr double shift = 6755399441055744.0;  // 1.5 * 2^52
    return (x + shift) - shift;
}

// depth (height, width) at row floor(r height / rows), column floor(c width / columns).
template <class Visit>
void for_each_sample(const float* depth, std::size_t height, std::size_t width, std::size_t rows,
                     std::size_t columns, const Visit& visit) {
    for (std::size_t r = 0; r < rows; ++r) {
        for (std::size_t c = 0; c < columns; ++c) {
            visit(r, c, depth[r * height / rows * width + c * width / columns]);
        }
    }
}

using Centre = std::array<double, 3>;

template <class T>
Centre centre_of(const T* m) {  // -R^T t
    Centre centre{};
    for (std::size_t i = 0; i < 3; ++i) {
        for (std::size_t j = 0; j < 3; ++j)
            centre[i] -= static_cast<double>(m[4 * j + i]) * static_cast<double>(m[4 * j + 3]);
    }
    return centre;
}

double distance(const Centre& a, const Centre& b) {
    const double x = a[0] - b[0], y = a[1] - b[1], z = a[2] - b[2];
    return std::sqrt(x * x + y * y + z * z);
}

// Degrees between two viewing directions, the third rows of rotations.
template <class T>
double angle_between(const T* memory, const double* query) {
    double dot = 0, a2 = 0, b2 = 0;
    for (std::size_t i = 8; i < 11; ++i) {
        const double a = static_cast<double>(memory[i]), b = query[i];
        dot += a * b;
        a2 += a * a;
        b2 += b * b;
    }
    const double cosine = dot / ((std::sqrt(a2) + 1e-12) * (std::sqrt(b2) + 1e-12));
    return std::acos(std::clamp(cosine, -1.0, 1.0)) * (180 / 3.14159265358979323846);
}

// The coarse cell that each world point (3, n) covers in a view, or -1. m: rows of K [R | t] (3,
// 4).
MOSAICMEM_CLONES
void cells_of(const double* points, std::size_t n, const double* m, double rows, double columns,
              std::int32_t* cell) {
    const double *x = points, *y = points + n, *z = points + 2 * n;
    const std::int32_t across = static_cast<std::int32_t>(columns);
    for (std::size_t i = 0; i < n; ++i) {
        const double u = m[0] * x[i] + m[1] * y[i] + m[2] * z[i] + m[3];
        const double v = m[4] * x[i] + m[5] * y[i] + m[6] * z[i] + m[7];
        const double depth = m[8] * x[i] + m[9] * y[i] + m[10] * z[i] + m[11];
        const double column = round_even(u / depth / kStride);
        const double row = round_even(v / depth / kStride);
        const bool covers = (depth > kLeastTarget) & (row >= 0) & (row < kDownsample * rows) &
                            (column >= 0) & (column < kDownsample * columns);
        const auto r = static_cast<std::int32_t>(covers ? row : 0.0);
        const auto c = static_cast<std::int32_t>(covers ? column : 0.0);
        cell[i] = covers ? r / static_cast<std::int32_t>(kDownsample) * across +
                               c / static_cast<std::int32_t>(kDownsample)
                         : -1;
    }
}

// One row of cells: where the cells (r, 0), (r, 1), ... of a frame land in a view, -1 for nowhere,
// and how deep. Operations are in float32 and in the order of the published code.
MOSAICMEM_CLONES
void land_row(const float* depth, std::size_t r, std::size_t rows, std::size_t columns,
              const float* k_inverse, const float* memory, const float* query, const float* k,
              float* z_out, std::int32_t* target) {
    const float v = static_cast<float>(kStride) * static_cast<float>(r);
    const float* a = k_inverse;
    const float *m = memory, *q = query;
    const float last_row = static_cast<float>(rows - 1);
    const float last_column = static_cast<float>(columns - 1);
    const auto across = static_cast<std::int32_t>(columns);
    for (std::size_t c = 0; c < columns; ++c) {
        const float u =
            static_cast<float>(kStride) * static_cast<float>(static_cast<std::int32_t>(c));
        const float px = (a[0] * u + a[1] * v + a[2]) * depth[c] - m[3];
        const float py = (a[3] * u + a[4] * v + a[5]) * depth[c] - m[7];
        const float pz = (a[6] * u + a[7] * v + a[8]) * depth[c] - m[11];
        const float wx = m[0] * px + m[4] * py + m[8] * pz;
        const float wy = m[1] * px + m[5] * py + m[9] * pz;
        const float wz = m[2] * px + m[6] * py + m[10] * pz;
        const float x = q[0] * wx + q[1] * wy + q[2] * wz + q[3];
        const float y = q[4] * wx + q[5] * wy + q[6] * wz + q[7];
        const float z = q[8] * wx + q[9] * wy + q[10] * wz + q[11];
        const float nx = x / z, ny = y / z;
        const float column =
            round_even((k[0] * nx + k[1] * ny + k[2]) / static_cast<float>(kStride));
        const float row = round_even((k[3] * nx + k[4] * ny + k[5]) / static_cast<float>(kStride));
        const bool inside = (z > static_cast<float>(kLeastTarget)) &
                            (z < std::numeric_limits<float>::infinity()) & (row >= 0) &
                            (row <= last_row) & (column >= 0) & (column <= last_column);
        z_out[c] = z;
        target[c] = inside ? static_cast<std::int32_t>(inside ? row : 0.0f) * across +
                                 static_cast<std::int32_t>(inside ? column : 0.0f)
                           : -1;
    }
}

// Coarse cells, a bit each.
using Words = std::vector<std::uint64_t>;

std::size_t count_new(const std::uint64_t* mask, const Words& taken) {
    std::size_t count = 0;
    for (std::size_t i = 0; i < taken.size(); ++i)
        count += static_cast<std::size_t>(std::popcount(mask[i] & ~taken[i]));
    return count;
}

}  // namespace

std::size_t PatchMemory::coarse_cells() const {
    return rows_ / kDownsample * (columns_ / kDownsample);
}

PatchMemory::Frame PatchMemory::make_frame(const Frames& frames, std::size_t i) const {
    const std::size_t cells = rows_ * columns_, coarse = coarse_cells();
    Frame frame{std::make_unique_for_overwrite<float[]>(channels_ * cells),
                std::make_unique_for_overwrite<float[]>(cells),
                std::make_unique_for_overwrite<double[]>(3 * coarse),
                {},
                {}};
    for (std::size_t c = 0; c < channels_; ++c) {
        std::memcpy(&frame.latents[c * cells], frames.latents + (c * frames.count + i) * cells,
                    cells * sizeof(float));
    }
    std::copy_n(frames.camera_from_world + 16 * i, 16, frame.camera_from_world.begin());
    std::copy_n(frames.k_inverse + 9 * i, 9, frame.k_inverse.begin());
    const float* depth = frames.depth + i * frames.height * frames.width;
    for_each_sample(
        depth, frames.height, frames.width, rows_, columns_,
        [&](std::size_t r, std::size_t c, float z) { frame.depth[r * columns_ + c] = z; });
    const double* k = frames.k_inverse_double + 9 * i;
    const auto& m = frame.camera_from_world;
    const std::size_t columns = columns_ / kDownsample;
    for_each_sample(depth, frames.height, frames.width, rows_ / kDownsample, columns,
                    [&](std::size_t r, std::size_t c, float z) {
                        const double u = kStride * kDownsample * static_cast<double>(c);
                        const double v = kStride * kDownsample * static_cast<double>(r);
                        double p[3];
                        for (std::size_t j = 0; j < 3; ++j) {
                            p[j] = (k[3 * j] * u + k[3 * j + 1] * v + k[3 * j + 2]) *
                                       static_cast<double>(z) -
                                   static_cast<double>(m[4 * j + 3]);
                        }
                        const bool valid = z > static_cast<float>(kLeastSource) && std::isfinite(z);
                        for (std::size_t j = 0; j < 3; ++j) {
                            const double world = static_cast<double>(m[j]) * p[0] +
                                                 static_cast<double>(m[4 + j]) * p[1] +
                                                 static_cast<double>(m[8 + j]) * p[2];
                            frame.coverage[j * coarse + r * columns + c] =
                                valid ? world : std::numeric_limits<double>::quiet_NaN();
                        }
                    });
    return frame;
}

void PatchMemory::append(const Frames& frames) {
    std::vector<Frame> added;
    added.reserve(frames.count);
    for (std::size_t i = 0; i < frames.count; ++i) added.push_back(make_frame(frames, i));
    if (frames_.capacity() < frames_.size() + added.size())
        frames_.reserve(2 * (frames_.size() + added.size()));
    std::move(added.begin(), added.end(), std::back_inserter(frames_));
}

std::vector<PatchMemory::Picks> PatchMemory::select_pose_nearest(const double* camera_from_world,
                                                                 std::size_t groups) const {
    std::vector<Picks> picks(groups);
    for (std::size_t g = 0; g < groups; ++g)
        picks[g] = pick_pose_nearest(camera_from_world + 16 * g);
    return picks;
}

PatchMemory::Picks PatchMemory::pick_pose_nearest(const double* camera_from_world) const {
    const std::size_t n = frames_.size();
    std::vector<std::size_t> ranked(n);
    std::iota(ranked.begin(), ranked.end(), 0);
    std::vector<double> by(n);
    const auto sort_first = [&](std::size_t count) {
        std::partial_sort(
            ranked.begin(), ranked.begin() + static_cast<std::ptrdiff_t>(count), ranked.end(),
            [&](std::size_t a, std::size_t b) { return by[a] != by[b] ? by[a] < by[b] : a < b; });
    };
    for (std::size_t i = 0; i < n; ++i)
        by[i] = angle_between(frames_[i].camera_from_world.data(), camera_from_world);
    const std::size_t pool = std::min(2 * std::clamp<std::size_t>(n, kPicks, 10), n);
    sort_first(pool);
    ranked.resize(pool);
    const Centre centre = centre_of(camera_from_world);
    std::vector<Centre> centres(n);
    for (const std::size_t i : ranked) {
        centres[i] = centre_of(frames_[i].camera_from_world.data());
        by[i] = distance(centres[i], centre);
    }
    sort_first(pool);
    std::vector<std::size_t> picked;
    for (const std::size_t i : ranked) {
        const bool apart = std::all_of(picked.begin(), picked.end(), [&](std::size_t other) {
            return distance(centres[i], centres[other]) >= kApart;
        });
        if (apart && picked.size() < kPicks) picked.push_back(i);
    }
    for (const std::size_t i : ranked) {
        const bool is_new = std::find(picked.begin(), picked.end(), i) == picked.end();
        if (is_new && picked.size() < kPicks) picked.push_back(i);
    }
    Picks picks;
    picks.fill(-1);
    std::copy(picked.begin(), picked.end(), picks.begin());
    return picks;
}

std::vector<PatchMemory::Picks> PatchMemory::select_coverage(const double* camera_from_world,
                                                             const double* k, std::size_t groups,
                                                             int num_threads) const {
    std::vector<Picks> picks(groups);
    const std::size_t points = coarse_cells() * (frames_.size() / kPoolStride + 1);
    parallel_for(groups, (1 << 16) / (points + 1) + 1, num_threads,
                 [&](std::size_t begin, std::size_t end) {
                     for (std::size_t g = begin; g < end; ++g)
                         picks[g] = pick_coverage(camera_from_world + 16 * g, k + 9 * g);
                 });
    return picks;
}

PatchMemory::Picks PatchMemory::pick_coverage(const double* camera_from_world,
                                              const double* k) const {
    double projection[12];  // K [R | t]
    for (std::size_t i = 0; i < 3; ++i) {
        for (std::size_t j = 0; j < 4; ++j) {
            projection[4 * i + j] = k[3 * i] * camera_from_world[j] +
                                    k[3 * i + 1] * camera_from_world[4 + j] +
                                    k[3 * i + 2] * camera_from_world[8 + j];
        }
    }
    const std::size_t cells = coarse_cells(), words = (cells + 63) / 64;
    const std::size_t pool = (frames_.size() + kPoolStride - 1) / kPoolStride;
    Words masks(pool * words);
    std::vector<std::int32_t> cell(cells);
    for (std::size_t i = 0; i < pool; ++i) {
        cells_of(frames_[i * kPoolStride].coverage.get(), cells, projection,
                 static_cast<double>(rows_ / kDownsample),
                 static_cast<double>(columns_ / kDownsample), cell.data());
        for (const std::int32_t at : cell) {
            if (at >= 0) masks[i * words + static_cast<std::size_t>(at) / 64] |= 1ull << (at % 64);
        }
    }
    Words taken(words);
    std::vector<std::size_t> picked;
    const auto take_most = [&] {  // false if none has anything new
        std::size_t best = 0, most = 0;
        for (std::size_t i = 0; i < pool; ++i) {
            if (std::find(picked.begin(), picked.end(), i) != picked.end()) continue;
            const std::size_t gain = count_new(masks.data() + i * words, taken);
            if (gain > most) best = i, most = gain;
        }
        if (most > 0) picked.push_back(best);
        return most > 0;
    };
    while (picked.size() < kPicks && take_most()) {
        for (std::size_t w = 0; w < words; ++w) taken[w] |= masks[picked.back() * words + w];
    }
    taken.assign(words, 0);  // then by area
    while (picked.size() < kPicks && take_most()) {
    }
    Picks picks;
    picks.fill(picked.empty() ? -1 : static_cast<std::int64_t>(picked.back() * kPoolStride));
    for (std::size_t i = 0; i < picked.size(); ++i)
        picks[i] = static_cast<std::int64_t>(picked[i] * kPoolStride);
    return picks;
}

// depth and source (rows, columns): what of the frame is nearest in each cell; -1 for nothing. Of
// equals the last, as where the published code writes one over the other.
void PatchMemory::splat(const Frame& frame, const float* camera_from_world, const float* k,
                        float* depth, std::int32_t* source) const {
    std::fill_n(source, rows_ * columns_, -1);
    std::fill_n(depth, rows_ * columns_, std::numeric_limits<float>::infinity());
    std::vector<float> z(columns_);
    std::vector<std::int32_t> target(columns_);
    for (std::size_t r = 0; r < rows_; ++r) {
        land_row(&frame.depth[r * columns_], r, rows_, columns_, frame.k_inverse.data(),
                 frame.camera_from_world.data(), camera_from_world, k, z.data(), target.data());
        for (std::size_t c = 0; c < columns_; ++c) {
            if (target[c] < 0 || z[c] > depth[target[c]]) continue;
            depth[target[c]] = z[c];
            source[target[c]] = static_cast<std::int32_t>(r * columns_ + c);
        }
    }
}

void PatchMemory::fuse(const float* camera_from_world, const float* k, std::size_t groups,
                       std::span<const std::int64_t> candidates, Keep keep, float* latents,
                       std::uint8_t* valid, int num_threads) const {
    const std::size_t cells = rows_ * columns_;
    const std::size_t each = groups == 0 ? 0 : candidates.size() / groups;
    const auto fuse_group = [&](std::size_t g) {
        std::vector<std::int64_t> ids;
        for (const std::int64_t id : candidates.subspan(g * each, each)) {
            if (id >= 0 && std::find(ids.begin(), ids.end(), id) == ids.end()) ids.push_back(id);
        }
        if (ids.empty()) ids.push_back(0);
        constexpr float inf = std::numeric_limits<float>::infinity();
        std::vector<float> best(cells, keep == Keep::nearest ? inf : -inf), depth(cells);
        std::vector<std::int32_t> source(cells);
        std::vector<const float*> from(cells, nullptr);  // first channel of what is kept
        std::size_t filled = 0;
        for (const std::int64_t id : ids) {
            const Frame& frame = frames_[static_cast<std::size_t>(id)];
            splat(frame, camera_from_world + 16 * g, k + 9 * g, depth.data(), source.data());
            for (std::size_t i = 0; i < cells; ++i) {
                if (source[i] < 0) continue;
                if (keep == Keep::nearest ? !(depth[i] < best[i]) : !(depth[i] > best[i])) continue;
                filled += from[i] == nullptr;
                best[i] = depth[i];
                from[i] = &frame.latents[static_cast<std::size_t>(source[i])];
            }
            // Exactly 95 % is not enough, since the published code counts in float32.
            const float part = static_cast<float>(filled) / static_cast<float>(cells);
            if (static_cast<double>(part) >= kFilled) break;
        }
        for (std::size_t i = 0; i < cells; ++i) valid[g * cells + i] = from[i] != nullptr;
        for (std::size_t c = 0; c < channels_; ++c) {
            float* out = latents + (c * groups + g) * cells;
            for (std::size_t i = 0; i < cells; ++i) out[i] = from[i] ? from[i][c * cells] : 0.0f;
        }
    };
    const std::size_t grain = (1 << 17) / (cells * (channels_ + 8 * each) + 1) + 1;
    parallel_for(groups, grain, num_threads, [&](std::size_t begin, std::size_t end) {
        for (std::size_t g = begin; g < end; ++g) fuse_group(g);
    });
}

}  // namespace mosaicmem
