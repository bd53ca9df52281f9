// What the index keeps of points: boxes around them, and when they were seen.
#pragma once

#include <cstdint>

namespace mosaicmem {

// Four floats: x, y, z, and one that is 0.
using Lanes = float __attribute__((vector_size(16)));

struct Box {
    Lanes low, high;  // metres
};

// Points with this label and those up to the next entry's were seen at this time.
struct Seen {
    std::uint64_t first_label;
    double time;  // seconds
};

}  // namespace mosaicmem
