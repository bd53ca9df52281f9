// Whether a shared object may be written to, because nobody else has it.
#pragma once

#include <atomic>
#include <memory>

namespace mosaicmem {

// Only who can hand out copies of the pointer may ask. If it is true, all that the others did with
// the object, before they let go of it, has happened.
template <class T>
bool is_sole_owner(const std::shared_ptr<T>& object) {
    if (object.use_count() > 1) return false;
#ifdef __SANITIZE_THREAD__
    // ThreadSanitizer does not know fences. Counting up and down acquires what the others released.
    const std::shared_ptr<T> again = object;
#else
    std::atomic_thread_fence(std::memory_order_acquire);
#endif
    return true;
}

}  // namespace mosaicmem
