// Whether a shared object has no other owner, so that it may be modified in place.
#pragma once

#include <atomic>
#include <memory>

namespace mosaicmem {

// Valid only where nobody but the caller can copy the pointer. If true, everything that former
// owners did with the object before releasing it is visible.
template <class T>
bool is_sole_owner(const std::shared_ptr<T>& object) {
    if (object.use_count() > 1) return false;
#ifdef __SANITIZE_THREAD__
    // ThreadSanitizer does not model fences; counting up and down acquires what others released.
    const std::shared_ptr<T> again = object;
#else
    std::atomic_thread_fence(std::memory_order_acquire);
#endif
    return true;
}

}  // namespace mosaicmem
