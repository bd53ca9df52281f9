// Exact, in rounds. Each round lists, for each view, the patches at or above a threshold, which a
// sample of the store sets so that about the wanted number is listed, and takes from the list: no
// unlisted patch can come before the listed ones. If there are more than the list has room for, as
// when a camera stood still and all its frames score alike, they are also counted, in bins of score
// or, among equal scores, of ids; the next round sets its threshold by the counts, or counts again
// within one bin. Finished views still pay one launch. Views that are unfinished after a few rounds
// are completed by one block per view, in rounds of its own: slow, but hardly any store needs it.

#include "cuda/base/launch.cuh"
#include "cuda/base/workspace.hpp"
#include "cuda/memory/retrieval.hpp"
#include "cuda/memory/retrieval_bins.cuh"
#include "cuda/memory/retrieval_candidates.cuh"
#include "cuda/memory/retrieval_order.cuh"

namespace mosaicmem::cuda {
namespace {

using namespace retrieval;

constexpr const char* kName = "retrieve";
constexpr unsigned kThresholdThreads = 256;
constexpr unsigned kFinishThreads = 256;
constexpr std::size_t kMostThreads = 1024, kListedEach = 32;  // size greedy_kernel's blocks
constexpr std::size_t kSampledChunks = 8192;
constexpr std::size_t kScanBlocks = 10;  // per multiprocessor, of kChunk threads: two full waves
constexpr int kRounds = 4, kDiverseRounds = 8;
constexpr double kLeastTarget = 256;

__global__ void begin_kernel(Problem problem, double target) {
    const std::size_t v = blockIdx.x;
    for (std::size_t i = threadIdx.x; i < kTakenBins * kTakenBins; i += blockDim.x)
        problem.scratch.first_of_bin[v * kTakenBins * kTakenBins + i] = -1;
    for (std::size_t i = threadIdx.x; i < kScoreBins; i += blockDim.x)
        problem.scratch.histogram[v * kScoreBins + i] = 0;
    if (threadIdx.x != 0) return;
    RetrievalState state{};
    state.target = target;
    count_all_scores(state);
    problem.scratch.states[v] = state;
}

// Samples one chunk in every `every`, at a pseudo-random offset: at a fixed offset, it might hit
// the same rows of all keyframes, which have the same number of chunks.
__global__ void sample_kernel(Problem problem, std::size_t every, bool with_penalties) {
    if (!any_has_part(problem, Pass::sample)) return;
    const auto chunk_of = [=](std::size_t group) {
        const std::uint64_t mixed = static_cast<std::uint64_t>(group) * 0x9E3779B97F4A7C15ull;
        return group * every + static_cast<std::size_t>(mixed >> 33) % every;
    };
    const std::size_t groups = (problem.mirror.chunks + every - 1) / every;
    const auto count = [&](std::size_t v, RetrievalCandidate candidate, double) {
        const double score = add_footprint_and_penalise(problem, v, candidate);
        if (score < 0) return;
        const std::size_t bin = bin_of(problem.scratch.states[v], score, candidate.id);
        atomicAdd(&problem.scratch.histogram[v * kScoreBins + bin], 1u);
    };
    for_each_chunk(
        problem.mirror, blockIdx.x, gridDim.x, groups, chunk_of,
        [&](const Looked& patch) { look_at(problem, patch, Pass::sample, with_penalties, count); });
}

// The histogram is empty between lists, unless it counts everything that was listed.
__device__ void clear_histogram(const Problem& problem, std::size_t v) {
    for (std::size_t i = threadIdx.x; i < kScoreBins; i += blockDim.x)
        problem.scratch.histogram[v * kScoreBins + i] = 0;
}

__device__ void begin_list(RetrievalState& state) {
    state.listed = state.seen = 0;
    state.least = ~0ull;
    state.most = state.most_id = 0;
}

// Sets the threshold above which about the wanted number of patches lie; called by a block of
// kThresholdThreads, with one word of `sums` per thread.
__device__ void set_threshold(const Problem& problem, std::size_t v, std::size_t every,
                              std::uint32_t* sums) {
    RetrievalState& state = problem.scratch.states[v];
    const std::uint32_t* const histogram = problem.scratch.histogram + v * kScoreBins;
    constexpr std::size_t kEach = (kScoreBins + kThresholdThreads - 1) / kThresholdThreads;
    std::uint32_t own = 0;  // in this thread's bins; the first thread has the highest
    for (std::size_t i = threadIdx.x * kEach; i < (threadIdx.x + 1) * kEach; ++i)
        own += i < kScoreBins ? histogram[kScoreBins - 1 - i] : 0;
    sums[threadIdx.x] = own;
    __syncthreads();
    if (threadIdx.x == 0) {
        const double scale = state.is_counted ? 1.0 : static_cast<double>(every);
        const auto room = static_cast<double>(problem.scratch.room);
        const double needed = min(static_cast<double>(problem.params.top_k - state.taken), room);
        const double wanted =
            state.is_counted && !problem.params.is_diverse() ? needed : state.target;
        double above = 0;
        std::size_t part = 0;
        while (part < kThresholdThreads && (above + sums[part]) * scale < wanted)
            above += sums[part++];
        std::size_t i = part * kEach;
        double with = above;
        for (; i < kScoreBins; ++i) {
            with = above + histogram[kScoreBins - 1 - i];
            if (with * scale >= wanted) break;
            above = with;
        }
        const std::size_t bin = i < kScoreBins ? kScoreBins - 1 - i : 0;
        if (!state.is_counted || with <= room) {
            begin_at(state, bin);
        } else if (problem.params.is_diverse() && above > 0) {
            begin_at(state, bin + 1);
        } else {
            count_within(state, bin);
        }
        begin_list(state);
    }
    __syncthreads();
    clear_histogram(problem, v);
}

// One block per view.
__global__ void threshold_kernel(Problem problem, std::size_t every) {
    if (problem.scratch.states[blockIdx.x].is_done) return;
    set_threshold(problem, blockIdx.x, every, reinterpret_cast<std::uint32_t*>(shared_memory()));
}

// Notes patches that may reach the threshold. Leaves footprints to list_kernel, where every thread
// has one to compute: here their registers would cost the occupancy that hides memory latency.
__global__ void see_kernel(Problem problem, bool with_penalties) {
    if (!any_has_part(problem, Pass::list)) return;
    for_all_chunks(problem.mirror, blockIdx.x, gridDim.x, [&](const Looked& patch) {
        look_at(problem, patch, Pass::list, with_penalties,
                [&](std::size_t v, const RetrievalCandidate&, double bound) {
                    RetrievalState& state = problem.scratch.states[v];
                    if (bound < state.threshold) return;
                    const std::uint32_t at = atomicAdd(&state.seen, 1u);
                    if (at < problem.scratch.seen_room)
                        problem.scratch.seen[v * problem.scratch.seen_room + at] = patch.place;
                });
    });
}

// Lists a candidate that reaches the threshold, and counts it.
__device__ void list(const Problem& problem, std::size_t v, RetrievalCandidate& candidate) {
    RetrievalState& state = problem.scratch.states[v];
    const double score = add_footprint_and_penalise(problem, v, candidate);
    if (!passes(state, score, candidate.id) || is_taken(problem, v, candidate.id)) return;
    const std::uint32_t at = atomicAdd(&state.listed, 1u);
    const std::size_t bin = bin_of(state, score, candidate.id);
    atomicAdd(&problem.scratch.histogram[v * kScoreBins + bin], 1u);
    if (at < problem.scratch.room)
        problem.scratch.candidates[v * problem.scratch.room + at] = candidate;
    if (state.is_window && bin < kWindowBins) {
        atomicMin(&state.least, bits_of(score));
        atomicMax(&state.most, bits_of(score));
        atomicMax(&state.most_id, static_cast<unsigned long long>(candidate.id));
    }
}

// The problem of one view alone.
__device__ Problem only(const Problem& problem, std::size_t v) {
    Problem alone = problem;
    alone.views += v;
    alone.count = 1;
    alone.scratch.states += v;
    alone.scratch.candidates += v * problem.scratch.room;
    alone.scratch.histogram += v * kScoreBins;
    alone.scratch.taken = problem.taken(v);
    alone.scratch.first_of_bin += v * kTakenBins * kTakenBins;
    alone.scratch.next += v * problem.params.top_k;
    return alone;
}

// Scans the store once more, for a problem of one view.
__device__ void list_all(const Problem& alone, std::size_t first, std::size_t step,
                         bool with_penalties) {
    for_all_chunks(alone.mirror, first, step, [&](const Looked& patch) {
        look_at(alone, patch, Pass::list, with_penalties,
                [&](std::size_t, RetrievalCandidate candidate, double bound) {
                    if (bound >= alone.scratch.states->threshold) list(alone, 0, candidate);
                });
    });
}

// One thread per noted patch; scans the whole store if there was no room to note them all.
__global__ void list_kernel(Problem problem, bool with_penalties) {
    const std::size_t v = blockIdx.y;
    const RetrievalState& state = problem.scratch.states[v];
    if (state.is_done) return;
    if (state.seen > problem.scratch.seen_room) {
        const std::size_t each = blockDim.x / kChunk;
        list_all(only(problem, v), blockIdx.x * each + threadIdx.x / kChunk, gridDim.x * each,
                 with_penalties);
        return;
    }
    const std::size_t i = thread_index();
    if (i >= state.seen) return;
    RetrievalCandidate candidate;
    const Looked patch(problem.mirror, problem.scratch.seen[v * problem.scratch.seen_room + i]);
    if (make_candidate(problem, v, patch, with_penalties, candidate)) list(problem, v, candidate);
}

// Called by one thread of a block.
__device__ void take(const Problem& problem, std::size_t v, std::uint32_t index,
                     const RetrievalCandidate& candidate) {
    problem.taken(v)[index] = candidate;
    if (problem.params.is_diverse())
        TakenBins(problem, v).add(candidate.at.u, candidate.at.v, static_cast<std::int32_t>(index));
}

// After a list: the view is done, needs another list, or had no room for this one.
__device__ void end_round(const Problem& problem, RetrievalState& state, std::uint32_t taken,
                          bool is_used_up) {
    ++state.rounds;
    if (state.listed > problem.scratch.room) {
        state.is_counted = 1;
        return;
    }
    const bool is_all = is_used_up && state.threshold == 0 && !state.counts_ids;
    const bool is_more = taken > state.taken;
    state.taken = taken;
    state.is_done = taken == problem.params.top_k || is_all;
    if (!problem.params.is_diverse() || !is_more)
        state.target = min(4 * state.target, static_cast<double>(problem.scratch.room) / 2);
    count_all_scores(state);
}

// Without diversity: takes the best of a list at once, one thread per patch. The last block of a
// view ends its round.
__global__ void take_best_kernel(Problem problem) {
    const std::size_t v = blockIdx.y;
    RetrievalState& state = problem.scratch.states[v];
    if (state.is_done) return;
    const auto most = static_cast<std::uint32_t>(problem.params.top_k);
    const std::uint32_t listed = state.listed;
    if (listed <= problem.scratch.room && blockIdx.x * blockDim.x < listed) {
        const RetrievalCandidate* const candidates =
            problem.scratch.candidates + v * problem.scratch.room;
        const auto get = [&](std::size_t i) {
            return Keyed{-candidates[i].at.score, candidates[i].id};
        };
        const std::size_t i = thread_index();
        const Keyed own = i < listed ? get(i) : Keyed{};
        const std::uint32_t at =
            state.taken + rank_of(own, listed, reinterpret_cast<Keyed*>(shared_memory()), get);
        if (i < listed && at < most) problem.taken(v)[at] = candidates[i];
    }
    __syncthreads();
    unsigned* const past = reinterpret_cast<unsigned*>(shared_memory());
    if (threadIdx.x == 0) {
        __threadfence();
        *past = atomicAdd(&state.blocks_past, 1u);
    }
    __syncthreads();
    if (*past != gridDim.x - 1) return;
    if (listed <= problem.scratch.room) clear_histogram(problem, v);
    if (threadIdx.x != 0) return;
    state.blocks_past = 0;
    end_round(problem, state, min(state.taken + min(listed, most), most), true);
}

// Takes from a list one by one, and ends the round; called by a block. Every pick reads the pixel
// positions of all others, so shared memory holds them if they fit.
__device__ void take_greedily(const Problem& problem, std::size_t v, Best* memory, bool has_room) {
    RetrievalState& state = problem.scratch.states[v];
    const std::uint32_t n = state.listed;
    if (n > problem.scratch.room) {
        __syncthreads();
        if (threadIdx.x == 0) end_round(problem, state, state.taken, false);
        return;
    }
    clear_histogram(problem, v);
    RetrievalCandidate* const listed = problem.scratch.candidates + v * problem.scratch.room;
    const bool is_diverse = problem.params.is_diverse();
    const double factor = problem.params.diversity_penalty,
                 radius = problem.params.diversity_radius;
    double2* const places = reinterpret_cast<double2*>(memory + kWarp);
    const auto place_of = [&](std::uint32_t i) {
        return has_room ? places[i] : double2{listed[i].at.u, listed[i].at.v};
    };
    for (std::uint32_t i = threadIdx.x; has_room && i < n; i += blockDim.x)
        places[i] = {listed[i].at.u, listed[i].at.v};
    const auto best_of_thread = [&] {
        Best best = Best::none();
        for (std::uint32_t i = threadIdx.x; i < n; i += blockDim.x) {
            const RetrievalCandidate& one = listed[i];
            if (one.is_gone) continue;
            const Best own{penalised(one.at.score, one.penalties, factor), one.id, i};
            if (own.before(best)) best = own;
        }
        return best;
    };
    std::uint32_t taken = state.taken;
    bool is_used_up = false;
    Best own = best_of_thread();
    while (taken < problem.params.top_k) {
        const Best best = best_of_block(own, memory);
        is_used_up = best.at == ~0u;
        if (is_used_up || !passes(state, best.bound, best.id)) break;
        const bool is_mine = best.at % blockDim.x == threadIdx.x;
        if (is_mine) {
            listed[best.at].is_gone = 1;
            take(problem, v, taken, listed[best.at]);
        }
        ++taken;
        bool is_worse = is_mine;  // whether own got worse; other entries only get worse too
        const Projected at = listed[best.at].at;
        for (std::uint32_t i = threadIdx.x; is_diverse && i < n; i += blockDim.x) {
            const double2 place = place_of(i);
            if (!is_within(place.x, place.y, at, radius * radius)) continue;
            ++listed[i].penalties;
            is_worse = is_worse || i == own.at;
        }
        if (is_worse) own = best_of_thread();
    }
    __syncthreads();
    if (threadIdx.x == 0) end_round(problem, state, taken, is_used_up);
}

// One block per view.
__global__ void __launch_bounds__(kMostThreads) greedy_kernel(Problem problem, bool has_room) {
    if (problem.scratch.states[blockIdx.x].is_done) return;
    take_greedily(problem, blockIdx.x, reinterpret_cast<Best*>(shared_memory()), has_room);
}

// As many more rounds as it takes, one block per view. Without counts, a round lists all patches.
__global__ void __launch_bounds__(kFinishThreads, 1) finish_kernel(Problem problem) {
    static_assert(kFinishThreads == kThresholdThreads);
    const Problem alone = only(problem, blockIdx.x);
    RetrievalState& state = *alone.scratch.states;
    for (;;) {
        __syncthreads();
        if (state.is_done) return;
        const bool is_counted = state.is_counted;
        __syncthreads();
        if (is_counted) {
            set_threshold(alone, 0, 1, reinterpret_cast<std::uint32_t*>(shared_memory()));
        } else if (threadIdx.x == 0) {
            begin_at(state, 0);
            begin_list(state);
        }
        __syncthreads();
        list_all(alone, threadIdx.x / kChunk, blockDim.x / kChunk, problem.params.is_diverse());
        __syncthreads();
        take_greedily(alone, 0, reinterpret_cast<Best*>(shared_memory()), false);
    }
}

// Sorts the patches taken front to back, one thread per patch.
__global__ void sort_kernel(Problem problem, FoundArrays out, std::int32_t* places) {
    const std::size_t v = blockIdx.y, first = v * problem.params.top_k, i = thread_index();
    const RetrievalCandidate* const taken = problem.taken(v);
    const std::uint32_t n = problem.scratch.states[v].taken;
    if (i == 0) out.count[v] = static_cast<std::int32_t>(n);
    const auto get = [&](std::size_t j) { return Keyed{taken[j].at.depth, taken[j].id}; };
    const bool is_taken = i < n;
    const Keyed own = is_taken ? get(i) : Keyed{};
    const std::uint32_t rank = rank_of(own, n, reinterpret_cast<Keyed*>(shared_memory()), get);
    if (i >= problem.params.top_k) return;
    const RetrievalCandidate one = is_taken ? taken[i] : RetrievalCandidate{};
    const std::size_t to = first + (is_taken ? rank : i);
    out.ids[to] = is_taken ? static_cast<std::int64_t>(one.id) : -1;
    out.scores[to] = one.at.score;
    out.pixels[2 * to] = one.at.u;
    out.pixels[2 * to + 1] = one.at.v;
    out.depth[to] = one.at.depth;
    places[2 * to] = is_taken ? one.row : -1;
    places[2 * to + 1] = one.patch;
}

RetrievalScratch scratch_in(Workspace& workspace, std::size_t views, std::size_t top_k,
                            const RetrievalRoom& limits) {
    std::size_t room = limits.fewest;
    while (room < limits.most && room < 8 * top_k) room *= 2;
    RetrievalScratch scratch{};
    scratch.room = room;
    scratch.seen_room = limits.seen * room;
    scratch.states = workspace.take<RetrievalState>(views);
    scratch.candidates = workspace.take<RetrievalCandidate>(views * room);
    scratch.seen = workspace.take<std::uint64_t>(views * scratch.seen_room);
    scratch.histogram = workspace.take<std::uint32_t>(views * kScoreBins);
    scratch.taken = workspace.take<RetrievalCandidate>(views * top_k);
    scratch.first_of_bin = workspace.take<std::int32_t>(views * kTakenBins * kTakenBins);
    scratch.next = workspace.take<std::int32_t>(views * top_k);
    return scratch;
}

}  // namespace

std::size_t retrieve_workspace_bytes(std::size_t views, std::size_t top_k,
                                     const RetrievalRoom& room) {
    Workspace counted;
    scratch_in(counted, views, top_k, room);
    return counted.bytes();
}

void retrieve(const Mirror& mirror, const RetrievalView* views, std::size_t count,
              const RetrievalParams& params, const RetrievalRoom& limits, const FoundArrays& found,
              std::int32_t* places, void* workspace, const Stream& stream) {
    Workspace buffer(workspace);
    const RetrievalScratch scratch = scratch_in(buffer, count, params.top_k, limits);
    const Problem problem{mirror, views, count, params, scratch};
    const dim3 of_views(static_cast<unsigned>(count));
    const bool is_diverse = params.is_diverse();
    const std::size_t every = ceil_div(mirror.chunks + 1, kSampledChunks);
    const auto room = static_cast<double>(scratch.room);
    const double target =
        is_diverse
            ? room / 4
            : std::min(std::max(4.0 * static_cast<double>(params.top_k), kLeastTarget), room / 4);
    const std::size_t scanners = kScanBlocks * multiprocessors(stream);
    const Shape scan{
        dim3(static_cast<unsigned>(std::clamp<std::size_t>(mirror.chunks, 1, scanners))),
        dim3(kChunk)};
    const auto takers = static_cast<unsigned>(
        std::clamp(scratch.room / kListedEach / kChunk * kChunk, kChunk, kMostThreads));
    const std::size_t pixels = scratch.room * sizeof(double2), others = kWarp * sizeof(Best);
    const bool has_room = is_diverse && others + pixels <= most_shared_bytes(stream);
    const Shape greedy{of_views, dim3(takers), others + (has_room ? pixels : 0)};
    const auto a_thread_each = [&](std::size_t n) {
        return Shape{dim3(blocks(kName, n, kBlock), static_cast<unsigned>(count)), dim3(kBlock),
                     kBlock * sizeof(Keyed)};
    };
    launch(kName, begin_kernel, {of_views, dim3(kBlock)}, stream, problem, target);
    for (int round = 0; round < (is_diverse ? kDiverseRounds : kRounds); ++round) {
        const bool with_penalties = is_diverse && round > 0;
        launch(kName, sample_kernel, scan, stream, problem, every, with_penalties);
        launch(kName, threshold_kernel,
               {of_views, dim3(kThresholdThreads), kThresholdThreads * sizeof(std::uint32_t)},
               stream, problem, every);
        launch(kName, see_kernel, scan, stream, problem, with_penalties);
        launch(kName, list_kernel, a_thread_each(scratch.seen_room), stream, problem,
               with_penalties);
        if (is_diverse) {
            launch(kName, greedy_kernel, greedy, stream, problem, has_room);
        } else {
            launch(kName, take_best_kernel, a_thread_each(scratch.room), stream, problem);
        }
    }
    launch(kName, finish_kernel,
           {of_views, dim3(kFinishThreads),
            std::max(kWarp * sizeof(Best), kThresholdThreads * sizeof(std::uint32_t))},
           stream, problem);
    launch(kName, sort_kernel, a_thread_each(params.top_k), stream, problem, found, places);
}

}  // namespace mosaicmem::cuda
