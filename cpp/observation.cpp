#include "observation.hpp"

#include <algorithm>
#include <array>
#include <atomic>

#include "unproject.hpp"

namespace mosaicmem {
namespace {

constexpr std::size_t kAllocated = 32;  // what the allocator and a shared_ptr add to an object

}  // namespace

std::uint64_t Version::next() {
    static std::atomic<std::uint64_t> last{0};
    return last.fetch_add(1, std::memory_order_relaxed) + 1;
}

Tile Observation::tile(std::size_t patch) const {
    return tile_of(patch, patch_columns, patch_size, keyframe->rows, keyframe->columns);
}

bool Observation::centre(std::size_t patch, Vec3& world) const {
    const Tile cells = tile(patch);
    std::array<float, 16> few;
    std::vector<float> many(cells.cells() > few.size() ? cells.cells() : 0);
    float* const depths = many.empty() ? few.data() : many.data();
    std::size_t count = 0;
    double u = 0, v = 0;
    for (std::size_t r = cells.row; r < cells.row_end; ++r) {
        for (std::size_t c = cells.column; c < cells.column_end; ++c) {
            const float depth = keyframe->depth[r * keyframe->columns + c];
            if (!is_valid_depth(depth)) continue;
            depths[count++] = depth;
            u += (static_cast<double>(c) + 0.5) * keyframe->stride;
            v += (static_cast<double>(r) + 0.5) * keyframe->stride;
        }
    }
    if (count == 0) return false;
    float* const middle = depths + (count - 1) / 2;
    std::nth_element(depths, middle, depths + count);
    const double n = static_cast<double>(count);
    world = PixelRay(keyframe->k, world_from_camera)(u / n, v / n, *middle);
    return true;
}

std::size_t Keyframe::overhead_nbytes() const {
    return sizeof(Keyframe) + 2 * kAllocated + owner_nbytes;
}

std::size_t Observation::overhead_nbytes() const {
    return sizeof(Observation) + alive_bits.capacity() * sizeof(alive_bits[0]) + kAllocated;
}

}  // namespace mosaicmem
