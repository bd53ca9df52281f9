// What the index stores about points: bounding boxes and timestamps.
#pragma once

#include <cstdint>

namespace mosaicmem {

// Four floats: x, y, z and a zero.
using Lanes = float __attribute__((vector_size(16)));

struct Box {
    Lanes low, high;  // metres
};

// The time at which the points with labels from first_label up to the next entry's were seen.
struct Seen {
    std::uint64_t first_label;
    double time;  // seconds
};

}  // namespace mosaicmem
