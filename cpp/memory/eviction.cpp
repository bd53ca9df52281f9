// Keeps a store within its limits.
//
// Patches can be evicted one by one, but a keyframe's bytes are only freed with its last patch. So
// `max_patches` evicts patches: with the policy `redundant`, first those in places that another
// observation keeps, oldest first; then, as with `oldest`, the oldest of all. `max_bytes` evicts
// whole observations: the oldest, or, with `redundant`, the one that keeps the fewest patches per
// byte. Before that, if images hold more than half of `max_bytes`, the oldest keyframes lose
// theirs: the places that they show stay, with their latents.

#include <algorithm>
#include <new>

#include "cpp/memory/store_state.hpp"

namespace mosaicmem {

std::size_t StoreState::evict() {
    const std::size_t before = alive_count_;
    try {
        evict_patches();
        evict_bytes();
    } catch (...) {
        drop_emptied();
        throw;
    }
    return before - alive_count_;
}

// Calls make_mortal() for the observations that lose patches to a new one, so that evict() does not
// fail once the new one is in. Only a forecast: evictions change which observation keeps which
// place.
void StoreState::prepare_eviction(const Observation& coming) {
    const StoreBytes now = bytes(), more = bytes_of(coming);
    constexpr std::size_t kIndexed = 64;  // bytes per patch in a tree, an overestimate
    const std::size_t patches = alive_count_ + coming.alive_count,
                      total = now.total() + more.total() + kIndexed * coming.alive_count;
    std::size_t many = patches - std::min(patches, limits_.max_patches),
                large = total - std::min(total, limits_.max_bytes);
    if (many == 0 && large == 0) return;
    std::vector<std::size_t> positions;
    const auto expect = [&](std::size_t at, std::size_t dying) {
        positions.push_back(at);
        many -= std::min(many, dying);
        large -= std::min(large, bytes_of(*observations_[at]).total());
    };
    for (std::size_t i = 0; redundancy_ && many > 0 && i < observations_.size(); ++i) {
        const std::size_t at = ordered(i);
        const std::size_t kept = redundancy_->kept(*observations_[at]);
        const std::size_t alive = observations_[at]->alive_count;
        if (kept < alive) expect(at, alive - kept);
    }
    for (std::size_t i = 0; (many > 0 || large > 0) && i < observations_.size(); ++i)
        expect(ordered(i), observations_[ordered(i)]->alive_count);
    make_mortal(positions);
}

void StoreState::evict_patches() {
    if (alive_count_ <= limits_.max_patches) return;
    const auto evict_where = [this](std::size_t at, const auto& may_go) {
        make_mortal(at);
        observations_[at]->for_each_alive([&](std::size_t patch) {
            if (alive_count_ > limits_.max_patches && may_go(*observations_[at], patch))
                kill(at, patch);
        });
    };
    const auto too_many = [this] { return alive_count_ > limits_.max_patches; };
    for (std::size_t i = 0; redundancy_ && too_many() && i < observations_.size(); ++i) {
        const Observation& observation = *observations_[ordered(i)];
        if (redundancy_->kept(observation) == observation.alive_count) continue;
        evict_where(ordered(i), [this](const Observation& at, std::size_t patch) {
            return !redundancy_->keeps(at, patch);
        });
    }
    for (std::size_t i = 0; too_many(); ++i)
        evict_where(ordered(i), [](const Observation&, std::size_t) { return true; });
    drop_emptied();
}

void StoreState::evict_images() {
    const auto too_large = [this] {
        return bytes_.images > limits_.max_bytes / 2 && bytes().total() > limits_.max_bytes;
    };
    for (std::size_t i = 0; too_large() && i < observations_.size(); ++i) {
        const std::shared_ptr<const Keyframe> keyframe = observations_[ordered(i)]->keyframe;
        if (!keyframe->image) continue;
        // Others may share the keyframe, such as duplicates: the image goes with the last of them.
        const auto extra = extra_uses_.find(keyframe.get());
        std::vector<std::size_t> users{ordered(i)};
        for (std::size_t at = 0; extra != extra_uses_.end() && at < observations_.size(); ++at) {
            if (at != users[0] && observations_[at]->keyframe == keyframe) users.push_back(at);
        }
        const std::shared_ptr<const Keyframe> bare = keyframe->without_image();
        Observations changed;
        for (const std::size_t at : users) {
            changed.push_back(std::make_shared<Observation>(*observations_[at]));
            changed.back()->keyframe = bare;
        }
        dropped_.reserve(dropped_.size() + users.size());  // last step that may fail
        for (std::size_t k = 0; k < users.size(); ++k) {
            observations_[users[k]].swap(changed[k]);
            dropped_.push_back(std::move(changed[k]));
        }
        if (extra != extra_uses_.end()) {
            auto uses = extra_uses_.extract(extra);
            uses.key() = bare.get();
            extra_uses_.insert(std::move(uses));
        }
        bytes_.images -= keyframe->image_nbytes();
        bytes_.bookkeeping -= keyframe->overhead_nbytes() - bare->overhead_nbytes();
    }
}

void StoreState::evict_bytes() {
    evict_images();
    if (bytes().total() <= limits_.max_bytes) return;
    // Dead points hold memory until their tree is rebuilt: sooner here than elsewhere, so that
    // keyframes are not evicted in their stead.
    constexpr std::size_t kWorn = 8;
    if (!index_.rebuild(patch_of(), kWorn)) throw std::bad_alloc();
    std::size_t oldest = 0;
    while (bytes().total() > limits_.max_bytes && observations_.size() - emptied_.size() > 1) {
        while (!redundancy_ && observations_[ordered(oldest)]->alive_count == 0) ++oldest;
        const std::size_t at = redundancy_ ? least_kept() : ordered(oldest);
        make_mortal(at);
        kill_all(at);
        if (!index_.rebuild(patch_of(), kWorn)) throw std::bad_alloc();
    }
    drop_emptied();
}

std::size_t StoreState::least_kept() const {
    const auto kept_a_byte = [this](std::size_t at) {
        const Observation& observation = *observations_[at];
        return static_cast<double>(redundancy_->kept(observation)) /
               static_cast<double>(observation.keyframe->nbytes());
    };
    std::size_t least = kNowhere;
    double least_value = std::numeric_limits<double>::infinity();
    for (std::size_t at = 0; at < observations_.size(); ++at) {
        if (observations_[at]->alive_count == 0) continue;
        const double value = kept_a_byte(at);
        if (value < least_value) {
            least = at;
            least_value = value;
        }
    }
    return least;
}

}  // namespace mosaicmem
