#include "cpp/memory/observation.hpp"

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <limits>
#include <utility>

#include "cpp/geometry/unproject.hpp"

namespace mosaicmem {
namespace {

constexpr std::size_t kAllocated = 32;  // bytes that the allocator and a shared_ptr add per object

// The valid depth at `rank` in a tile's ascending order, by bisection over bit patterns, since
// positive floats order like their bits. Allocates nothing: a patch may have any number of cells,
// and killing one must not fail.
float ranked_depth(const Keyframe& keyframe, const Tile& cells, std::size_t rank) {
    std::uint32_t low = 0, high = std::bit_cast<std::uint32_t>(std::numeric_limits<float>::max());
    while (low < high) {
        const std::uint32_t middle = low + (high - low) / 2;
        const float most = std::bit_cast<float>(middle);
        std::size_t count = 0;
        for (std::size_t r = cells.row; r < cells.row_end; ++r) {
            for (std::size_t c = cells.column; c < cells.column_end; ++c) {
                const float depth = keyframe.depth[r * keyframe.columns + c];
                count += is_valid_depth(depth) && depth <= most;
            }
        }
        if (count > rank) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    return std::bit_cast<float>(low);
}

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
    std::array<float, 256> few;
    std::size_t count = 0;
    double u = 0, v = 0;
    for (std::size_t r = cells.row; r < cells.row_end; ++r) {
        for (std::size_t c = cells.column; c < cells.column_end; ++c) {
            const float depth = keyframe->depth[r * keyframe->columns + c];
            if (!is_valid_depth(depth)) continue;
            if (count < few.size()) few[count] = depth;
            ++count;
            u += (static_cast<double>(c) + 0.5) * keyframe->stride;
            v += (static_cast<double>(r) + 0.5) * keyframe->stride;
        }
    }
    if (count == 0) return false;
    const std::size_t middle = (count - 1) / 2;
    if (count <= few.size()) std::nth_element(&few[0], &few[middle], &few[0] + count);
    const float median = count <= few.size() ? few[middle] : ranked_depth(*keyframe, cells, middle);
    const double n = static_cast<double>(count);
    world = PixelRay(keyframe->k, world_from_camera)(u / n, v / n, median);
    return true;
}

std::size_t Keyframe::overhead_nbytes() const {
    return sizeof(Keyframe) + 2 * kAllocated + owner_nbytes + image_owner_nbytes;
}

std::uint64_t Keyframe::next_serial() {
    static std::atomic<std::uint64_t> last{0};
    return last.fetch_add(1, std::memory_order_relaxed);
}

std::shared_ptr<const Keyframe> Keyframe::without_image() const {
    Keyframe bare = *this;
    bare.serial = next_serial();
    bare.image = nullptr;
    bare.image_scale = 0;
    bare.image_owner.reset();
    bare.image_owner_nbytes = 0;
    return std::make_shared<const Keyframe>(std::move(bare));
}

std::size_t Observation::overhead_nbytes() const {
    return sizeof(Observation) + alive_bits.capacity() * sizeof(alive_bits[0]) + kAllocated;
}

}  // namespace mosaicmem
