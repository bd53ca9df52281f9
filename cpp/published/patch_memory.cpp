// Compiled without contraction of a * b + c, so that fusion rounds as the published code does.

#include "cpp/published/patch_memory.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

#include "cpp/base/clones.hpp"
#include "cpp/base/parallel.hpp"
#include "cpp/published/patch_memory_cells.hpp"

namespace mosaicmem {
namespace {

// Calls visit(r, c, depth) with the depth at row floor(r height / rows), column
// floor(c width / columns).
template <class Visit>
void for_each_sample(const float* depth, std::size_t height, std::size_t width, std::size_t rows,
                     std::size_t columns, const Visit& visit) {
    for (std::size_t r = 0; r < rows; ++r) {
        for (std::size_t c = 0; c < columns; ++c) {
            visit(r, c, depth[r * height / rows * width + c * width / columns]);
        }
    }
}

// The coarse cells that world points (3, n) cover in a view. m: rows of K [R | t] (3, 4).
MOSAICMEM_CLONES
void cells_of(const double* points, std::size_t n, const double* m, std::int32_t rows,
              std::int32_t columns, std::int32_t* cell) {
    for (std::size_t i = 0; i < n; ++i) {
        cell[i] = coarse_cell_of(points[i], points[n + i], points[2 * n + i], m, rows, columns);
    }
}

// Projects one row of a frame's cells, (r, 0), (r, 1), ..., into a view: target cells and depths.
MOSAICMEM_CLONES
void project_row(const float* depth, std::size_t r, std::int32_t rows, std::int32_t columns,
                 const float* k_inverse, const float* memory, const float* query, const float* k,
                 float* z, std::int32_t* target) {
    const auto row = static_cast<std::int32_t>(r);
    for (std::int32_t c = 0; c < columns; ++c) {
        target[c] =
            land_published_cell(row, c, depth[c], rows, columns, k_inverse, memory, query, k, z[c]);
    }
}

// Coarse cells, one bit each.
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
                        double world[3];
                        published_world_point(static_cast<double>(c), static_cast<double>(r), z, k,
                                              m.data(), world);
                        for (std::size_t j = 0; j < 3; ++j)
                            frame.coverage[j * coarse + r * columns + c] = world[j];
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
                 static_cast<std::int32_t>(rows_ / kDownsample),
                 static_cast<std::int32_t>(columns_ / kDownsample), cell.data());
        for (const std::int32_t at : cell) {
            if (at >= 0) masks[i * words + static_cast<std::size_t>(at) / 64] |= 1ull << (at % 64);
        }
    }
    Words taken(words);
    std::vector<std::size_t> picked;
    const auto take_most = [&] {  // false if no frame adds anything
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
    taken.assign(words, 0);  // then fill up by covered area
    while (picked.size() < kPicks && take_most()) {
    }
    Picks picks;
    picks.fill(picked.empty() ? -1 : static_cast<std::int64_t>(picked.back() * kPoolStride));
    for (std::size_t i = 0; i < picked.size(); ++i)
        picks[i] = static_cast<std::int64_t>(picked[i] * kPoolStride);
    return picks;
}

// Fills depth and source (rows, columns): the nearest of the frame's cells that land in each cell;
// source is -1 for none. Of equal depths the last wins, as it overwrites the others in the
// published code.
void PatchMemory::splat(const Frame& frame, const float* camera_from_world, const float* k,
                        float* depth, std::int32_t* source) const {
    std::fill_n(source, rows_ * columns_, -1);
    std::fill_n(depth, rows_ * columns_, std::numeric_limits<float>::infinity());
    std::vector<float> z(columns_);
    std::vector<std::int32_t> target(columns_);
    for (std::size_t r = 0; r < rows_; ++r) {
        project_row(&frame.depth[r * columns_], r, static_cast<std::int32_t>(rows_),
                    static_cast<std::int32_t>(columns_), frame.k_inverse.data(),
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
        std::vector<const float*> from(cells, nullptr);  // first channel of the kept latent
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
            // Exactly 95 % is not enough: like the published code, this counts in float32.
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
