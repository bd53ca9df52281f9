// Patches whose centres lie in a region of the world.
#pragma once

#include <array>
#include <span>
#include <vector>

#include "cpp/memory/store_state.hpp"

namespace mosaicmem {

// Half-spaces (normal, offset): a point is inside where normal . x + offset >= 0 for all of them.
using HalfSpaces = std::span<const std::array<double, 4>>;

std::vector<PatchId> inside(const StoreState& state, HalfSpaces half_spaces, int num_threads);
std::vector<PatchId> inside_sphere(const StoreState& state, const Vec3& centre, double radius,
                                   int num_threads);

// The smallest and the largest coordinates of patch centres; false if no patch is alive.
bool bounds(const StoreState& state, std::array<Vec3, 2>& corners, int num_threads);

}  // namespace mosaicmem
