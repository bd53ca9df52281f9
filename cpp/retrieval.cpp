// View-conditioned retrieval, strategy top_k:
//   score = centrality * proximity * footprint * recency, then greedy selection under a diversity
//   penalty.
// Every living patch inside the frustum is scored, so the answer is exact.

#include <algorithm>
#include <cmath>
#include <optional>
#include <shared_mutex>
#include <unordered_map>

#include "memory_store.hpp"
#include "reproject.hpp"
#include "unproject.hpp"

namespace mosaicmem {

class Retrieval {
  public:
    Retrieval(const MemoryStore& store, const View& view, const RetrievalParams& params)
        : store_(store), view_(view), params_(params) {}

    // All patches whose centre is in the frustum and whose score reaches min_visibility.
    std::vector<RetrievedPatch> visible() const {
        std::vector<RetrievedPatch> found;
        store_.index_.for_each_run([&](const PatchId* ids, const float* centres, std::size_t n) {
            std::optional<Source>
                source;  // ids ascend, so patches of one observation follow each other
            for (std::size_t i = 0; i < n; ++i) {
                RetrievedPatch patch{ids[i], 0, 0, 0, 0};
                if (!project(centres + 3 * i, patch)) continue;
                if (!source || !source->holds(patch.id)) source = find_source(patch.id);
                if (source && score(*source, patch)) found.push_back(patch);
            }
        });
        return found;
    }

  private:
    // An observation, with what all its patches share.
    struct Source {
        const Observation* observation;
        Reprojection reproject;
        double recency;

        bool holds(PatchId id) const {
            return id >= observation->first_id &&
                   id - observation->first_id < observation->patch_count();
        }
    };

    std::optional<Source> find_source(PatchId id) const {
        const Observation* observation = store_.find(id);
        if (!observation) return std::nullopt;
        const double age = std::max(0.0, params_.time - observation->keyframe.timestamp);
        return Source{observation,
                      {observation->keyframe.k, observation->world_from_camera, view_},
                      params_.half_life > 0 ? std::exp2(-age / params_.half_life) : 1.0};
    }

    bool project(const float* centre, RetrievedPatch& patch) const {
        const Vec3 p = view_.camera_from_world({centre[0], centre[1], centre[2]});
        if (!(p.z >= view_.near && p.z <= view_.far)) return false;
        patch.depth = p.z;
        patch.u = view_.k.fx * p.x / p.z + view_.k.cx;
        patch.v = view_.k.fy * p.y / p.z + view_.k.cy;
        return inside(patch.u, patch.v);
    }

    bool inside(double u, double v) const {
        return u >= 0 && u < view_.width && v >= 0 && v < view_.height;
    }

    bool score(const Source& source, RetrievedPatch& patch) const {
        const std::size_t local = patch.id - source.observation->first_id;
        if (!source.observation->is_alive(local)) return false;
        const double du = (patch.u - view_.k.cx) / view_.width;
        const double dv = (patch.v - view_.k.cy) / view_.height;
        const double centrality = std::max(0.0, 1.0 - std::sqrt(du * du + dv * dv));
        const double proximity = 1.0 / (1.0 + 0.1 * patch.depth);
        patch.score = centrality * proximity * source.recency;
        if (patch.score < params_.min_visibility) return false;  // footprint <= 1 can only lower it
        patch.score *= footprint(source, local);
        return patch.score >= params_.min_visibility;
    }

    // The part of the patch's tokens that the view sees, at least a quarter.
    double footprint(const Source& source, std::size_t patch) const {
        const Keyframe& keyframe = source.observation->keyframe;
        const Tile cells = store_.tile(*source.observation, patch);
        std::size_t visible = 0;
        for (std::size_t r = cells.row; r < cells.row_end; ++r) {
            for (std::size_t c = cells.column; c < cells.column_end; ++c) {
                const float depth = keyframe.depth[r * keyframe.columns + c];
                float u, v, z;
                visible += is_valid_depth(depth) &&
                           source.reproject((static_cast<double>(c) + 0.5) * keyframe.stride,
                                            (static_cast<double>(r) + 0.5) * keyframe.stride, depth,
                                            u, v, z) &&
                           z <= view_.far && inside(u, v);
            }
        }
        const std::size_t tokens = (cells.row_end - cells.row) * (cells.column_end - cells.column);
        return std::max(0.25, static_cast<double>(visible) / static_cast<double>(tokens));
    }

    const MemoryStore& store_;
    const View& view_;
    const RetrievalParams& params_;
};

namespace {

// Counts taken patches within a radius by bins as wide as the radius.
class TakenPatches {
  public:
    explicit TakenPatches(double radius) : radius_(radius) {}

    void add(const RetrievedPatch& patch) {
        bins_[key(bin(patch.u), bin(patch.v))].push_back({patch.u, patch.v});
    }

    std::size_t within_radius(const RetrievedPatch& patch) const {
        const std::int32_t column = bin(patch.u), row = bin(patch.v);
        std::size_t count = 0;
        for (std::int32_t r = row - 1; r <= row + 1; ++r) {
            for (std::int32_t c = column - 1; c <= column + 1; ++c) {
                const auto found = bins_.find(key(c, r));
                if (found == bins_.end()) continue;
                for (const auto& [u, v] : found->second) {
                    const double du = u - patch.u, dv = v - patch.v;
                    count += du * du + dv * dv <= radius_ * radius_;
                }
            }
        }
        return count;
    }

  private:
    // Patches lie inside the image, so a bin number is at most pixels / radius: the clamp only
    // guards tiny radii.
    std::int32_t bin(double x) const {
        return static_cast<std::int32_t>(std::clamp(std::floor(x / radius_), -1e9, 1e9));
    }

    static std::uint64_t key(std::int32_t column, std::int32_t row) {
        return static_cast<std::uint64_t>(static_cast<std::uint32_t>(row)) << 32 |
               static_cast<std::uint32_t>(column);
    }

    double radius_;
    std::unordered_map<std::uint64_t, std::vector<std::pair<double, double>>> bins_;
};

bool better(double score_a, PatchId id_a, double score_b, PatchId id_b) {
    return score_a != score_b ? score_a > score_b : id_a < id_b;
}

void keep_best(std::vector<RetrievedPatch>& patches, std::size_t k) {
    const auto order = [](const RetrievedPatch& a, const RetrievedPatch& b) {
        return better(a.score, a.id, b.score, b.id);
    };
    if (patches.size() <= k) return;
    std::nth_element(patches.begin(), patches.begin() + static_cast<std::ptrdiff_t>(k),
                     patches.end(), order);
    patches.resize(k);
}

// Greedy: take the best penalised score, again and again. Penalties only grow, so a score computed
// earlier is an upper bound, and the patch on top of the heap whose score proves current is the one
// greedy would take.
std::vector<RetrievedPatch> select_diverse(const std::vector<RetrievedPatch>& patches,
                                           const RetrievalParams& params) {
    struct Candidate {
        double bound;
        PatchId id;
        std::size_t index;
        std::size_t penalties;
    };
    const auto lower = [](const Candidate& a, const Candidate& b) {
        return better(b.bound, b.id, a.bound, a.id);
    };
    std::vector<Candidate> heap;
    heap.reserve(patches.size());
    for (std::size_t i = 0; i < patches.size(); ++i)
        heap.push_back({patches[i].score, patches[i].id, i, 0});
    std::make_heap(heap.begin(), heap.end(), lower);

    TakenPatches taken(params.diversity_radius);
    std::vector<RetrievedPatch> result;
    while (!heap.empty() && result.size() < params.top_k) {
        std::pop_heap(heap.begin(), heap.end(), lower);
        Candidate& top = heap.back();
        const RetrievedPatch& patch = patches[top.index];
        const std::size_t penalties = taken.within_radius(patch);
        if (penalties == top.penalties) {
            taken.add(patch);
            result.push_back(patch);
            heap.pop_back();
        } else {
            top.penalties = penalties;
            top.bound =
                patch.score * std::pow(params.diversity_penalty, static_cast<double>(penalties));
            std::push_heap(heap.begin(), heap.end(), lower);
        }
    }
    return result;
}

}  // namespace

std::vector<RetrievedPatch> MemoryStore::retrieve(const View& view,
                                                  const RetrievalParams& params) const {
    std::vector<RetrievedPatch> patches;
    {
        const std::shared_lock lock(mutex_);
        patches = Retrieval(*this, view, params).visible();
    }
    if (params.diversity_radius > 0 && params.diversity_penalty < 1) {
        patches = select_diverse(patches, params);
    } else {
        keep_best(patches, params.top_k);
    }
    std::sort(patches.begin(), patches.end(), [](const RetrievedPatch& a, const RetrievedPatch& b) {
        return a.depth != b.depth ? a.depth < b.depth : a.id < b.id;
    });
    return patches;
}

}  // namespace mosaicmem
