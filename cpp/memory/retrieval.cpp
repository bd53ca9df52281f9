// View-conditioned retrieval, strategy top_k:
//   score = centrality * proximity * footprint * recency * weight of its provenance, then greedy
//   selection under a diversity penalty.
//
// Best-first search: exact, without a scan. One queue holds subtrees, patches and scored patches,
// each under an upper bound of its penalised score. The entry with the largest bound is refined
// repeatedly: a subtree into its children or its patches, a patch into its exact score, a score
// into its penalised score. Every step can only lower a bound, so a scored patch that comes first
// with its bound up to date is the next one that greedy selection would take.

#include "cpp/memory/retrieval.hpp"

#include <algorithm>
#include <cmath>
#include <optional>

#include "cpp/geometry/reproject.hpp"
#include "cpp/geometry/unproject.hpp"

namespace mosaicmem {
namespace {

// The patches taken so far, in bins at least as wide as the diversity radius.
class TakenPatches {
  public:
    TakenPatches(const View& view, double radius)
        : squared_radius_(radius * radius),
          bin_size_(std::max(radius, std::max(view.width, view.height) / kMostBins)),
          columns_(bin(view.width) + 1),
          rows_(bin(view.height) + 1),
          first_of_bin_(static_cast<std::size_t>(columns_ * rows_), -1) {}

    void add(double u, double v) {
        std::int32_t& first = first_of_bin_[static_cast<std::size_t>(bin(v) * columns_ + bin(u))];
        taken_.push_back({u, v, first});
        first = static_cast<std::int32_t>(taken_.size()) - 1;
    }

    std::uint32_t size() const { return static_cast<std::uint32_t>(taken_.size()); }

    // How many of the patches taken after the first `known` lie within the radius of every point of
    // the rectangle.
    std::uint32_t within_radius_of(const PixelRect& rect, std::uint32_t known) const {
        const double u = 0.5 * (rect.u_first + rect.u_last), half_width = rect.u_last - u;
        const double v = 0.5 * (rect.v_first + rect.v_last), half_height = rect.v_last - v;
        if (half_width * half_width + half_height * half_height > squared_radius_) return 0;
        const int column = bin(u), row = bin(v);
        std::uint32_t count = 0;
        for (int r = std::max(0, row - 1); r <= std::min(rows_ - 1, row + 1); ++r) {
            for (int c = std::max(0, column - 1); c <= std::min(columns_ - 1, column + 1); ++c) {
                for (std::int32_t i = first_of_bin_[static_cast<std::size_t>(r * columns_ + c)];
                     i >= static_cast<std::int32_t>(known);) {
                    const Taken& taken = taken_[static_cast<std::size_t>(i)];
                    const double du = std::abs(taken.u - u) + half_width,
                                 dv = std::abs(taken.v - v) + half_height;
                    count += du * du + dv * dv <= squared_radius_;
                    i = taken.next;
                }
            }
        }
        return count;
    }

  private:
    static constexpr double kMostBins = 64;  // along an axis

    struct Taken {
        double u, v;
        std::int32_t next;  // in the same bin, taken earlier
    };

    int bin(double x) const { return static_cast<int>(x / bin_size_); }  // 0 <= x <= image size

    double squared_radius_, bin_size_;
    int columns_, rows_;
    std::vector<std::int32_t> first_of_bin_;
    std::vector<Taken> taken_;
};

}  // namespace

class Retrieval {
  public:
    Retrieval(const StoreState& store, const View& view, const RetrievalParams& params)
        : store_(store),
          view_(view),
          camera_from_index_(view.camera_from_world * store.world_from_index()),
          params_(params),
          diverse_(params.is_diverse()),
          taken_(view, params.diversity_radius) {}

    std::vector<RetrievedPatch> run() {
        for (const PatchIndex::Node& root : store_.index().roots()) push(root);
        std::vector<RetrievedPatch> result;
        while (!queue_.empty() && result.size() < params_.top_k) {
            Entry top = queue_.front();
            if (diverse_ && top.seen != taken_.size()) {
                const double bound = penalised(top);
                if (bound < top.bound) {
                    top.bound = bound;
                    replace_front(top);
                    continue;
                }
            }
            if (top.stage == Stage::candidate) {
                if (score(top)) {
                    replace_front(top);
                    continue;
                }
            }
            std::pop_heap(queue_.begin(), queue_.end(), Later{patches_});
            queue_.pop_back();
            if (top.stage == Stage::subtree) {
                expand(subtrees_[top.index].node);
            } else if (top.stage == Stage::scored) {
                const RetrievedPatch& patch = patches_[top.index].patch;
                result.push_back(patch);
                last_taken_ = top.bound;
                if (diverse_) taken_.add(patch.u, patch.v);
            }
        }
        return result;
    }

    // Of the last patch that run() took, penalised.
    double last_taken() const { return last_taken_; }

  private:
    enum class Stage : std::uint32_t { subtree, candidate, scored };

    struct Entry {
        double bound;             // of the penalised score
        std::uint32_t index;      // into subtrees_ or patches_
        std::uint32_t seen : 30;  // patches taken when the bound was computed
        Stage stage : 2;
    };

    struct Subtree {
        PatchIndex::Node node;
        PixelRect rect;
        double bound;             // of the score, without penalties
        std::uint32_t penalties;  // that apply to all its points so far
    };

    struct Candidate {
        RetrievedPatch patch;  // its id is the slot until it is scored
        double bound;          // of the score, without penalties
        std::uint32_t penalties;
    };

    // Among equal bounds the least refined entry comes first: when a scored patch comes out, all
    // patches of that score are scored, and the smallest id is first.
    struct Later {
        const std::vector<Candidate>& patches;

        bool operator()(const Entry& a, const Entry& b) const {
            if (a.bound != b.bound) return a.bound < b.bound;
            if (a.stage != b.stage) return a.stage > b.stage;
            return a.stage == Stage::scored &&
                   patches[a.index].patch.id > patches[b.index].patch.id;
        }
    };

    // An observation, with the values that all its patches share.
    struct Source {
        const Observation* observation;
        Reprojection reproject;
        double standing;  // recency * weight

        bool holds(Slot slot) const {
            return slot >= observation->first_slot &&
                   slot - observation->first_slot < observation->patch_count();
        }
    };

    void push(std::size_t index, Stage stage) {
        Entry entry{0, static_cast<std::uint32_t>(index), 0, stage};
        entry.bound = penalised(entry);
        queue_.push_back(entry);
        std::push_heap(queue_.begin(), queue_.end(), Later{patches_});
    }

    // Replaces the front with an entry that is not larger.
    void replace_front(const Entry& entry) {
        const Later later{patches_};
        std::size_t hole = 0;
        for (std::size_t child = 1; child < queue_.size(); child = 2 * hole + 1) {
            if (child + 1 < queue_.size() && later(queue_[child], queue_[child + 1])) ++child;
            if (!later(entry, queue_[child])) break;
            queue_[hole] = queue_[child];
            hole = child;
        }
        queue_[hole] = entry;
    }

    void push(const PatchIndex::Node& node) {
        Subtree subtree{node, {}, 0, 0};
        subtree.bound = score_bound(node.box, node.newest_time, camera_from_index_, view_, params_,
                                    subtree.rect);
        if (subtree.bound < params_.min_visibility) return;
        subtrees_.push_back(subtree);
        push(subtrees_.size() - 1, Stage::subtree);
    }

    // The bound of an entry under the penalties that apply to every point it may stand for.
    // Incremental: only looks at patches taken since the last call.
    double penalised(Entry& entry) {
        const bool is_subtree = entry.stage == Stage::subtree;
        const double bound =
            is_subtree ? subtrees_[entry.index].bound : patches_[entry.index].bound;
        if (!diverse_) return bound;
        std::uint32_t& penalties =
            is_subtree ? subtrees_[entry.index].penalties : patches_[entry.index].penalties;
        if (entry.seen != taken_.size()) {
            PixelRect rect;
            if (is_subtree) {
                rect = subtrees_[entry.index].rect;
            } else {
                const RetrievedPatch& patch = patches_[entry.index].patch;
                rect = {patch.u, patch.u, patch.v, patch.v};
            }
            penalties += taken_.within_radius_of(rect, entry.seen);
            entry.seen = taken_.size();
        }
        return penalties == 0 ? bound : bound * penalty_of(penalties);
    }

    void expand(const PatchIndex::Node node) {  // by value: subtrees_ grows
        if (!store_.index().is_leaf(node)) {
            PatchIndex::Node left, right;
            store_.index().children(node, left, right);
            push(left);
            push(right);
            return;
        }
        const double newest = recency(node.newest_time);
        const PatchIndex::Leaf leaf = store_.index().leaf(node);
        for (std::size_t i = 0; i < leaf.count; ++i) {
            Projected p;
            if (!project_centre(leaf.centres + 3 * i, camera_from_index_, view_, p)) continue;
            const double bound = p.score * newest;
            if (bound < params_.min_visibility) continue;
            patches_.push_back({{leaf.slots[i], p.score, p.u, p.v, p.depth}, bound, 0});
            push(patches_.size() - 1, Stage::candidate);
        }
    }

    // Scores a candidate and updates its entry; false if the candidate is dropped.
    bool score(Entry& entry) {
        Candidate& candidate = patches_[entry.index];
        RetrievedPatch& patch = candidate.patch;
        const Slot slot = patch.id;
        if (!source_ || !source_->holds(slot)) source_ = find_source(slot);
        if (!source_) return false;
        const std::size_t local = slot - source_->observation->first_slot;
        if (!source_->observation->is_alive(local)) return false;
        patch.id = source_->observation->first_id + local;
        patch.score *= source_->standing;
        if (patch.score >= params_.min_visibility) patch.score *= footprint(local);
        if (patch.score < params_.min_visibility) return false;
        candidate.bound = patch.score;
        entry.stage = Stage::scored;
        entry.bound = penalised(entry);
        return true;
    }

    double penalty_of(std::uint32_t count) const {
        while (powers_.size() <= count)
            powers_.push_back(powers_.back() * params_.diversity_penalty);
        return powers_[count];
    }

    std::optional<Source> find_source(Slot slot) const {
        const std::size_t at = store_.at_slot(slot);
        if (at == StoreState::kNowhere) return std::nullopt;
        const Observation& observation = *store_.observations()[at];
        const Keyframe& keyframe = *observation.keyframe;
        const double weight = weight_of(keyframe.provenance, params_.generated_weight);
        if (weight == 0) return std::nullopt;
        return Source{&observation,
                      {keyframe.k, observation.world_from_camera, view_},
                      recency(keyframe.timestamp) * weight};
    }

    double recency(double timestamp) const {
        return recency_of(timestamp, params_.time, params_.half_life);
    }

    // Of a patch of source_.
    double footprint(std::size_t patch) const {
        const Keyframe& keyframe = *source_->observation->keyframe;
        return footprint_of(source_->observation->tile(patch), keyframe.depth, keyframe.columns,
                            keyframe.stride, source_->reproject, view_);
    }

    const StoreState& store_;
    const View& view_;
    const Affine camera_from_index_;
    const RetrievalParams& params_;
    const bool diverse_;
    TakenPatches taken_;
    mutable std::vector<double> powers_ = {1.0};  // of the diversity penalty
    std::vector<Entry> queue_;                    // a heap
    std::vector<Subtree> subtrees_;
    std::vector<Candidate> patches_;
    std::optional<Source> source_;  // of the patch scored last
    double last_taken_ = 0;
};

std::vector<RetrievedPatch> retrieve(const StoreState& state, const View& view,
                                     const RetrievalParams& params) {
    std::vector<RetrievedPatch> patches = Retrieval(state, view, params).run();
    std::sort(patches.begin(), patches.end(), [](const RetrievedPatch& a, const RetrievedPatch& b) {
        return a.depth != b.depth ? a.depth < b.depth : a.id < b.id;
    });
    return patches;
}

double least_taken(const StoreState& state, const View& view, const RetrievalParams& params) {
    Retrieval search(state, view, params);
    return search.run().size() < params.top_k ? 0 : search.last_taken();
}

}  // namespace mosaicmem
