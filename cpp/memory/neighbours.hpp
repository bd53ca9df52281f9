// Patches near each of the query points (count, 3) in the world, nearest first.
#pragma once

#include <cstddef>
#include <vector>

#include "cpp/memory/store_state.hpp"

namespace mosaicmem {

std::vector<std::vector<Neighbour>> nearest(const StoreState& state, const double* queries,
                                            std::size_t count, std::size_t k, int num_threads);
std::vector<std::vector<Neighbour>> within(const StoreState& state, const double* queries,
                                           std::size_t count, double radius, int num_threads);

}  // namespace mosaicmem
