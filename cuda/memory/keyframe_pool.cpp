#include "cuda/memory/keyframe_pool.hpp"

#include <algorithm>
#include <cstring>
#include <iterator>
#include <utility>

namespace mosaicmem::cuda {

KeyframePool::~KeyframePool() {
    if (arriving_.empty()) return;
    try {
        synchronize(side_->stream());  // it writes to memory that is freed now
    } catch (const CudaError&) {
        // The device is gone, and its memory with it.
    }
}

void KeyframePool::add(const std::shared_ptr<const Keyframe>& keyframe, Staging& staging,
                       const Execution& execution) {
    if (const auto found = held_.find(keyframe->serial); found != held_.end()) {
        ++found->second.uses;
        return;
    }
    const std::size_t bytes = keyframe->latent_nbytes();
    make_room(bytes, {}, execution);
    Held held{keyframe, 1};
    DeviceMemory device;
    std::list<Serial> node{keyframe->serial};  // allocated before a copy begins, since it may fail
    held_.reserve(held_.size() + 1);
    if (fits(bytes)) {
        device = DeviceMemory(execution, bytes);
        if (is_pinned(keyframe->latents)) {
            copy_from_host(keyframe->latents, device.as<void>(), bytes, execution);
        } else {
            staging.upload(keyframe->latents, device.as<void>(), bytes, execution);
        }
    }
    Held& there = held_.emplace(keyframe->serial, std::move(held)).first->second;
    if (device) settle(there, std::move(node), std::move(device));
}

void KeyframePool::drop(Serial keyframe, const Execution& execution) {
    Held& held = held_.at(keyframe);
    if (held.uses > 1) {
        --held.uses;
        return;
    }
    std::erase_if(leaving_, [](const Leaving& each) { return each.event->has_passed(); });
    leaving_.push_back({std::make_unique<Event>(execution), held.keyframe, std::move(held.pinned)});
    evict(held, execution);
    held_.erase(keyframe);
    moved_.erase(keyframe);
}

const void* KeyframePool::address(Serial keyframe) {
    Held& held = held_.at(keyframe);
    const bool is_arriving =
        std::find(arriving_.begin(), arriving_.end(), keyframe) != arriving_.end();
    return held.device && !is_arriving ? held.device.as<void>() : pinned_address(held);
}

void KeyframePool::prefetch(std::span<const Serial> keyframes, const Execution& execution) {
    const std::unordered_set<Serial> wanted(keyframes.begin(), keyframes.end());
    for (const Serial keyframe : keyframes) {
        Held& held = held_.at(keyframe);
        if (held.device) {
            resident_.splice(resident_.end(), resident_, held.place);
            continue;
        }
        const std::size_t bytes = held.keyframe->latent_nbytes();
        make_room(bytes, wanted, execution);
        if (fits(bytes)) fetch(keyframe, held, execution);
    }
}

void KeyframePool::arrived(const Execution& execution) {
    if (arriving_.empty()) return;
    order_streams(side_->stream(), execution);
    for (const Serial keyframe : arriving_) {
        if (held_.contains(keyframe)) moved_.insert(keyframe);
    }
    arriving_.clear();
}

void KeyframePool::fetch(Serial keyframe, Held& held, const Execution& execution) {
    const void* const from = pinned_address(held);
    const std::size_t bytes = held.keyframe->latent_nbytes();
    DeviceMemory device(execution, bytes);
    if (!side_) side_ = std::make_unique<SideStream>(execution.stream.device);
    std::list<Serial> node{keyframe};
    arriving_.reserve(arriving_.size() + 1);
    order_streams(execution, side_->stream());  // earlier work may still use the memory
    copy_from_host(from, device.as<void>(), bytes, side_->stream());
    settle(held, std::move(node), std::move(device));
    arriving_.push_back(keyframe);
}

// Moves out the least recently used keyframes, unless `bytes` exceeds the whole budget.
void KeyframePool::make_room(std::size_t bytes, const std::unordered_set<Serial>& keep,
                             const Execution& execution) {
    if (!budget_ || bytes > *budget_) return;
    for (auto next = resident_.begin(); next != resident_.end() && !fits(bytes);) {
        const Serial keyframe = *next++;
        if (keep.contains(keyframe)) continue;
        moved_.insert(keyframe);
        evict(held_.at(keyframe), execution);
    }
}

// node: holds the serial of the keyframe.
void KeyframePool::settle(Held& held, std::list<Serial>&& node, DeviceMemory&& device) {
    held.place = node.begin();
    resident_.splice(resident_.end(), node);
    held.device = std::move(device);
    bytes_ += held.keyframe->latent_nbytes();
}

void KeyframePool::evict(Held& held, const Execution& execution) {
    if (!held.device) return;
    resident_.erase(held.place);
    bytes_ -= held.keyframe->latent_nbytes();
    held.device.release(execution);
}

const void* KeyframePool::pinned_address(Held& held) {
    if (held.pinned) return held.pinned->data();
    const void* const latents = held.keyframe->latents;
    if (is_pinned(latents)) return latents;
    auto copy = std::make_unique<PinnedMemory>(held.keyframe->latent_nbytes());
    std::memcpy(copy->data(), latents, held.keyframe->latent_nbytes());
    held.pinned = std::move(copy);
    return held.pinned->data();
}

}  // namespace mosaicmem::cuda
