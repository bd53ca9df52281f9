// Keeping a store within its limits.
//
// Patches can go one by one, but a keyframe's bytes are free only when its last patch is gone. So
// under `max_patches` it is patches that go: with the policy `redundant`, first those whose place
// somebody else keeps, the oldest of them first; then, as with `oldest`, the oldest of all. Under
// `max_bytes` it is observations: the oldest, or that which keeps the fewest patches for its bytes.

#include "store_state.hpp"

namespace mosaicmem {

std::size_t StoreState::evict() {
    const std::size_t before = alive_count_;
    evict_patches();
    evict_bytes();
    return before - alive_count_;
}

void StoreState::evict_patches() {
    if (alive_count_ <= limits_.max_patches) return;
    const auto evict_where = [this](std::size_t at, const auto& may_go) {
        const std::shared_ptr<const Observation> before = observations_[at];
        before->for_each_alive([&](std::size_t patch) {
            if (alive_count_ > limits_.max_patches && may_go(*observations_[at], patch))
                kill(at, patch);
        });
    };
    for (std::size_t i = 0; places_ && i < observations_.size(); ++i) {
        const Observation& observation = *observations_[ordered(i)];
        if (places_->kept(observation) == observation.alive_count) continue;
        evict_where(ordered(i), [this](const Observation& at, std::size_t patch) {
            return !places_->keeps(at, patch);
        });
    }
    for (std::size_t i = 0; alive_count_ > limits_.max_patches; ++i)
        evict_where(ordered(i), [](const Observation&, std::size_t) { return true; });
    drop_emptied();
}

void StoreState::evict_bytes() {
    if (bytes().total() <= limits_.max_bytes) return;
    // Dead points hold memory until their tree is built again: sooner here than elsewhere, so that
    // keyframes do not go in their stead.
    constexpr std::size_t kWorn = 8;
    index_.rebuild(patch_of(), kWorn);
    std::size_t oldest = 0;
    while (bytes().total() > limits_.max_bytes && observations_.size() - emptied_.size() > 1) {
        while (!places_ && observations_[ordered(oldest)]->alive_count == 0) ++oldest;
        kill_all(places_ ? least_kept() : ordered(oldest));
        index_.rebuild(patch_of(), kWorn);
    }
    drop_emptied();
}

std::size_t StoreState::least_kept() const {
    const auto kept_a_byte = [this](std::size_t at) {
        const Observation& observation = *observations_[at];
        return static_cast<double>(places_->kept(observation)) /
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
