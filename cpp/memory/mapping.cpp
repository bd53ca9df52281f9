// Replaces buffers of keyframes by equal ones, such as those of files that hold them by now.

#include <algorithm>
#include <unordered_map>
#include <utility>

#include "cpp/memory/store_state.hpp"

namespace mosaicmem {

std::size_t StoreState::remap(std::span<const std::shared_ptr<const Keyframe>> keyframes) {
    std::unordered_map<std::uint64_t, const std::shared_ptr<const Keyframe>*> by_serial;
    for (const auto& keyframe : keyframes) by_serial.emplace(keyframe->serial, &keyframe);
    std::vector<std::size_t> at;
    Observations changed;
    for (std::size_t i = 0; i < observations_.size(); ++i) {
        const auto found = by_serial.find(observations_[i]->keyframe->serial);
        if (found == by_serial.end()) continue;
        at.push_back(i);
        changed.push_back(std::make_shared<Observation>(*observations_[i]));
        changed.back()->keyframe = *found->second;
    }
    dropped_.reserve(dropped_.size() + at.size());
    std::unordered_map<const Keyframe*, std::size_t> extra;
    for (const auto& [keyframe, uses] : extra_uses_) {
        const auto found = by_serial.find(keyframe->serial);
        extra.emplace(found == by_serial.end() ? keyframe : found->second->get(), uses);
    }
    // Nothing fails from here on.
    for (std::size_t k = 0; k < at.size(); ++k) {
        auto& observation = observations_[at[k]];
        const auto found = by_serial.find(observation->keyframe->serial);
        if (found != by_serial.end()) {  // the first that has it
            bytes_.bookkeeping += (*found->second)->overhead_nbytes();
            bytes_.bookkeeping -= observation->keyframe->overhead_nbytes();
            by_serial.erase(found);
        }
        observation.swap(changed[k]);
        dropped_.push_back(std::move(changed[k]));
    }
    extra_uses_ = std::move(extra);
    return at.size();
}

}  // namespace mosaicmem
