// The scan over the table of centres, and the scores, penalties and footprints of the patches that
// it meets.
#pragma once

#include "cpp/geometry/frustum.hpp"
#include "cuda/base/launch.cuh"
#include "cuda/memory/retrieval.hpp"

namespace mosaicmem::cuda::retrieval {

struct Problem {
    Mirror mirror;
    const RetrievalView* views;
    std::size_t count;
    RetrievalParams params;
    RetrievalScratch scratch;

    __device__ RetrievalCandidate* taken(std::size_t v) const {
        return scratch.taken + v * params.top_k;
    }
};

// Lists of taken patches, in image bins at least as wide as the diversity radius.
struct TakenBins {
    double size;
    int columns, rows;
    std::int32_t* first;
    std::int32_t* next;

    __device__ TakenBins(const Problem& problem, std::size_t v)
        : first(problem.scratch.first_of_bin + v * kTakenBins * kTakenBins),
          next(problem.scratch.next + v * problem.params.top_k) {
        const View& view = problem.views[v].view;
        size = max(problem.params.diversity_radius,
                   max(view.width, view.height) / (static_cast<double>(kTakenBins) - 1));
        columns = bin(view.width) + 1;
        rows = bin(view.height) + 1;
    }

    __device__ int bin(double x) const { return static_cast<int>(x / size); }

    __device__ void add(double u, double v, std::int32_t index) {
        std::int32_t& head = first[bin(v) * columns + bin(u)];
        next[index] = head;
        head = index;
    }
};

__device__ inline bool is_within(double u, double v, const Projected& other,
                                 double squared_radius) {
    const double du = std::abs(other.u - u), dv = std::abs(other.v - v);
    return du * du + dv * dv <= squared_radius;
}

// How many taken patches lie within the radius of a pixel position.
__device__ inline std::uint32_t penalties_at(const Problem& problem, std::size_t view, double u,
                                             double v) {
    const TakenBins bins(problem, view);
    const double radius = problem.params.diversity_radius, squared = radius * radius;
    const RetrievalCandidate* const taken = problem.taken(view);
    const int column = bins.bin(u), row = bins.bin(v);
    std::uint32_t count = 0;
    for (int r = max(0, row - 1); r <= min(bins.rows - 1, row + 1); ++r) {
        for (int c = max(0, column - 1); c <= min(bins.columns - 1, column + 1); ++c) {
            for (std::int32_t i = bins.first[r * bins.columns + c]; i >= 0; i = bins.next[i])
                count += is_within(u, v, taken[i].at, squared);
        }
    }
    return count;
}

__device__ inline double penalised(double score, std::uint32_t penalties, double factor) {
    if (penalties == 0) return score;
    double power = 1;
    for (std::uint32_t i = 0; i < penalties; ++i) power *= factor;
    return score * power;
}

// The patch that a thread looks at, by its position in the table of centres.
struct Looked {
    std::size_t place;
    std::int32_t row;  // -1: none
    float centre[3];

    __device__ Looked(const Mirror& mirror, std::size_t place_) : place(place_), row(-1), centre{} {
        const std::size_t chunk = place / kChunk;
        if (chunk >= mirror.chunks) return;
        row = mirror.chunk_row[chunk];
        const float* const from = mirror.centres + 3 * place;
        for (int axis = 0; axis < 3; ++axis) centre[axis] = from[axis];
    }
};

// Calls look(patch) for the chunks chunk_of(first), chunk_of(first + step) ... of n; reads one
// patch ahead, so that loads overlap with the work on the current one.
template <class ChunkOf, class Look>
__device__ void for_each_chunk(const Mirror& mirror, std::size_t first, std::size_t step,
                               std::size_t n, const ChunkOf& chunk_of, const Look& look) {
    if (first >= n) return;
    const std::size_t own = threadIdx.x % kChunk;
    Looked patch(mirror, chunk_of(first) * kChunk + own);
    for (std::size_t i = first; i < n; i += step) {
        const std::size_t after = i + step < n ? chunk_of(i + step) : mirror.chunks;
        const Looked next(mirror, after * kChunk + own);
        look(patch);
        patch = next;
    }
}

template <class Look>
__device__ void for_all_chunks(const Mirror& mirror, std::size_t first, std::size_t step,
                               const Look& look) {
    for_each_chunk(
        mirror, first, step, mirror.chunks, [](std::size_t chunk) { return chunk; }, look);
}

enum class Pass { sample, list };

__device__ inline bool has_part(const Problem& problem, std::size_t v, Pass pass) {
    const RetrievalState& state = problem.scratch.states[v];
    return !state.is_done && !(pass == Pass::sample && state.is_counted);
}

__device__ inline bool any_has_part(const Problem& problem, Pass pass) {
    for (std::size_t v = 0; v < problem.count; ++v) {
        if (has_part(problem, v, pass)) return true;
    }
    return false;
}

// Makes a patch of a chunk a candidate of a view, without its footprint; false if it is dead, out
// of view, excluded or below min_visibility.
__device__ inline bool make_candidate(const Problem& problem, std::size_t v, const Looked& patch,
                                      bool with_penalties, RetrievalCandidate& candidate) {
    const MirroredObservation& observation = problem.mirror.observations[patch.row];
    const RetrievalView& target = problem.views[v];
    const float* const centre = patch.centre;
    if (!(centre[0] == centre[0]) ||
        !project_centre(centre, target.camera_from_index, target.view, candidate.at))
        return false;
    const double weight = weight_of(observation.provenance, problem.params.generated_weight);
    if (weight == 0) return false;
    candidate.at.score *=
        recency_of(observation.timestamp, target.time, problem.params.half_life) * weight;
    if (candidate.at.score < problem.params.min_visibility) return false;
    candidate.penalties =
        with_penalties ? penalties_at(problem, v, candidate.at.u, candidate.at.v) : 0;
    candidate.row = patch.row;
    candidate.patch = static_cast<std::int32_t>(patch.place - observation.first_chunk * kChunk);
    candidate.id = observation.first_id + static_cast<std::uint64_t>(candidate.patch);
    candidate.is_gone = 0;
    return true;
}

// Calls visit(view, candidate, bound) for each view that may take the patch, without its footprint;
// all threads of a warp together, with patches of one chunk. `bound` is an upper bound of the
// penalised score.
template <class Visit>
__device__ void look_at(const Problem& problem, const Looked& patch, Pass pass, bool with_penalties,
                        const Visit& visit) {
    if (patch.row < 0) return;
    const float* const centre = patch.centre;
    const unsigned lane = threadIdx.x % kWarp;
    struct {
        float low[3], high[3];
    } box;
    if (problem.count > 1) {
        constexpr float kInfinity = std::numeric_limits<float>::infinity();
        const bool lives = centre[0] == centre[0];
        for (int axis = 0; axis < 3; ++axis) {
            box.low[axis] = lives ? centre[axis] : kInfinity;
            box.high[axis] = lives ? centre[axis] : -kInfinity;
            for (int reach = kWarp / 2; reach > 0; reach /= 2) {
                box.low[axis] =
                    min(box.low[axis], __shfl_xor_sync(kAllLanes, box.low[axis], reach));
                box.high[axis] =
                    max(box.high[axis], __shfl_xor_sync(kAllLanes, box.high[axis], reach));
            }
        }
        if (!(box.low[0] <= box.high[0])) return;
    }
    for (std::size_t first = 0; first < problem.count; first += kWarp) {
        // Which of the next views see the warp's patches, one view per lane.
        const std::size_t own = first + lane;
        bool sees = own < problem.count && has_part(problem, own, pass);
        if (sees && problem.count > 1) {
            BoxInView seen;
            sees =
                see_box(box, problem.views[own].camera_from_index, problem.views[own].view, seen);
        }
        for (unsigned mask = __ballot_sync(kAllLanes, sees); mask != 0; mask &= mask - 1) {
            const std::size_t v =
                first + static_cast<std::size_t>(__ffs(static_cast<int>(mask))) - 1;
            RetrievalCandidate candidate;
            if (make_candidate(problem, v, patch, with_penalties, candidate)) {
                visit(v, candidate,
                      penalised(candidate.at.score, candidate.penalties,
                                problem.params.diversity_penalty));
            }
        }
    }
}

__device__ inline bool is_taken(const Problem& problem, std::size_t v, std::uint64_t id) {
    const RetrievalCandidate* const taken = problem.taken(v);
    for (std::uint32_t i = 0; i < problem.scratch.states[v].taken; ++i) {
        if (taken[i].id == id) return true;
    }
    return false;
}

// Multiplies the score of a candidate by its footprint; false if that drops below min_visibility.
__device__ inline bool add_footprint(const Problem& problem, std::size_t v,
                                     RetrievalCandidate& candidate) {
    const MirroredObservation& from = problem.mirror.observations[candidate.row];
    const View& view = problem.views[v].view;
    candidate.at.score *=
        footprint_of(from.tile(static_cast<std::size_t>(candidate.patch)), from.depth, from.columns,
                     from.stride, {from.k, from.world_from_camera, view}, view);
    return candidate.at.score >= problem.params.min_visibility;
}

// The penalised score with the footprint; below 0 if the candidate is dropped.
__device__ inline double add_footprint_and_penalise(const Problem& problem, std::size_t v,
                                                    RetrievalCandidate& candidate) {
    if (!add_footprint(problem, v, candidate)) return -1;
    return penalised(candidate.at.score, candidate.penalties, problem.params.diversity_penalty);
}

}  // namespace mosaicmem::cuda::retrieval
