#include "memory_store.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <iterator>
#include <limits>
#include <mutex>
#include <stdexcept>
#include <string>

#include "half.hpp"
#include "parallel.hpp"
#include "reproject.hpp"
#include "unproject.hpp"

namespace mosaicmem {

PatchId MemoryStore::insert(const Keyframe& keyframe, const Affine& world_from_camera,
                            int num_threads) {
    auto observation = std::make_unique<Observation>();
    observation->keyframe = keyframe;
    observation->world_from_camera = world_from_camera;
    observation->patch_rows = (keyframe.rows + patch_size_ - 1) / patch_size_;
    observation->patch_columns = (keyframe.columns + patch_size_ - 1) / patch_size_;
    const std::size_t patches = observation->patch_count();
    observation->alive_bits.assign((patches + 63) / 64, 0);

    std::vector<Vec3> world(patches);
    std::vector<std::uint8_t> valid(patches);
    parallel_for(patches, 4096, num_threads, [&](std::size_t begin, std::size_t end) {
        for (std::size_t p = begin; p < end; ++p) valid[p] = centre(*observation, p, world[p]);
    });

    std::vector<PatchId> ids;
    std::vector<float> centres;
    ids.reserve(patches);
    centres.reserve(3 * patches);

    const std::unique_lock lock(mutex_);
    if (channels_ != 0 && keyframe.channels != channels_) {
        throw std::invalid_argument("latents: expected " + std::to_string(channels_) +
                                    " channels as before, got " +
                                    std::to_string(keyframe.channels));
    }
    const auto& m = world_from_camera.m;
    const Vec3 origin = channels_ == 0 ? Vec3{m[3], m[7], m[11]} : origin_;
    const PatchId first_id = next_id_;
    for (std::size_t p = 0; p < patches; ++p) {
        if (!valid[p]) continue;
        const double offset[3] = {world[p].x - origin.x, world[p].y - origin.y,
                                  world[p].z - origin.z};
        const auto near_enough = [](double x) {
            return std::abs(x) <= kFurthest;
        };  // false for NaN
        if (!std::all_of(offset, offset + 3, near_enough)) continue;
        ids.push_back(first_id + p);
        for (const double x : offset) centres.push_back(static_cast<float>(x));
        observation->alive_bits[p / 64] |= 1ull << (p % 64);
    }
    observation->first_id = first_id;
    observation->alive_count = ids.size();
    if (!ids.empty()) {
        if (observations_.size() == observations_.capacity())
            observations_.reserve(2 * observations_.size() + 8);
        index_.insert(ids, centres.data(), keyframe.timestamp);  // the last that may fail
        observations_.push_back(std::move(observation));
    }
    channels_ = keyframe.channels;
    origin_ = origin;
    next_id_ += patches;
    alive_count_ += ids.size();
    index_.merge([this](PatchId id) { return is_alive(id); });
    return first_id;
}

// The median depth of the patch's valid cells, on the ray through their mean pixel: on a surface,
// at the patch.
bool MemoryStore::centre(const Observation& observation, std::size_t patch, Vec3& world) const {
    const Keyframe& keyframe = observation.keyframe;
    const Tile cells = tile(observation, patch);
    std::vector<float> depths;
    double u = 0, v = 0;
    for (std::size_t r = cells.row; r < cells.row_end; ++r) {
        for (std::size_t c = cells.column; c < cells.column_end; ++c) {
            const float depth = keyframe.depth[r * keyframe.columns + c];
            if (!is_valid_depth(depth)) continue;
            depths.push_back(depth);
            u += (static_cast<double>(c) + 0.5) * keyframe.stride;
            v += (static_cast<double>(r) + 0.5) * keyframe.stride;
        }
    }
    if (depths.empty()) return false;
    const auto middle = depths.begin() + static_cast<std::ptrdiff_t>((depths.size() - 1) / 2);
    std::nth_element(depths.begin(), middle, depths.end());
    const double n = static_cast<double>(depths.size());
    world = PixelRay(keyframe.k, observation.world_from_camera)(u / n, v / n, *middle);
    return true;
}

Tile MemoryStore::tile(const Observation& observation, std::size_t patch) const {
    const std::size_t row = patch / observation.patch_columns * patch_size_;
    const std::size_t column = patch % observation.patch_columns * patch_size_;
    return {row, std::min(row + patch_size_, observation.keyframe.rows), column,
            std::min(column + patch_size_, observation.keyframe.columns)};
}

const Observation* MemoryStore::find(PatchId id) const {
    const auto after =
        std::upper_bound(observations_.begin(), observations_.end(), id,
                         [](PatchId value, const auto& o) { return value < o->first_id; });
    if (after == observations_.begin()) return nullptr;
    const Observation* observation = std::prev(after)->get();
    return id - observation->first_id < observation->patch_count() ? observation : nullptr;
}

bool MemoryStore::is_alive(PatchId id) const {
    const Observation* observation = find(id);
    return observation && observation->is_alive(id - observation->first_id);
}

void MemoryStore::erase_patch(Observation& observation, std::size_t patch) {
    observation.alive_bits[patch / 64] &= ~(1ull << (patch % 64));
    --observation.alive_count;
    --alive_count_;
    index_.note_dead(observation.first_id + patch);
}

// Runs mark(), which erases patches, then drops the observations that have none left.
template <class Mark>
std::size_t MemoryStore::erase_marked(const Mark& mark) {
    std::vector<std::unique_ptr<Observation>>
        dropped;  // destroyed after the lock: an owner may take locks of its own
    const std::unique_lock lock(mutex_);
    dropped.reserve(observations_.size());  // nothing after this line fails
    const std::size_t before = alive_count_;
    mark();
    if (alive_count_ == before) return 0;
    const auto empty =
        std::stable_partition(observations_.begin(), observations_.end(),
                              [](const auto& observation) { return observation->alive_count > 0; });
    std::move(empty, observations_.end(), std::back_inserter(dropped));
    observations_.erase(empty, observations_.end());
    index_.rebuild([this](PatchId id) { return is_alive(id); });
    return before - alive_count_;
}

std::size_t MemoryStore::erase(std::span<const PatchId> ids) {
    return erase_marked([&] {
        for (const PatchId id : ids) {
            Observation* observation = find(id);
            if (observation && observation->is_alive(id - observation->first_id)) {
                erase_patch(*observation, id - observation->first_id);
            }
        }
    });
}

std::size_t MemoryStore::erase_frame(std::int64_t frame_id) {
    return erase_marked([&] {
        for (const auto& observation : observations_) {
            if (observation->keyframe.frame_id != frame_id) continue;
            for (std::size_t p = 0; p < observation->patch_count(); ++p) {
                if (observation->is_alive(p)) erase_patch(*observation, p);
            }
        }
    });
}

std::size_t MemoryStore::evict_oldest(std::size_t most) {
    return erase_marked([&] {
        for (const auto& observation : observations_) {
            if (alive_count_ <= most) return;
            for (std::size_t p = 0; p < observation->patch_count() && alive_count_ > most; ++p) {
                if (observation->is_alive(p)) erase_patch(*observation, p);
            }
        }
    });
}

std::array<float, 3> MemoryStore::in_index(const double* point) const {
    return {static_cast<float>(point[0] - origin_.x), static_cast<float>(point[1] - origin_.y),
            static_cast<float>(point[2] - origin_.z)};
}

std::vector<std::vector<Neighbour>> MemoryStore::nearest(const double* queries, std::size_t count,
                                                         std::size_t k, int num_threads) const {
    std::vector<std::vector<Neighbour>> found(count);
    const std::shared_lock lock(mutex_);
    parallel_for(count, 32, num_threads, [&](std::size_t begin, std::size_t end) {
        for (std::size_t i = begin; i < end; ++i) {
            found[i] = index_.nearest(in_index(queries + 3 * i).data(), k,
                                      [this](PatchId id) { return is_alive(id); });
        }
    });
    return found;
}

std::vector<std::vector<Neighbour>> MemoryStore::within(const double* queries, std::size_t count,
                                                        double radius, int num_threads) const {
    std::vector<std::vector<Neighbour>> found(count);
    const std::shared_lock lock(mutex_);
    parallel_for(count, 32, num_threads, [&](std::size_t begin, std::size_t end) {
        for (std::size_t i = begin; i < end; ++i) {
            found[i] = index_.within(in_index(queries + 3 * i).data(), static_cast<float>(radius),
                                     [this](PatchId id) { return is_alive(id); });
        }
    });
    return found;
}

std::vector<RetrievedPatch> MemoryStore::retrieve(const View& view,
                                                  const RetrievalParams& params) const {
    const std::shared_lock lock(mutex_);
    return retrieve_locked(view, params);
}

LandedTokens MemoryStore::land(std::span<const PatchId> ids, const View& view) const {
    const std::shared_lock lock(mutex_);
    return land_locked(ids, view);
}

std::optional<PatchId> MemoryStore::describe(std::span<const PatchId> ids,
                                             std::vector<PatchInfo>& infos) const {
    const std::shared_lock lock(mutex_);
    return describe_locked(ids, infos);
}

std::vector<MemoryStore::Sight> MemoryStore::look(std::span<const View> views,
                                                  std::span<const RetrievalParams> params,
                                                  int num_threads) const {
    std::vector<Sight> sights(views.size());
    const std::shared_lock lock(mutex_);
    parallel_for(views.size(), 1, num_threads, [&](std::size_t begin, std::size_t end) {
        for (std::size_t i = begin; i < end; ++i) sights[i] = look_locked(views[i], params[i]);
    });
    return sights;
}

MemoryStore::Sight MemoryStore::look_locked(const View& view, const RetrievalParams& params) const {
    Sight sight;
    sight.patches = retrieve_locked(view, params);
    std::vector<PatchId> ids;
    ids.reserve(sight.patches.size());
    for (const RetrievedPatch& patch : sight.patches) ids.push_back(patch.id);
    describe_locked(ids, sight.infos);
    sight.tokens = land_locked(ids, view);
    return sight;
}

LandedTokens MemoryStore::land_locked(std::span<const PatchId> ids, const View& view) const {
    LandedTokens tokens;
    tokens.channels = channels_;
    for (std::size_t i = 0; i < ids.size(); ++i) {
        const Observation* observation = find(ids[i]);
        if (!observation || !observation->is_alive(ids[i] - observation->first_id)) continue;
        const Keyframe& keyframe = observation->keyframe;
        const Tile cells = tile(*observation, ids[i] - observation->first_id);
        const Reprojection reproject(keyframe.k, observation->world_from_camera, view);
        for (std::size_t r = cells.row; r < cells.row_end; ++r) {
            for (std::size_t c = cells.column; c < cells.column_end; ++c) {
                const std::size_t cell = r * keyframe.columns + c;
                std::array<float, 3> p;
                if (!is_valid_depth(keyframe.depth[cell]) ||
                    !reproject((static_cast<double>(c) + 0.5) * keyframe.stride,
                               (static_cast<double>(r) + 0.5) * keyframe.stride,
                               keyframe.depth[cell], p[0], p[1], p[2])) {
                    continue;
                }
                const std::size_t at = tokens.latents.size();
                tokens.latents.resize(at + keyframe.channels);
                widen(keyframe.latents, keyframe.latent_type, cell * keyframe.channels,
                      keyframe.channels, &tokens.latents[at]);
                tokens.landing.insert(tokens.landing.end(), p.begin(), p.end());
                tokens.confidence.push_back(keyframe.confidence ? keyframe.confidence[cell] : 1.0f);
                tokens.patch.push_back(static_cast<std::int32_t>(i));
                tokens.source_row.push_back(static_cast<std::int32_t>(r));
                tokens.source_column.push_back(static_cast<std::int32_t>(c));
            }
        }
    }
    return tokens;
}

std::optional<PatchId> MemoryStore::describe_locked(std::span<const PatchId> ids,
                                                    std::vector<PatchInfo>& infos) const {
    infos.clear();
    infos.reserve(ids.size());
    for (const PatchId id : ids) {
        const Observation* observation = find(id);
        if (!observation || !observation->is_alive(id - observation->first_id)) return id;
        const std::size_t patch = id - observation->first_id;
        PatchInfo info{observation->first_id,
                       observation->keyframe.frame_id,
                       observation->keyframe.timestamp,
                       observation->world_from_camera,
                       observation->keyframe.k,
                       patch / observation->patch_columns,
                       patch % observation->patch_columns,
                       {}};
        centre(*observation, patch, info.centre);
        infos.push_back(info);
    }
    return std::nullopt;
}

std::size_t MemoryStore::alive_count() const {
    const std::shared_lock lock(mutex_);
    return alive_count_;
}

std::size_t MemoryStore::observation_count() const {
    const std::shared_lock lock(mutex_);
    return observations_.size();
}

std::size_t MemoryStore::index_nbytes() const {
    const std::shared_lock lock(mutex_);
    return index_.nbytes();
}

std::size_t MemoryStore::keyframe_nbytes() const {
    const std::shared_lock lock(mutex_);
    std::size_t total = 0;
    for (const auto& observation : observations_) {
        const Keyframe& k = observation->keyframe;
        const std::size_t latent = k.channels * (k.latent_type == LatentType::float32 ? 4 : 2);
        total += k.rows * k.columns * (latent + sizeof(float) + (k.confidence ? sizeof(float) : 0));
    }
    return total;
}

std::vector<PatchId> MemoryStore::alive_ids() const {
    const std::shared_lock lock(mutex_);
    std::vector<PatchId> ids;
    ids.reserve(alive_count_);
    for (const auto& observation : observations_) {
        for (std::size_t p = 0; p < observation->patch_count(); ++p) {
            if (observation->is_alive(p)) ids.push_back(observation->first_id + p);
        }
    }
    return ids;
}

bool MemoryStore::time_range(double& first, double& last) const {
    const std::shared_lock lock(mutex_);
    if (observations_.empty()) return false;
    first = std::numeric_limits<double>::infinity();
    last = -first;
    for (const auto& observation : observations_) {
        first = std::min(first, observation->keyframe.timestamp);
        last = std::max(last, observation->keyframe.timestamp);
    }
    return true;
}

}  // namespace mosaicmem
