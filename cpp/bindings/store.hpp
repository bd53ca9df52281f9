// The store as Python holds it, and what its two binding files share.
#pragma once

#include "cpp/bindings/arrays.hpp"
#include "cpp/memory/memory_store.hpp"

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

// Keeps Python objects alive for the core, which lets go of them on any thread, with or without the
// GIL.
std::shared_ptr<const void> keep_alive(py::tuple objects);

// A keyframe over NumPy arrays, with a serial of its own.
std::shared_ptr<const Keyframe> make_keyframe(const py::array& latents, LatentType latent_type,
                                              const Array<float>& depth,
                                              const std::optional<Array<float>>& confidence,
                                              double stride, const Intrinsics& k,
                                              std::int64_t frame_id, double timestamp,
                                              Provenance provenance);

Limits to_limits(const std::optional<std::size_t>& max_patches,
                 const std::optional<std::size_t>& max_bytes, Eviction policy);

void bind_store_edits(BoundStoreClass& store);
void bind_store_keyframes(py::module_& m, BoundStoreClass& store);
void bind_store_files(py::module_& m, BoundStoreClass& store);
void bind_store_mirror(BoundStoreClass& store);

}  // namespace mosaicmem::bindings
