// Selects the whole keyframes that best show a window of targets, strategy visible_coverage.
//
// A target cell counts for a keyframe, by its worth, if the keyframe's surface is in front there.
// Greedy selection repeatedly takes the keyframe that adds most to the sum, over all cells of all
// targets, of the best worth among the keyframes taken: the result is worth at least 1 - 1/e of the
// best selection of that size. All targets share the keyframes taken for the window; each target
// then selects from those in the same way. Only candidates are compared, which
// keyframe_candidates.hpp finds.

#include "cpp/memory/keyframe_selection.hpp"

#include <algorithm>
#include <limits>

#include "cpp/base/parallel.hpp"
#include "cpp/memory/coarse_grid.hpp"
#include "cpp/memory/coarse_source.hpp"
#include "cpp/memory/keyframe_candidates.hpp"
#include "cpp/memory/observation_grid.hpp"

namespace mosaicmem {
namespace {

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

class KeyframeSelection {
  public:
    KeyframeSelection(const StoreState& store, std::span<const TargetGrid> targets,
                      const KeyframeParams& params, int num_threads)
        : store_(store), params_(params), num_threads_(num_threads) {
        for (const TargetGrid& target : targets) targets_.push_back(on_coarse_grid(target));
        params_.scales = scales_of_choice(params_.scales);
        if (targets.empty()) return;
        candidates_ = find_candidates(store, targets_, targets[0].stride, params_, num_threads);
    }

    // The observations that are compared cell by cell, in slot order.
    std::vector<Slot> candidates() const {
        std::vector<Slot> slots;
        for (const std::size_t at : candidates_)
            slots.push_back(store_.observations()[at]->first_slot);
        return slots;
    }

    std::vector<std::vector<Slot>> run() {
        std::vector<std::vector<Slot>> picks(targets_.size());
        if (targets_.empty()) return picks;
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
                    cover(projected, targets_[v], covered, z, worth);
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
    std::vector<TargetGrid> targets_;      // on the coarse grid
    std::vector<std::size_t> candidates_;  // positions of observations, ascending
    std::vector<std::vector<float>> worth_;
};

}  // namespace

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
