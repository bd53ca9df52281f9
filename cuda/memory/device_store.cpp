#include "cuda/memory/device_store.hpp"

#include <algorithm>
#include <cstddef>
#include <limits>
#include <unordered_set>
#include <utility>

#include "cpp/memory/observation_grid.hpp"

namespace mosaicmem::cuda {
namespace {

constexpr std::size_t kChunkBytes = kChunk * 3 * sizeof(float);
constexpr std::size_t kCarried = 1 << 16;  // bytes sent as launch parameters; a graph keeps them

// Patch centres in index coordinates, padded to whole chunks; NaN for dead patches.
std::vector<float> living_centres(const StoreState& state, const Observation& observation,
                                  std::size_t chunks) {
    std::vector<float> centres(chunks * kChunk * 3, std::numeric_limits<float>::quiet_NaN());
    observation.for_each_alive([&](std::size_t patch) {
        Vec3 world;
        if (!observation.centre(patch, world)) return;
        const std::array<float, 3> centre = state.in_index(world);
        std::copy(centre.begin(), centre.end(), &centres[3 * patch]);
    });
    return centres;
}

}  // namespace

DeviceStore::~DeviceStore() {
    try {
        order_.wait();
    } catch (const CudaError&) {
        // The device is gone, and its memory with it.
    }
}

void DeviceStore::follow(const MemoryStore& store, const Execution& execution) {
    order_.follow(execution);
    pool_.arrived(execution);
    point(execution);
    reserve(1, 1, execution);
    const std::uint64_t revision = store.revision();
    if (revision_ == revision) return;
    version_.renew();
    revision_.reset();
    // A copy: the store does not change observations that others hold too.
    const StoreState state = store.state();
    take_over(state, execution);
    std::size_t free = 0;
    for (const auto& [chunks, firsts] : free_chunks_) free += chunks * firsts.size();
    if (free > used_chunks_ / 2 + 64) start_again(state, execution);
    revision_ = revision;
}

void DeviceStore::take_over(const StoreState& state, const Execution& execution) {
    origin_ = state.origin();
    channels_ = state.channels();
    std::unordered_set<std::uint64_t> living;
    for (const auto& observation : state.observations()) {
        living.insert(observation->version.value());
        // Adds before removing: removed observations may share their keyframes with new ones.
        if (!row_of_version_.contains(observation->version.value()))
            add(state, *observation, execution);
    }
    for (std::size_t row = 0; row < rows_.size(); ++row) {
        if (rows_[row].keyframe && !living.contains(rows_[row].version)) remove(row, execution);
    }
}

// Compacts: drops freed rows and chunks.
void DeviceStore::start_again(const StoreState& state, const Execution& execution) {
    std::vector<Row> old = std::exchange(rows_, {});
    row_of_version_.clear();
    row_of_slot_.clear();
    rows_of_keyframe_.clear();
    free_rows_.clear();
    free_chunks_.clear();
    used_chunks_ = 0;
    const auto let_old_go = [&] {
        for (Row& row : old) {
            if (row.keyframe) let_go(row, execution);
        }
    };
    try {
        take_over(state, execution);
    } catch (...) {
        let_old_go();
        throw;
    }
    let_old_go();
}

void DeviceStore::add(const StoreState& state, const Observation& observation,
                      const Execution& execution) {
    const Keyframe& keyframe = *observation.keyframe;
    const std::size_t chunks = (observation.patch_count() + kChunk - 1) / kChunk;
    const std::size_t cells = keyframe.rows * keyframe.columns;
    std::vector<std::size_t>& free = free_chunks_[chunks];
    const std::size_t first_chunk = free.empty() ? used_chunks_ : free.back();
    const std::size_t row = free_rows_.empty() ? rows_.size() : free_rows_.back();
    const auto narrow = [](std::size_t n) { return static_cast<std::uint32_t>(n); };
    reserve(free.empty() ? chunks : 0, free_rows_.empty() ? 1 : 0, execution);

    const std::vector<float> centres = living_centres(state, observation, chunks);
    staging_.upload(centres.data(), centres_.as<char>() + first_chunk * kChunkBytes,
                    chunks * kChunkBytes, execution);
    Row made{observation.keyframe,
             observation.world_from_camera,
             observation.first_slot,
             observation.version.value(),
             first_chunk,
             chunks,
             copied(living_depth(observation).data(), cells, execution),
             keyframe.confidence ? copied(keyframe.confidence, cells, execution) : DeviceMemory(),
             keyframe.subcell_depth
                 ? copied(living_subcell_depth(observation).data(),
                          cells * keyframe.subcells * keyframe.subcells, execution)
                 : DeviceMemory()};
    // Reserves memory before the pool and the kernels know of the row.
    rows_.reserve(row + 1);
    std::vector<std::size_t>& rows_of_keyframe = rows_of_keyframe_[keyframe.serial];
    rows_of_keyframe.reserve(rows_of_keyframe.size() + 1);
    bool is_new_slot = false, is_held = false;
    try {
        row_of_version_.try_emplace(made.version, row);
        is_new_slot = row_of_slot_.try_emplace(made.first_slot, row).second;
        pool_.add(observation.keyframe, staging_, execution);
        is_held = true;
        point(execution);
        const MirroredObservation packed{observation.world_from_camera,
                                         keyframe.k,
                                         keyframe.stride,
                                         keyframe.timestamp,
                                         observation.first_id,
                                         observation.first_slot,
                                         pool_.address(keyframe.serial),
                                         made.depth.as<float>(),
                                         made.confidence.as<float>(),
                                         made.subcell_depth.as<float>(),
                                         narrow(keyframe.rows),
                                         narrow(keyframe.columns),
                                         narrow(observation.patch_size),
                                         narrow(observation.patch_columns),
                                         narrow(observation.patch_count()),
                                         narrow(first_chunk),
                                         narrow(keyframe.subcells),
                                         keyframe.provenance};
        staging_.upload(&packed, table_.as<MirroredObservation>() + row, sizeof packed, execution);
        // Kernels learn of the row last: if memory runs out before, nothing has changed for them.
        const std::vector<std::int32_t> rows(chunks, static_cast<std::int32_t>(row));
        staging_.upload(rows.data(), chunk_row_.as<std::int32_t>() + first_chunk,
                        chunks * sizeof(std::int32_t), execution);
    } catch (...) {
        row_of_version_.erase(made.version);
        if (is_new_slot) row_of_slot_.erase(made.first_slot);
        if (is_held) pool_.drop(keyframe.serial, execution);
        throw;
    }
    row_of_slot_.find(made.first_slot)->second = row;
    if (!free.empty()) free.pop_back();
    if (!free_rows_.empty()) free_rows_.pop_back();
    used_chunks_ = std::max(used_chunks_, first_chunk + chunks);
    latent_type_ = keyframe.latent_type;
    rows_of_keyframe.push_back(row);
    if (row == rows_.size()) {
        rows_.push_back(std::move(made));
    } else {
        rows_[row] = std::move(made);
    }
}

void DeviceStore::remove(std::size_t row, const Execution& execution) {
    Row& gone = rows_[row];
    std::vector<std::size_t>& free = free_chunks_[gone.chunks];
    free.reserve(free.size() + 1);
    free_rows_.reserve(free_rows_.size() + 1);
    const std::vector<std::int32_t> nothing(gone.chunks, -1);
    staging_.upload(nothing.data(), chunk_row_.as<std::int32_t>() + gone.first_chunk,
                    gone.chunks * sizeof(std::int32_t), execution);
    free.push_back(gone.first_chunk);
    free_rows_.push_back(row);
    row_of_version_.erase(gone.version);
    if (const auto found = row_of_slot_.find(gone.first_slot);
        found != row_of_slot_.end() && found->second == row) {
        row_of_slot_.erase(found);
    }
    std::vector<std::size_t>& others = rows_of_keyframe_[gone.keyframe->serial];
    std::erase(others, row);
    if (others.empty()) rows_of_keyframe_.erase(gone.keyframe->serial);
    let_go(gone, execution);
}

void DeviceStore::let_go(Row& row, const Execution& execution) {
    Row gone = std::exchange(row, {});
    gone.depth.release(execution);
    gone.confidence.release(execution);
    gone.subcell_depth.release(execution);
    pool_.drop(gone.keyframe->serial, execution);
}

// Writes the new addresses of moved latents into the table.
void DeviceStore::point(const Execution& execution) {
    while (!pool_.moved().empty()) {
        const KeyframePool::Serial keyframe = *pool_.moved().begin();
        const void* const address = pool_.address(keyframe);
        if (const auto found = rows_of_keyframe_.find(keyframe); found != rows_of_keyframe_.end()) {
            for (const std::size_t row : found->second) {
                char* const place = reinterpret_cast<char*>(table_.as<MirroredObservation>() + row);
                staging_.upload(&address, place + offsetof(MirroredObservation, latents),
                                sizeof address, execution);
            }
        }
        pool_.moved().erase(keyframe);
    }
}

// Makes room for more chunks and rows, and keeps the contents of the tables.
void DeviceStore::reserve(std::size_t chunks, std::size_t rows, const Execution& execution) {
    const std::size_t needed_chunks = used_chunks_ + chunks, needed_rows = rows_.size() + rows;
    if (needed_chunks > chunk_room_) {
        const std::size_t room = std::max<std::size_t>(1024, 2 * needed_chunks);
        centres_.grow(room * kChunkBytes, used_chunks_ * kChunkBytes, execution);
        chunk_row_.grow(room * sizeof(std::int32_t), used_chunks_ * sizeof(std::int32_t),
                        execution);
        chunk_room_ = room;
    }
    if (needed_rows > row_room_) {
        const std::size_t room = std::max<std::size_t>(64, 2 * needed_rows);
        table_.grow(room * sizeof(MirroredObservation), rows_.size() * sizeof(MirroredObservation),
                    execution);
        row_room_ = room;
    }
}

DeviceMemory DeviceStore::copied(const float* values, std::size_t count,
                                 const Execution& execution) {
    DeviceMemory memory(execution, count * sizeof(float));
    staging_.upload(values, memory.as<void>(), count * sizeof(float), execution);
    return memory;
}

const void* DeviceStore::put(const void* data, std::size_t bytes, const Execution& execution) {
    void* const there = execution.scratch(bytes);
    if (bytes <= kCarried) {
        store_bytes(data, there, bytes, execution);
    } else {
        staging_.upload(data, there, bytes, execution);
    }
    return there;
}

void DeviceStore::prefetch(std::span<const Slot> observations, const Execution& execution) {
    std::vector<KeyframePool::Serial> keyframes;
    for (const Slot slot : observations) {
        const std::int32_t row = row_of(slot);
        if (row < 0) continue;
        const auto serial = rows_[static_cast<std::size_t>(row)].keyframe->serial;
        if (std::find(keyframes.begin(), keyframes.end(), serial) == keyframes.end())
            keyframes.push_back(serial);
    }
    pool_.prefetch(keyframes, execution);
    point(execution);
}

Mirror DeviceStore::mirror() const {
    return {centres_.as<float>(),
            chunk_row_.as<std::int32_t>(),
            used_chunks_,
            table_.as<MirroredObservation>(),
            {{1, 0, 0, origin_.x, 0, 1, 0, origin_.y, 0, 0, 1, origin_.z}},
            channels_,
            latent_type_};
}

std::int32_t DeviceStore::row_of(Slot observation) const {
    const auto found = row_of_slot_.find(observation);
    return found == row_of_slot_.end() ? -1 : static_cast<std::int32_t>(found->second);
}

std::size_t DeviceStore::most_parts() const {
    std::size_t most = 0;
    for (const Row& row : rows_) {
        if (!row.keyframe) continue;
        const Keyframe& keyframe = *row.keyframe;
        const std::size_t parts = keyframe.subcells * keyframe.subcells;
        most = std::max(most, keyframe.rows * keyframe.columns * parts);
    }
    return most;
}

bool DeviceStore::is_resident(Slot observation) const {
    const std::int32_t row = row_of(observation);
    return row >= 0 && pool_.is_resident(rows_[static_cast<std::size_t>(row)].keyframe->serial);
}

}  // namespace mosaicmem::cuda
