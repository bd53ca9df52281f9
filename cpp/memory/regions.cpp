#include "cpp/memory/regions.hpp"

#include <algorithm>
#include <limits>

#include "cpp/base/parallel.hpp"

namespace mosaicmem {
namespace {

template <class IsInside>
std::vector<PatchId> select(const StoreState& state, const IsInside& is_inside, int num_threads) {
    const StoreState::Observations& observations = state.observations();
    std::vector<std::vector<PatchId>> found(observations.size());
    parallel_for(found.size(), 4, num_threads, [&](std::size_t begin, std::size_t end) {
        for (std::size_t i = begin; i < end; ++i) {
            const Observation& observation = *observations[i];
            observation.for_each_alive([&](std::size_t p) {
                Vec3 centre;
                if (observation.centre(p, centre) && is_inside(centre))
                    found[i].push_back(observation.first_id + p);
            });
        }
    });
    std::vector<PatchId> ids;
    for (const auto& part : found) ids.insert(ids.end(), part.begin(), part.end());
    sort_ids(ids);
    return ids;
}

}  // namespace

std::vector<PatchId> inside(const StoreState& state, HalfSpaces half_spaces, int num_threads) {
    return select(
        state,
        [half_spaces](const Vec3& p) {
            return std::all_of(half_spaces.begin(), half_spaces.end(), [&](const auto& h) {
                return h[0] * p.x + h[1] * p.y + h[2] * p.z + h[3] >= 0;
            });
        },
        num_threads);
}

std::vector<PatchId> inside_sphere(const StoreState& state, const Vec3& centre, double radius,
                                   int num_threads) {
    return select(
        state,
        [&centre, radius](const Vec3& p) {
            const double x = p.x - centre.x, y = p.y - centre.y, z = p.z - centre.z;
            return x * x + y * y + z * z <= radius * radius;
        },
        num_threads);
}

bool bounds(const StoreState& state, std::array<Vec3, 2>& corners, int num_threads) {
    const StoreState::Observations& observations = state.observations();
    constexpr double kInfinity = std::numeric_limits<double>::infinity();
    const std::array<Vec3, 2> nothing{Vec3{kInfinity, kInfinity, kInfinity},
                                      Vec3{-kInfinity, -kInfinity, -kInfinity}};
    const auto include = [](std::array<Vec3, 2>& box, const Vec3& low, const Vec3& high) {
        box[0] = {std::min(box[0].x, low.x), std::min(box[0].y, low.y), std::min(box[0].z, low.z)};
        box[1] = {std::max(box[1].x, high.x), std::max(box[1].y, high.y),
                  std::max(box[1].z, high.z)};
    };
    std::vector<std::array<Vec3, 2>> boxes(observations.size(), nothing);
    parallel_for(boxes.size(), 4, num_threads, [&](std::size_t begin, std::size_t end) {
        for (std::size_t i = begin; i < end; ++i) {
            observations[i]->for_each_alive([&](std::size_t p) {
                Vec3 centre;
                if (observations[i]->centre(p, centre)) include(boxes[i], centre, centre);
            });
        }
    });
    corners = nothing;
    for (const auto& box : boxes) include(corners, box[0], box[1]);
    return state.alive_count() > 0;
}

}  // namespace mosaicmem
