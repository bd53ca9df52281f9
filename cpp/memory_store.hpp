// The store of patches: observations of keyframes, a bit for each patch, an index over patch
// centres. Keyframe buffers are borrowed; each keyframe holds an owner that keeps them alive while
// an observation needs them. Reads may run at once with reads; a write waits for them and runs
// alone.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <shared_mutex>
#include <span>
#include <utility>
#include <vector>

#include "camera.hpp"
#include "patch_index.hpp"

namespace mosaicmem {

constexpr double kFurthest = 1e12;  // metres; squared distances stay far within float32

enum class LatentType { float32, float16, bfloat16 };

// One observed frame on the latent grid; never changes. Cell (r, c) has its centre at pixel ((c +
// 0.5) stride, (r + 0.5) stride).
struct Keyframe {
    const void* latents;  // (rows, columns, channels) of latent_type
    LatentType latent_type;
    const float* depth;       // (rows, columns) metres, <= 0 or not finite where invalid
    const float* confidence;  // (rows, columns) in [0, 1], or null for 1 everywhere
    std::size_t rows, columns, channels;
    double stride;  // pixels a cell
    Intrinsics k;
    std::int64_t frame_id;
    double timestamp;                   // seconds
    std::shared_ptr<const void> owner;  // of the buffers
};

// A keyframe placed in the world. Its patches have ids first_id + 0, 1, ... in row-major order of
// the patch grid.
struct Observation {
    Keyframe keyframe;
    Affine world_from_camera;
    PatchId first_id;
    std::size_t patch_rows, patch_columns;
    std::vector<std::uint64_t> alive_bits;
    std::size_t alive_count = 0;

    std::size_t patch_count() const { return patch_rows * patch_columns; }
    bool is_alive(std::size_t patch) const { return alive_bits[patch / 64] >> (patch % 64) & 1; }
};

// The cells of one patch: rows [row, row_end) x columns [column, column_end) of its keyframe's
// grid.
struct Tile {
    std::size_t row, row_end, column, column_end;
};

struct RetrievalParams {
    std::size_t top_k;
    double time;               // of the query, seconds
    double half_life;          // seconds; 0 = age does not count
    double min_visibility;     // a lower score is dropped
    double diversity_radius;   // pixels; 0 = off
    double diversity_penalty;  // factor for each patch already taken within the radius
};

struct RetrievedPatch {
    PatchId id;
    double score;  // before the diversity penalty
    double u, v;   // pixels, of the centre
    double depth;  // metres, of the centre
};

struct PatchInfo {
    PatchId observation;
    std::int64_t frame_id;
    double timestamp;
    Affine world_from_camera;
    Intrinsics k;
    std::size_t row, column;  // in the patch grid
    Vec3 centre;              // world
};

// Tokens of retrieved patches, as they land in the target view. All arrays have one entry a token.
struct LandedTokens {
    std::size_t channels = 0;
    std::vector<float> latents;       // (n, channels)
    std::vector<float> landing;       // (n, 3): u, v in pixels, z in metres
    std::vector<float> confidence;    // (n)
    std::vector<std::int32_t> patch;  // (n): position in the list of patches asked for
    std::vector<std::int32_t> source_row, source_column;  // (n): cell in the source keyframe
};

class MemoryStore {
  public:
    explicit MemoryStore(std::size_t patch_size) : patch_size_(patch_size) {}

    // Returns the id of the observation, which is that of its first patch. Patches without a valid
    // cell, or beyond kFurthest from where the first camera stood, are not remembered. Throws
    // std::invalid_argument if the channels are not those of before. After an exception the store
    // is as it was.
    PatchId insert(const Keyframe& keyframe, const Affine& world_from_camera, int num_threads);

    // All return how many patches died. An observation without a living patch is dropped, and its
    // keyframe with it.
    std::size_t erase(std::span<const PatchId> ids);  // unknown and dead ids are passed over
    std::size_t erase_frame(std::int64_t frame_id);
    std::size_t evict_oldest(std::size_t most);  // smallest ids first, until at most `most` live

    std::vector<RetrievedPatch> retrieve(const View& view, const RetrievalParams& params) const;

    // The k nearest of each query (count, 3), in turn; all of them see one state of the store.
    // Fewer than k live: all.
    std::vector<std::vector<Neighbour>> nearest(const double* queries, std::size_t count,
                                                std::size_t k, int num_threads) const;

    // All within the radius (metres) of each query (count, 3), nearest first.
    std::vector<std::vector<Neighbour>> within(const double* queries, std::size_t count,
                                               double radius, int num_threads) const;

    // Ids that do not live are passed over.
    LandedTokens land(std::span<const PatchId> ids, const View& view) const;

    // Returns the first id that does not live, if any.
    std::optional<PatchId> describe(std::span<const PatchId> ids,
                                    std::vector<PatchInfo>& infos) const;

    // retrieve, land and describe for several views, of one state of the store.
    struct Sight {
        std::vector<RetrievedPatch> patches;
        std::vector<PatchInfo> infos;  // of the patches
        LandedTokens tokens;
    };
    std::vector<Sight> look(std::span<const View> views, std::span<const RetrievalParams> params,
                            int num_threads) const;

    std::size_t alive_count() const;
    std::size_t observation_count() const;
    std::size_t index_nbytes() const;
    std::size_t keyframe_nbytes() const;  // of the buffers that observations refer to
    std::vector<PatchId> alive_ids() const;
    bool time_range(double& first, double& last) const;

  private:
    friend class Retrieval;

    // These expect the caller to hold the lock.
    std::array<float, 3> in_index(const double* point) const;
    Sight look_locked(const View& view, const RetrievalParams& params) const;
    std::vector<RetrievedPatch> retrieve_locked(const View& view,
                                                const RetrievalParams& params) const;
    LandedTokens land_locked(std::span<const PatchId> ids, const View& view) const;
    std::optional<PatchId> describe_locked(std::span<const PatchId> ids,
                                           std::vector<PatchInfo>& infos) const;
    const Observation* find(PatchId id) const;
    Observation* find(PatchId id) {
        return const_cast<Observation*>(std::as_const(*this).find(id));
    }
    bool is_alive(PatchId id) const;
    Tile tile(const Observation& observation, std::size_t patch) const;
    bool centre(const Observation& observation, std::size_t patch, Vec3& world) const;
    void erase_patch(Observation& observation, std::size_t patch);
    template <class Mark>
    std::size_t erase_marked(const Mark& mark);

    std::size_t patch_size_;
    std::size_t channels_ = 0;  // of all keyframes; 0 before the first
    Vec3 origin_ = {};  // of the index: where the first camera stood, so that float32 has room far
                        // from the world's
    PatchId next_id_ = 0;
    std::size_t alive_count_ = 0;
    std::vector<std::unique_ptr<Observation>> observations_;  // first_id ascending
    PatchIndex index_;
    mutable std::shared_mutex mutex_;
};

}  // namespace mosaicmem
