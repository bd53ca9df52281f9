// Selects the whole keyframes that best show a window of targets, strategy visible_coverage.
//
// A target cell counts for a keyframe, by its worth, if the keyframe's surface is in front there.
// Greedy selection repeatedly takes the keyframe that adds most to the sum, over all cells of all
// targets, of the best worth among the keyframes taken: the result is worth at least 1 - 1/e of the
// best selection of that size. All targets share the keyframes taken for the window; each target
// then selects from those in the same way.
//
// The cost does not grow with the store. The index gives a bounded sample of the patches in each
// frustum. In each bin of the image, the keyframes with the nearest patches, which may occlude
// others, and those with the patches of highest worth become candidates; only candidates are
// compared cell by cell. In a store of few keyframes, all are candidates.

#include "cpp/memory/keyframe_selection.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <unordered_set>

#include "cpp/base/parallel.hpp"
#include "cpp/geometry/frustum.hpp"
#include "cpp/memory/coarse_grid.hpp"
#include "cpp/memory/observation_grid.hpp"

namespace mosaicmem {
namespace {

constexpr std::size_t kSamples = 256;  // patches of each tree in each frustum
constexpr std::size_t kBinRows = 4, kBinColumns = 5;
constexpr std::size_t kBestOfBin = 6;     // candidates of highest worth per image bin
constexpr std::size_t kNearestOfBin = 2;  // nearest candidates per image bin, which may occlude
constexpr double kPatchesAround = 1.5;    // margin from which patches may reach into the image

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
        const std::int32_t cell =
            (left == right) & (top == bottom) ? top * columns + left : kSeveralCells;
        cells[i] = is_outside ? kNoCell : cell;
    }
}

// Records the nearest source cell that lands in each target cell: its depth and its worth.
void cover(const ProjectedCells& projected, std::int32_t rows, std::int32_t columns,
           std::vector<std::int32_t>& cells, float* depth, float* worth) {
    cells.resize(projected.size());
    covered_cells(projected.x.data(), projected.y.data(), projected.worth.data(),
                  projected.spread.data(), projected.size(), rows, columns, cells.data());
    for (std::size_t i = 0; i < projected.size(); ++i) {
        if (cells[i] == kNoCell) continue;
        const float z = projected.z[i], value = projected.worth[i];
        const auto enter = [&](std::size_t cell) {
            if (z >= depth[cell]) return;
            depth[cell] = z;
            worth[cell] = value;
        };
        if (cells[i] == kSeveralCells) {
            for_each_covered(projected.x[i], projected.y[i], value, projected.spread[i], rows,
                             columns, enter);
        } else {
            enter(static_cast<std::size_t>(cells[i]));
        }
    }
}

// The sum over cells of max(worth - best, 0).
MOSAICMEM_CLONES
float excess(const float* worth, const float* best, std::size_t n) {
    constexpr std::size_t kLanes = 16;  // fixed, so that the sum does not depend on the machine
    float sums[kLanes] = {};
    std::size_t i = 0;
    for (; i + kLanes <= n; i += kLanes) {
        for (std::size_t lane = 0; lane < kLanes; ++lane)
            sums[lane] += std::max(worth[i + lane] - best[i + lane], 0.0f);
    }
    float total = 0;
    for (const float sum : sums) total += sum;
    for (; i < n; ++i) total += std::max(worth[i] - best[i], 0.0f);
    return total;
}

// Lazy greedy selection of at most `most` candidates, given their worth per cell (n), of which the
// first adds more than least_gain and the others more than least_further. Gains only
// shrink, so a stale gain is an upper bound, and few have to be computed again.
std::vector<std::size_t> greedy(const std::vector<const float*>& worth, std::size_t n,
                                std::size_t most, double least_gain, double least_further) {
    struct Entry {
        float gain;
        std::size_t candidate;
        bool operator<(const Entry& other) const {
            return gain != other.gain ? gain < other.gain : candidate > other.candidate;
        }
    };
    std::vector<float> best(n, 0.0f);
    std::vector<Entry> heap;
    for (std::size_t i = 0; i < worth.size(); ++i)
        heap.push_back({excess(worth[i], best.data(), n), i});
    std::make_heap(heap.begin(), heap.end());
    std::vector<std::size_t> taken;
    while (!heap.empty() && taken.size() < most) {
        std::pop_heap(heap.begin(), heap.end());
        Entry& top = heap.back();
        top.gain = excess(worth[top.candidate], best.data(), n);
        if (heap.size() > 1 && top < heap.front()) {
            std::push_heap(heap.begin(), heap.end());
            continue;
        }
        if (!(static_cast<double>(top.gain) > (taken.empty() ? least_gain : least_further))) break;
        taken.push_back(top.candidate);
        const float* own = worth[top.candidate];
        for (std::size_t i = 0; i < n; ++i) best[i] = std::max(best[i], own[i]);
        heap.pop_back();
    }
    return taken;
}

}  // namespace

class KeyframeSelection {
  public:
    KeyframeSelection(const StoreState& store, std::span<const TargetGrid> targets,
                      const KeyframeParams& params, int num_threads)
        : store_(store), params_(params), num_threads_(num_threads) {
        for (const TargetGrid& target : targets) targets_.push_back(on_coarse_grid(target));
        if (!targets.empty()) stride_ = targets[0].stride;
        params_.scales = scales_of_choice(params_.scales);
    }

    // The observations that are compared cell by cell, in slot order.
    std::vector<Slot> candidates() {
        std::vector<Slot> slots;
        if (targets_.empty()) return slots;
        find_candidates();
        for (const std::size_t at : candidates_)
            slots.push_back(store_.observations()[at]->first_slot);
        return slots;
    }

    std::vector<std::vector<Slot>> run() {
        std::vector<std::vector<Slot>> picks(targets_.size());
        if (targets_.empty()) return picks;
        find_candidates();
        evaluate();
        const std::size_t cells = targets_[0].rows * targets_[0].columns;
        const double least = kLeastGain * static_cast<double>(cells),
                     least_of_view = kLeastGainOfView * static_cast<double>(cells);
        std::vector<const float*> worth;
        for (const std::vector<float>& own : worth_) worth.push_back(own.data());
        const std::vector<std::size_t> shared =
            greedy(worth, cells * targets_.size(), params_.per_window, least, least);
        for (std::size_t v = 0; v < targets_.size(); ++v) {
            std::vector<const float*> here;
            for (const std::size_t i : shared) here.push_back(worth_[i].data() + v * cells);
            for (const std::size_t i : greedy(here, cells, params_.per_view, least, least_of_view))
                picks[v].push_back(store_.observations()[candidates_[shared[i]]]->first_slot);
        }
        return picks;
    }

  private:
    struct Seen {
        double key;      // lower is better
        std::size_t at;  // of the observation
        bool operator<(const Seen& other) const {
            return key != other.key ? key < other.key : at < other.at;
        }
    };
    struct Bin {
        std::vector<Seen> nearest,
            best;  // by depth, and by worth (negated); one entry per keyframe
    };
    using Bins = std::array<Bin, kBinRows * kBinColumns>;

    void find_candidates() {
        if (store_.observations().size() <= kCandidates) {
            candidates_.resize(store_.observations().size());
            std::iota(candidates_.begin(), candidates_.end(), 0);
            return;
        }
        std::vector<Bins> bins(targets_.size());
        parallel_for(targets_.size(), 1, num_threads_, [&](std::size_t begin, std::size_t end) {
            for (std::size_t v = begin; v < end; ++v) sample(v, bins[v]);
        });
        // The first of all bins, then the second, as long as there is room.
        for (std::size_t rank = 0; rank < kBestOfBin; ++rank) {
            take_rank(bins, rank, &Bin::nearest);
            take_rank(bins, rank, &Bin::best);
        }
        std::sort(candidates_.begin(), candidates_.end());
    }

    // Among the keyframes at one rank, those that hold it in the most bins come first.
    void take_rank(const std::vector<Bins>& bins, std::size_t rank, std::vector<Seen> Bin::* list) {
        std::map<std::size_t, std::size_t> votes;
        for (const Bins& view : bins) {
            for (const Bin& bin : view) {
                if (rank < (bin.*list).size()) ++votes[(bin.*list)[rank].at];
            }
        }
        std::vector<std::pair<std::size_t, std::size_t>> order(votes.begin(), votes.end());
        std::stable_sort(order.begin(), order.end(),
                         [](const auto& a, const auto& b) { return a.second > b.second; });
        for (const auto& [at, count] : order) {
            if (candidates_.size() == kCandidates) return;
            if (known_.insert(at).second) candidates_.push_back(at);
        }
    }

    // Samples the patches in and around the frustum of a target.
    void sample(std::size_t v, Bins& bins) const {
        View view = targets_[v].view;
        const double margin = kPatchesAround * static_cast<double>(store_.patch_size()) * stride_;
        view.k.cx += margin;
        view.k.cy += margin;
        view.width += 2 * margin;
        view.height += 2 * margin;
        const Affine camera_from_index = view.camera_from_world * store_.world_from_index();
        for (const PatchIndex::Node& root : store_.index().roots())
            descend(root, kSamples, 0, {v, view, camera_from_index}, bins);
    }

    struct Look {
        std::size_t v;  // target
        View view;      // with a margin
        Affine camera_from_index;
    };

    // Splits the budget between the children in view by the image area that they cover: near ones
    // cover much of it and may occlude the others.
    void descend(const PatchIndex::Node& node, std::size_t budget, unsigned depth, const Look& look,
                 Bins& bins) const {
        if (store_.index().is_leaf(node)) {
            const PatchIndex::Leaf leaf = store_.index().leaf(node);
            const std::size_t count = std::min(budget, leaf.count);
            for (std::size_t i = 0; i < count; ++i) {
                // Targets of one window look alike; each begins at a different patch.
                const std::size_t at = (i * leaf.count / count + look.v) % leaf.count;
                judge(leaf.slots[at], leaf.centres + 3 * at, look, bins);
            }
            return;
        }
        PatchIndex::Node children[2];
        store_.index().children(node, children[0], children[1]);
        double area[2];
        for (int i = 0; i < 2; ++i) {
            BoxInView seen;
            const bool sees = see_box(children[i].box, look.camera_from_index, look.view, seen);
            const PixelRect& rect = seen.rect;
            area[i] = sees ? 1e-6 + (rect.u_last - rect.u_first) * (rect.v_last - rect.v_first) : 0;
        }
        if (area[0] + area[1] == 0) return;
        const double part = area[0] / (area[0] + area[1]);
        std::size_t left;
        if (budget == 1) {
            // Picks a side pseudo-randomly, but the same every time.
            const std::uint32_t mixed =
                (static_cast<std::uint32_t>(look.v) + 1) * 0x9E3779B1u + depth * 0x85EBCA6Bu;
            left = static_cast<double>(mixed >> 8) * 0x1p-24 < part;
        } else {
            left = static_cast<std::size_t>(std::lround(part * static_cast<double>(budget)));
            if (area[0] > 0 && area[1] > 0) left = std::clamp<std::size_t>(left, 1, budget - 1);
        }
        if (left > 0) descend(children[0], left, depth + 1, look, bins);
        if (left < budget) descend(children[1], budget - left, depth + 1, look, bins);
    }

    // Enters a patch's keyframe in the image bin that the patch lies in or reaches into.
    void judge(Slot slot, const float* centre, const Look& look, Bins& bins) const {
        const View& view = targets_[look.v].view;
        const Vec3 p = look.camera_from_index({centre[0], centre[1], centre[2]});
        if (!(p.z >= view.near && p.z <= view.far)) return;
        const std::size_t at = store_.at_slot(slot);
        if (at == StoreState::kNowhere) return;
        const Observation& observation = *store_.observations()[at];
        const std::size_t patch = slot - observation.first_slot;
        if (!observation.is_alive(patch)) return;
        const Keyframe& keyframe = *observation.keyframe;
        if (params_.passes_over(keyframe)) return;
        const Tile tile = observation.tile(patch);
        const double u = 0.5 * static_cast<double>(tile.column + tile.column_end) * keyframe.stride;
        const double w = 0.5 * static_cast<double>(tile.row + tile.row_end) * keyframe.stride;
        const auto& m = observation.world_from_camera.m;
        const double x = (u - keyframe.k.cx) / keyframe.k.fx,
                     y = (w - keyframe.k.cy) / keyframe.k.fy;
        const Vec3 camera = view.camera_from_world({m[3], m[7], m[11]});
        const Vec3 away{p.x - camera.x, p.y - camera.y, p.z - camera.z};
        const double source_depth =
            std::sqrt((away.x * away.x + away.y * away.y + away.z * away.z) / (1 + x * x + y * y));
        const double size =
            keyframe.stride / keyframe.k.fx * view.k.fx / stride_ * source_depth / p.z;
        const double reach = 0.5 * static_cast<double>(store_.patch_size()) * size * stride_;
        const double column = view.k.fx * p.x / p.z + view.k.cx;
        const double row = view.k.fy * p.y / p.z + view.k.cy;
        if (!(column > -reach && column < view.width + reach && row > -reach &&
              row < view.height + reach)) {
            return;
        }
        const double standing =
            params_.scales.standing(keyframe.provenance, keyframe.timestamp, targets_[look.v].time);
        const double worth = worth_of(p, camera, {x, y, size, standing}, params_.scales);
        const auto part = [](double position, double extent, std::size_t parts) {
            const double most = static_cast<double>(parts) - 1;
            return static_cast<std::size_t>(
                std::clamp(position / extent * static_cast<double>(parts), 0.0, most));
        };
        Bin& bin = bins[part(row, view.height, kBinRows) * kBinColumns +
                        part(column, view.width, kBinColumns)];
        enter({p.z, at}, kNearestOfBin, bin.nearest);
        enter({-worth, at}, kBestOfBin, bin.best);
    }

    // Keeps the first `most` entries of a bin, one per keyframe.
    static void enter(const Seen& seen, std::size_t most, std::vector<Seen>& list) {
        if (list.size() == most && !(seen < list.back())) return;
        const auto same = std::find_if(list.begin(), list.end(),
                                       [&](const Seen& other) { return other.at == seen.at; });
        if (same != list.end()) {
            if (!(seen < *same)) return;
            list.erase(same);
        }
        list.insert(std::upper_bound(list.begin(), list.end(), seen), seen);
        if (list.size() > most) list.pop_back();
    }

    // Each candidate's worth in each cell of each target, 0 where it is not in front.
    void evaluate() {
        const std::size_t cells = targets_[0].rows * targets_[0].columns;
        const std::size_t all = cells * targets_.size();
        constexpr float nowhere = std::numeric_limits<float>::infinity();
        worth_.assign(candidates_.size(), {});
        std::vector<std::vector<float>> depth(candidates_.size());
        parallel_for(candidates_.size(), 2, num_threads_, [&](std::size_t begin, std::size_t end) {
            ProjectedCells projected;
            std::vector<std::int32_t> covered;
            for (std::size_t i = begin; i < end; ++i) {
                worth_[i].assign(all, 0.0f);
                depth[i].assign(all, nowhere);
                const Observation& observation = *store_.observations()[candidates_[i]];
                if (params_.passes_over(*observation.keyframe)) continue;
                SourceGrid grid = grid_of(observation);
                std::vector<float> living;
                if (observation.alive_count < observation.patch_count()) {
                    living = living_depth(observation);
                    grid.depth = living.data();
                }
                const CoarseSource source(grid, coarse_step(grid.rows, grid.columns));
                for (std::size_t v = 0; v < targets_.size(); ++v) {
                    float* worth = worth_[i].data() + v * cells;
                    float* z = depth[i].data() + v * cells;
                    source.project(targets_[v], params_.scales, projected);
                    cover(projected, static_cast<std::int32_t>(targets_[v].rows),
                          static_cast<std::int32_t>(targets_[v].columns), covered, z, worth);
                }
            }
        });
        std::vector<float> front(all, nowhere);
        for (const std::vector<float>& own : depth) {
            for (std::size_t cell = 0; cell < all; ++cell)
                front[cell] = std::min(front[cell], own[cell]);
        }
        const float thickness = 1 + static_cast<float>(params_.depth_tolerance);
        for (std::size_t i = 0; i < candidates_.size(); ++i) {
            for (std::size_t cell = 0; cell < all; ++cell) {
                const bool in_front =
                    worth_[i][cell] > 0 && depth[i][cell] <= front[cell] * thickness;
                worth_[i][cell] = in_front ? worth_[i][cell] + kAnyView : 0.0f;
            }
        }
    }

    const StoreState& store_;
    KeyframeParams params_;
    int num_threads_;
    std::vector<TargetGrid> targets_;        // on the coarse grid
    double stride_ = 1;                      // of the original targets
    std::vector<std::size_t> candidates_;    // positions of observations, ascending
    std::unordered_set<std::size_t> known_;  // the candidates so far
    std::vector<std::vector<float>> worth_;
};

std::vector<Slot> keyframe_candidates(const StoreState& state, std::span<const TargetGrid> targets,
                                      const KeyframeParams& params, int num_threads) {
    return KeyframeSelection(state, targets, params, num_threads).candidates();
}

std::vector<std::vector<Slot>> select_keyframes(const StoreState& state,
                                                std::span<const TargetGrid> targets,
                                                const KeyframeParams& params, int num_threads) {
    return KeyframeSelection(state, targets, params, num_threads).run();
}

}  // namespace mosaicmem
