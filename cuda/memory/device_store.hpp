// A store in device memory: tables that follow the store on the host.
//
// The store itself stays on the host, where it is edited, saved and kept within its limits. Before
// each use the tables take over what has changed: for each observation the centres of its patches,
// the depth of its living patches, and the address of its latents.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <unordered_map>
#include <vector>

#include "cpp/memory/memory_store.hpp"
#include "cuda/base/device_memory.hpp"
#include "cuda/base/staging.hpp"
#include "cuda/memory/keyframe_pool.hpp"
#include "cuda/memory/mirror.hpp"

namespace mosaicmem::cuda {

// Not thread-safe: the caller makes calls one at a time. Their streams are ordered one after
// another, so work that a call adds to its stream after follow() reads the tables as of then.
class DeviceStore {
  public:
    // budget: bytes of latents in device memory; nullopt: no limit.
    explicit DeviceStore(std::optional<std::size_t> budget) : pool_(budget) {}
    ~DeviceStore();  // waits for the kernels that read the tables
    DeviceStore(const DeviceStore&) = delete;
    DeviceStore& operator=(const DeviceStore&) = delete;

    // Brings the tables up to date. After an exception part of the changes may be missing; no
    // kernel may run until a call has succeeded.
    void follow(const MemoryStore& store, const Execution& execution);

    // Starts to move the keyframes of observations into device memory, the most wanted first.
    void prefetch(std::span<const Slot> observations, const Execution& execution);

    // Copies host data of any size to the GPU, for one call.
    const void* put(const void* data, std::size_t bytes, const Execution& execution);

    // The host's record of a row of the observation table.
    struct Row {
        std::shared_ptr<const Keyframe> keyframe;  // null: the row is free
        Affine world_from_camera;
        Slot first_slot;
        std::uint64_t version;
        std::size_t first_chunk, chunks;
        DeviceMemory depth, confidence, subcell_depth;
    };

    Mirror mirror() const;
    std::span<const Row> rows() const { return rows_; }
    std::int32_t row_of(Slot observation) const;                // -1: none
    std::uint64_t version() const { return version_.value(); }  // of the tables; unique
    std::size_t most_parts() const;  // subcells, or cells without, of the keyframe with the most
    std::size_t channels() const { return channels_; }
    std::size_t used_chunks() const { return used_chunks_; }
    std::size_t latent_bytes() const { return pool_.bytes(); }  // in device memory
    bool is_resident(Slot observation) const;                   // in device memory or on its way

  private:
    void take_over(const StoreState& state, const Execution& execution);
    void start_again(const StoreState& state, const Execution& execution);
    void add(const StoreState& state, const Observation& observation, const Execution& execution);
    void remove(std::size_t row, const Execution& execution);
    void let_go(Row& row, const Execution& execution);
    void point(const Execution& execution);
    void reserve(std::size_t chunks, std::size_t rows, const Execution& execution);
    DeviceMemory copied(const float* values, std::size_t count, const Execution& execution);

    Staging staging_;
    KeyframePool pool_;
    StreamOrder order_;
    Version version_;
    std::optional<std::uint64_t> revision_;  // of the store, when the tables were last up to date
    Vec3 origin_{};
    std::size_t channels_ = 0;
    LatentType latent_type_ = LatentType::float32;

    std::vector<Row> rows_;
    std::unordered_map<std::uint64_t, std::size_t> row_of_version_;
    std::unordered_map<Slot, std::size_t> row_of_slot_;
    std::unordered_map<KeyframePool::Serial, std::vector<std::size_t>> rows_of_keyframe_;
    std::vector<std::size_t> free_rows_;
    std::map<std::size_t, std::vector<std::size_t>> free_chunks_;  // run length -> first chunks
    std::size_t used_chunks_ = 0;

    DeviceMemory centres_, chunk_row_, table_;  // see Mirror
    std::size_t chunk_room_ = 0, row_room_ = 0;
};

}  // namespace mosaicmem::cuda
