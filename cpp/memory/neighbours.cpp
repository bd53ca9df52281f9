#include "cpp/memory/neighbours.hpp"

#include <algorithm>
#include <limits>

#include "cpp/base/parallel.hpp"

namespace mosaicmem {
namespace {

// Orders queries along a Z-order curve through a grid of 1024^3 cells, so that each finds in the
// cache what a nearby query has just read.
std::vector<std::uint32_t> along_curve(const double* queries, std::size_t count) {
    std::array<double, 3> low, high;
    for (std::size_t axis = 0; axis < 3; ++axis) {
        low[axis] = std::numeric_limits<double>::infinity();
        high[axis] = -low[axis];
        for (std::size_t i = 0; i < count; ++i) {
            low[axis] = std::min(low[axis], queries[3 * i + axis]);
            high[axis] = std::max(high[axis], queries[3 * i + axis]);
        }
    }
    const double extent = std::max({high[0] - low[0], high[1] - low[1], high[2] - low[2]});
    const double scale = extent > 0 ? 1023 / extent : 0;
    const auto spread = [](std::uint64_t x) {  // moves ten bits to every third position
        x = (x | x << 16) & 0x030000FF;
        x = (x | x << 8) & 0x0300F00F;
        x = (x | x << 4) & 0x030C30C3;
        return (x | x << 2) & 0x09249249;
    };
    std::vector<std::uint64_t> keys(count);  // position on the curve, then query
    for (std::size_t i = 0; i < count; ++i) {
        std::uint64_t code = 0;
        for (std::size_t axis = 0; axis < 3; ++axis) {
            const double cell = (queries[3 * i + axis] - low[axis]) * scale;
            code |= spread(static_cast<std::uint64_t>(cell)) << axis;
        }
        keys[i] = code << 32 | i;
    }
    std::sort(keys.begin(), keys.end());
    std::vector<std::uint32_t> order(count);
    for (std::size_t i = 0; i < count; ++i) order[i] = static_cast<std::uint32_t>(keys[i]);
    return order;
}

}  // namespace

std::vector<std::vector<Neighbour>> nearest(const StoreState& state, const double* queries,
                                            std::size_t count, std::size_t k, int num_threads) {
    std::vector<std::vector<Neighbour>> found(count);
    const PatchIndex::PatchOf resolve = state.slots_are_ids() && state.index().dead_count() == 0
                                            ? PatchIndex::PatchOf()
                                            : state.patch_of();
    const std::vector<std::uint32_t> order = along_curve(queries, count);
    parallel_for(count, 32, num_threads, [&](std::size_t begin, std::size_t end) {
        for (std::size_t o = begin; o < end; ++o) {
            const std::uint32_t i = order[o];
            const double* q = queries + 3 * i;
            found[i] = state.index().nearest(state.in_index({q[0], q[1], q[2]}).data(), k, resolve);
        }
    });
    return found;
}

std::vector<std::vector<Neighbour>> within(const StoreState& state, const double* queries,
                                           std::size_t count, double radius, int num_threads) {
    std::vector<std::vector<Neighbour>> found(count);
    const PatchIndex::PatchOf resolve = state.patch_of();
    const std::vector<std::uint32_t> order = along_curve(queries, count);
    parallel_for(count, 32, num_threads, [&](std::size_t begin, std::size_t end) {
        for (std::size_t o = begin; o < end; ++o) {
            const std::uint32_t i = order[o];
            const double* q = queries + 3 * i;
            found[i] = state.index().within(state.in_index({q[0], q[1], q[2]}).data(),
                                            static_cast<float>(radius), resolve);
        }
    });
    return found;
}

}  // namespace mosaicmem
