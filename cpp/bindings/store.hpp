// The store as bound to Python, and what its binding files share.
#pragma once

#include "cpp/bindings/arrays.hpp"
#include "cpp/memory/keyframe_selection.hpp"
#include "cpp/memory/memory_store.hpp"
#include "cpp/memory/score.hpp"

namespace mosaicmem::bindings {

class BoundStore {
  public:
    explicit BoundStore(StoreState state) : core(std::move(state)) {}

    MemoryStore core;
};

// The targets of a window, of equal sizes.
struct Targets {
    std::vector<TargetGrid> grids;
};

using BoundStoreClass = py::class_<BoundStore>;

inline std::span<const PatchId> id_span(const Array<PatchId>& ids) {
    return {ids.data(), static_cast<std::size_t>(ids.size())};
}

// A keyframe over NumPy arrays, with a new serial.
std::shared_ptr<const Keyframe> make_keyframe(
    const py::array& latents, LatentType latent_type, const Array<float>& depth,
    const std::optional<Array<float>>& confidence, const std::optional<Array<std::uint8_t>>& image,
    const std::optional<Array<float>>& subcell_depth, double stride, const Intrinsics& k,
    std::int64_t frame_id, double timestamp, Provenance provenance);

// half_life, min_visibility, diversity_radius, diversity_penalty, generated_weight.
using RetrievalWeights = std::array<double, 5>;

// Leaves the time at 0.
inline RetrievalParams to_retrieval_params(const RetrievalWeights& options, std::size_t top_k) {
    const auto [half_life, min_visibility, radius, penalty, generated_weight] = options;
    return {top_k, 0, half_life, min_visibility, radius, penalty, generated_weight};
}

// A row of a table of placed keyframes.
struct PlacedKeyframe {
    const Keyframe* keyframe;  // null: the row is free, and all zero
    Slot observation;
    Affine world_from_camera;
};

// The image that a keyframe was made with, or None.
py::object image_of(const Keyframe& keyframe);

// One array each: observation, frame_id, timestamp, world_from_camera, intrinsics, generated.
py::dict keyframe_arrays(const std::vector<PlacedKeyframe>& keyframes);

inline std::vector<PlacedKeyframe> placed(const ObservationTable& table) {
    std::vector<PlacedKeyframe> rows;
    for (const auto& each : table)
        rows.push_back({each->keyframe.get(), each->first_slot, each->world_from_camera});
    return rows;
}

Limits to_limits(const std::optional<std::size_t>& max_patches,
                 const std::optional<std::size_t>& max_bytes, Eviction policy);

void bind_store_edits(BoundStoreClass& store);
void bind_store_keyframes(py::module_& m, BoundStoreClass& store);
void bind_store_files(py::module_& m, BoundStoreClass& store);
void bind_store_retrieval(py::module_& m, BoundStoreClass& store);

}  // namespace mosaicmem::bindings
