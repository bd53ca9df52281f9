// Exact by rounds. Each lists, for each view, the patches whose penalised score could be above a
// threshold, about as many as a sample of the store says, and takes from the list greedily as long
// as what it takes is at the threshold or above: nothing that is not listed can come before it.
// Footprints are only computed of what is listed. What a few rounds leave to do, a last kernel does
// without a list, a patch at a time: slow, and needed by hardly any store.

#include "frustum.hpp"
#include "launch.cuh"
#include "retrieval.hpp"

namespace mosaicmem::cuda {
namespace {

constexpr const char* kName = "retrieve";
constexpr unsigned kWarp = 32, kAll = ~0u;
constexpr unsigned kThresholdThreads = 256;
constexpr unsigned kFinishThreads = 256;
constexpr std::size_t kMostPlaces = 160 << 10;  // bytes of shared memory, of the 163 kB of sm_80
constexpr std::size_t kMostThreads = 1024, kListedEach = 32;  // of a block that takes from a list
constexpr std::size_t kSampledChunks = 8192;
constexpr unsigned kScanBlocks = 2048;  // of kChunk threads, that go through the store in strides
constexpr int kRounds = 2, kDiverseRounds = 6;
constexpr double kLeastTarget = 256;

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

// Bins of the image at least as wide as the diversity radius.
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

__device__ bool is_within(double u, double v, const Projected& other, double squared_radius) {
    const double du = std::abs(other.u - u), dv = std::abs(other.v - v);
    return du * du + dv * dv <= squared_radius;
}

// How many taken patches lie within the radius of a place.
__device__ std::uint32_t penalties_at(const Problem& problem, std::size_t view, double u,
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

__device__ double penalised(double score, std::uint32_t penalties, double factor) {
    if (penalties == 0) return score;
    double power = 1;
    for (std::uint32_t i = 0; i < penalties; ++i) power *= factor;
    return score * power;
}

// The patch of a chunk that a thread looks at.
struct Looked {
    std::size_t chunk;
    std::int32_t row;  // -1: none
    float centre[3];

    __device__ Looked(const Mirror& mirror, std::size_t at) : chunk(at), row(-1), centre{} {
        if (chunk >= mirror.chunks) return;
        row = mirror.chunk_row[chunk];
        const float* const from = mirror.centres + 3 * (chunk * kChunk + threadIdx.x % kChunk);
        for (int axis = 0; axis < 3; ++axis) centre[axis] = from[axis];
    }
};

// Calls look(patch) for every step-th chunk from the first; reads ahead, so that memory is busy
// while patches are looked at.
template <class Look>
__device__ void for_each_chunk(const Mirror& mirror, std::size_t first, std::size_t step,
                               const Look& look) {
    Looked patch(mirror, first);
    while (patch.chunk < mirror.chunks) {
        const Looked next(mirror, patch.chunk + step);
        look(patch);
        patch = next;
    }
}

// Calls visit(view, candidate, bound) for each view that may take the patch, whose footprint is not
// known yet; all threads of a warp together, with patches of one chunk. The bound is that of the
// penalised score.
template <class Visit>
__device__ void look_at(const Problem& problem, const Looked& patch, bool with_penalties,
                        const Visit& visit) {
    if (patch.row < 0) return;
    const MirroredObservation& observation = problem.mirror.observations[patch.row];
    const float* const centre = patch.centre;
    const unsigned lane = threadIdx.x % kWarp;
    struct {
        float low[3], high[3];
    } box;
    const bool lives = centre[0] == centre[0];
    if (problem.count > 1) {
        constexpr float kInfinity = std::numeric_limits<float>::infinity();
        for (int axis = 0; axis < 3; ++axis) {
            box.low[axis] = lives ? centre[axis] : kInfinity;
            box.high[axis] = lives ? centre[axis] : -kInfinity;
            for (int reach = kWarp / 2; reach > 0; reach /= 2) {
                box.low[axis] = min(box.low[axis], __shfl_xor_sync(kAll, box.low[axis], reach));
                box.high[axis] = max(box.high[axis], __shfl_xor_sync(kAll, box.high[axis], reach));
            }
        }
        if (!(box.low[0] <= box.high[0])) return;
    }
    for (std::size_t first = 0; first < problem.count; first += kWarp) {
        // Which of the next views see the warp's patches, a lane a view.
        const std::size_t own = first + lane;
        bool sees = own < problem.count && !problem.scratch.states[own].is_done;
        if (sees && problem.count > 1) {
            BoxInView seen;
            sees =
                see_box(box, problem.views[own].camera_from_index, problem.views[own].view, seen);
        }
        for (unsigned mask = __ballot_sync(kAll, sees); mask != 0; mask &= mask - 1) {
            const std::size_t v =
                first + static_cast<std::size_t>(__ffs(static_cast<int>(mask))) - 1;
            const RetrievalView& target = problem.views[v];
            RetrievalCandidate candidate;
            if (!lives ||
                !project_centre(centre, target.camera_from_index, target.view, candidate.at))
                continue;
            candidate.at.score *=
                recency_of(observation.timestamp, target.time, problem.params.half_life);
            if (candidate.at.score < problem.params.min_visibility) continue;
            candidate.penalties =
                with_penalties ? penalties_at(problem, v, candidate.at.u, candidate.at.v) : 0;
            candidate.row = patch.row;
            candidate.patch = static_cast<std::int32_t>(
                (patch.chunk - observation.first_chunk) * kChunk + threadIdx.x % kChunk);
            candidate.id = observation.first_id + static_cast<std::uint64_t>(candidate.patch);
            candidate.is_gone = 0;
            visit(v, candidate,
                  penalised(candidate.at.score, candidate.penalties,
                            problem.params.diversity_penalty));
        }
    }
}

__device__ bool is_taken(const Problem& problem, std::size_t v, std::uint64_t id) {
    const RetrievalCandidate* const taken = problem.taken(v);
    for (std::uint32_t i = 0; i < problem.scratch.states[v].taken; ++i) {
        if (taken[i].id == id) return true;
    }
    return false;
}

// Multiplies the score of a candidate by its footprint; false if it does not count then.
__device__ bool add_footprint(const Problem& problem, std::size_t v,
                              RetrievalCandidate& candidate) {
    const MirroredObservation& from = problem.mirror.observations[candidate.row];
    const View& view = problem.views[v].view;
    candidate.at.score *=
        footprint_of(from.tile(static_cast<std::size_t>(candidate.patch)), from.depth, from.columns,
                     from.stride, {from.k, from.world_from_camera, view}, view);
    return candidate.at.score >= problem.params.min_visibility;
}

__global__ void begin_kernel(Problem problem, double target) {
    const std::size_t v = blockIdx.x;
    for (std::size_t i = threadIdx.x; i < kTakenBins * kTakenBins; i += blockDim.x)
        problem.scratch.first_of_bin[v * kTakenBins * kTakenBins + i] = -1;
    for (std::size_t i = threadIdx.x; i < kScoreBins; i += blockDim.x)
        problem.scratch.histogram[v * kScoreBins + i] = 0;
    if (threadIdx.x == 0) problem.scratch.states[v] = {0, target, 0, 0, 0};
}

__global__ void sample_kernel(Problem problem, std::size_t every, bool with_penalties) {
    for_each_chunk(problem.mirror, blockIdx.x * every, gridDim.x * every, [&](const Looked& patch) {
        look_at(problem, patch, with_penalties,
                [&](std::size_t v, const RetrievalCandidate&, double bound) {
                    const std::size_t bin = __float_as_uint(static_cast<float>(bound)) >> 16;
                    atomicAdd(&problem.scratch.histogram[v * kScoreBins + min(bin, kScoreBins - 1)],
                              1u);
                });
    });
}

// A block a view: the threshold above which there are about as many as wanted. Leaves the
// histogram empty.
__global__ void threshold_kernel(Problem problem, std::size_t every) {
    std::uint32_t* const sums = reinterpret_cast<std::uint32_t*>(shared_memory());
    const std::size_t v = blockIdx.x;
    RetrievalState& state = problem.scratch.states[v];
    if (state.is_done) return;
    std::uint32_t* const histogram = problem.scratch.histogram + v * kScoreBins;
    constexpr std::size_t kEach = (kScoreBins + kThresholdThreads - 1) / kThresholdThreads;
    std::uint32_t own = 0;  // of this thread's bins, the first thread has the highest
    for (std::size_t i = threadIdx.x * kEach; i < (threadIdx.x + 1) * kEach; ++i)
        own += i < kScoreBins ? histogram[kScoreBins - 1 - i] : 0;
    sums[threadIdx.x] = own;
    __syncthreads();
    if (threadIdx.x == 0) {
        const auto scale = static_cast<double>(every);
        double seen = 0;
        std::size_t part = 0;
        while (part < kThresholdThreads && (seen + sums[part]) * scale < state.target)
            seen += sums[part++];
        state.threshold = 0;  // all
        for (std::size_t i = part * kEach; i < kScoreBins; ++i) {
            seen += histogram[kScoreBins - 1 - i];
            if (seen * scale < state.target) continue;
            state.threshold = static_cast<double>(
                __uint_as_float(static_cast<unsigned>(kScoreBins - 1 - i) << 16));
            break;
        }
        state.listed = 0;
    }
    __syncthreads();
    for (std::size_t i = threadIdx.x; i < kScoreBins; i += blockDim.x) histogram[i] = 0;
}

__global__ void list_kernel(Problem problem, bool with_penalties) {
    for_each_chunk(problem.mirror, blockIdx.x, gridDim.x, [&](const Looked& patch) {
        look_at(problem, patch, with_penalties,
                [&](std::size_t v, const RetrievalCandidate& candidate, double bound) {
                    RetrievalState& state = problem.scratch.states[v];
                    if (bound < state.threshold || is_taken(problem, v, candidate.id)) return;
                    const std::uint32_t at = atomicAdd(&state.listed, 1u);
                    if (at < problem.scratch.room)
                        problem.scratch.candidates[v * problem.scratch.room + at] = candidate;
                });
    });
}

__global__ void score_kernel(Problem problem) {
    const std::size_t v = blockIdx.y, i = thread_index();
    const RetrievalState& state = problem.scratch.states[v];
    if (state.is_done || state.listed > problem.scratch.room || i >= state.listed) return;
    RetrievalCandidate& candidate = problem.scratch.candidates[v * problem.scratch.room + i];
    candidate.is_gone = !add_footprint(problem, v, candidate);
}

// The best of a thread, a warp or a block: by penalised score, then the smaller id.
struct Best {
    double bound;
    std::uint64_t id;
    std::uint32_t at;  // whose it is

    __device__ static Best none() { return {-1, ~std::uint64_t{0}, ~0u}; }
    __device__ bool before(const Best& other) const {
        return bound > other.bound || (bound == other.bound && id < other.id);
    }
};

__device__ Best best_of_warp(Best own) {
    for (int reach = kWarp / 2; reach > 0; reach /= 2) {
        const Best other{__shfl_xor_sync(kAll, own.bound, reach),
                         __shfl_xor_sync(kAll, own.id, reach),
                         __shfl_xor_sync(kAll, own.at, reach)};
        if (other.before(own)) own = other;
    }
    return own;
}

// The memory holds a Best a warp, and is free again afterwards.
__device__ Best best_of_block(Best own, Best* memory) {
    own = best_of_warp(own);
    if (threadIdx.x % kWarp == 0) memory[threadIdx.x / kWarp] = own;
    __syncthreads();
    const unsigned lane = threadIdx.x % kWarp;
    const Best best = best_of_warp(lane < blockDim.x / kWarp ? memory[lane] : Best::none());
    __syncthreads();
    return best;
}

// By one thread of a block.
__device__ void take(const Problem& problem, std::size_t v, const RetrievalCandidate& candidate) {
    const std::uint32_t index = problem.scratch.states[v].taken++;
    problem.taken(v)[index] = candidate;
    if (problem.params.is_diverse())
        TakenBins(problem, v).add(candidate.at.u, candidate.at.v, static_cast<std::int32_t>(index));
}

// A block a view takes from its list. Under diversity every pick looks at where all others are, so
// their places are in shared memory, where there is room.
__global__ void __launch_bounds__(kMostThreads) greedy_kernel(Problem problem, bool has_room) {
    Best* const memory = reinterpret_cast<Best*>(shared_memory());
    const std::size_t v = blockIdx.x;
    RetrievalState& state = problem.scratch.states[v];
    if (state.is_done) return;
    if (state.listed > problem.scratch.room) {
        if (threadIdx.x == 0) state.target = max(state.target / 8, 1.0);
        return;
    }
    RetrievalCandidate* const listed = problem.scratch.candidates + v * problem.scratch.room;
    const std::uint32_t n = state.listed;
    const double factor = problem.params.diversity_penalty,
                 radius = problem.params.diversity_radius, threshold = state.threshold;
    const bool is_diverse = problem.params.is_diverse();
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
    const std::uint32_t already = state.taken;
    std::uint32_t taken = already;
    bool is_used_up = false;
    Best own = best_of_thread();
    while (taken < problem.params.top_k) {
        const Best best = best_of_block(own, memory);
        is_used_up = best.at == ~0u;
        if (is_used_up || best.bound < threshold) break;
        ++taken;
        const bool is_mine = best.at % blockDim.x == threadIdx.x;
        if (is_mine) {
            listed[best.at].is_gone = 1;
            take(problem, v, listed[best.at]);
        }
        bool is_worse = is_mine;  // the thread's best; others only get worse too
        if (is_diverse) {
            const Projected at = listed[best.at].at;
            for (std::uint32_t i = threadIdx.x; i < n; i += blockDim.x) {
                const double2 place = place_of(i);
                if (!is_within(place.x, place.y, at, radius * radius)) continue;
                ++listed[i].penalties;
                is_worse = is_worse || i == own.at;
            }
        }
        if (is_worse) own = best_of_thread();
    }
    __syncthreads();
    if (threadIdx.x != 0) return;
    state.is_done = taken == problem.params.top_k || (is_used_up && threshold == 0);
    if (taken == already)  // footprints took all below the threshold
        state.target = min(4 * state.target, static_cast<double>(problem.scratch.room) / 2);
}

// A block a view: the best of the whole store, again and again.
__global__ void __launch_bounds__(kFinishThreads, 1) finish_kernel(Problem problem) {
    Best* const memory = reinterpret_cast<Best*>(shared_memory());
    const std::size_t v = blockIdx.x;
    RetrievalState& state = problem.scratch.states[v];
    if (state.is_done) return;
    Problem alone = problem;  // with this view only
    alone.views += v;
    alone.count = 1;
    alone.scratch.states += v;
    alone.scratch.taken = problem.taken(v);
    alone.scratch.first_of_bin += v * kTakenBins * kTakenBins;
    alone.scratch.next += v * problem.params.top_k;
    const unsigned each = blockDim.x / kChunk;
    while (state.taken < problem.params.top_k) {
        Best own = Best::none();
        RetrievalCandidate mine;
        for_each_chunk(problem.mirror, threadIdx.x / kChunk, each, [&](const Looked& patch) {
            look_at(alone, patch, problem.params.is_diverse(),
                    [&](std::size_t, RetrievalCandidate candidate, double bound) {
                        if (bound < own.bound || is_taken(alone, 0, candidate.id) ||
                            !add_footprint(alone, 0, candidate))
                            return;
                        const Best one{penalised(candidate.at.score, candidate.penalties,
                                                 problem.params.diversity_penalty),
                                       candidate.id, threadIdx.x};
                        if (!one.before(own)) return;
                        own = one;
                        mine = candidate;
                    });
        });
        const Best best = best_of_block(own, memory);
        if (best.at == ~0u) break;
        if (best.at == threadIdx.x) take(alone, 0, mine);
        __syncthreads();
    }
}

// A block a view: what is taken, front to back.
__global__ void sort_kernel(Problem problem, RetrievedOnDevice out) {
    const std::size_t v = blockIdx.x, first = v * problem.params.top_k;
    const RetrievalCandidate* const taken = problem.taken(v);
    const std::uint32_t n = problem.scratch.states[v].taken;
    if (threadIdx.x == 0) out.count[v] = static_cast<std::int32_t>(n);
    for (std::size_t i = threadIdx.x; i < problem.params.top_k; i += blockDim.x) {
        std::size_t rank = i;
        RetrievalCandidate one{};
        if (i < n) {
            one = taken[i];
            rank = 0;
            for (std::uint32_t j = 0; j < n; ++j) {
                rank += taken[j].at.depth < one.at.depth ||
                        (taken[j].at.depth == one.at.depth && taken[j].id < one.id);
            }
        }
        const std::size_t to = first + rank;
        out.ids[to] = i < n ? static_cast<std::int64_t>(one.id) : -1;
        out.scores[to] = one.at.score;
        out.pixels[2 * to] = one.at.u;
        out.pixels[2 * to + 1] = one.at.v;
        out.depth[to] = one.at.depth;
        out.places[2 * to] = i < n ? one.row : -1;
        out.places[2 * to + 1] = one.patch;
    }
}

}  // namespace

void retrieve(const Mirror& mirror, const RetrievalView* views, std::size_t count,
              const RetrievalParams& params, const RetrievalScratch& scratch,
              const RetrievedOnDevice& retrieved, const Stream& stream) {
    const Problem problem{mirror, views, count, params, scratch};
    const dim3 of_views(static_cast<unsigned>(count));
    const bool is_diverse = params.is_diverse();
    const std::size_t every = ceil_div(mirror.chunks + 1, kSampledChunks);
    const auto room = static_cast<double>(scratch.room);
    const double target =
        is_diverse
            ? room / 4
            : std::min(std::max(4.0 * static_cast<double>(params.top_k), kLeastTarget), room / 4);
    const Shape scan{dim3(static_cast<unsigned>(std::min<std::size_t>(
                         std::max<std::size_t>(mirror.chunks, 1), kScanBlocks))),
                     dim3(kChunk)};
    const auto takers = static_cast<unsigned>(
        std::clamp(scratch.room / kListedEach / kChunk * kChunk, kChunk, kMostThreads));
    const std::size_t places = scratch.room * sizeof(double2);
    const bool has_room = is_diverse && places <= kMostPlaces;
    const Shape greedy{of_views, dim3(takers), kWarp * sizeof(Best) + (has_room ? places : 0)};
    launch(kName, begin_kernel, {of_views, dim3(kBlock)}, stream, problem, target);
    for (int round = 0; round < (is_diverse ? kDiverseRounds : kRounds); ++round) {
        const bool with_penalties = is_diverse && round > 0;
        launch(kName, sample_kernel, scan, stream, problem, every, with_penalties);
        launch(kName, threshold_kernel,
               {of_views, dim3(kThresholdThreads), kThresholdThreads * sizeof(std::uint32_t)},
               stream, problem, every);
        launch(kName, list_kernel, scan, stream, problem, with_penalties);
        launch(
            kName, score_kernel,
            {dim3(blocks(kName, scratch.room, kBlock), static_cast<unsigned>(count)), dim3(kBlock)},
            stream, problem);
        launch(kName, greedy_kernel, greedy, stream, problem, has_room);
    }
    launch(kName, finish_kernel, {of_views, dim3(kFinishThreads), kWarp * sizeof(Best)}, stream,
           problem);
    launch(kName, sort_kernel, {of_views, dim3(kBlock)}, stream, problem, retrieved);
}

}  // namespace mosaicmem::cuda
