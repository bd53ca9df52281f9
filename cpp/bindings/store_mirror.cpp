// What is new in a store, for a mirror of it in device memory.

#include <algorithm>
#include <limits>

#include "cpp/bindings/store.hpp"
#include "cpp/memory/observation_grid.hpp"

namespace mosaicmem::bindings {
namespace {

// Centres of patches as the index has them, NaN for those that do not live.
Array<float> living_centres(const StoreState& state, const Observation& observation) {
    const auto n = static_cast<py::ssize_t>(observation.patch_count());
    auto centres = make_array<float>({n, 3});
    float* const out = centres.mutable_data();
    std::fill_n(out, 3 * n, std::numeric_limits<float>::quiet_NaN());
    observation.for_each_alive([&](std::size_t patch) {
        Vec3 world;
        if (!observation.centre(patch, world)) return;
        const std::array<float, 3> centre = state.in_index(world);
        std::copy(centre.begin(), centre.end(), out + 3 * patch);
    });
    return centres;
}

py::dict describe(const StoreState& state, const Observation& observation) {
    const Keyframe& keyframe = *observation.keyframe;
    const auto rows = static_cast<py::ssize_t>(keyframe.rows),
               columns = static_cast<py::ssize_t>(keyframe.columns);
    const auto& arrays = *static_cast<const py::tuple*>(keyframe.owner.get());
    py::dict result;
    result["version"] = observation.version.value();
    result["first_id"] = observation.first_id;
    result["first_slot"] = observation.first_slot;
    result["keyframe"] = keyframe.serial;
    result["frame_id"] = keyframe.frame_id;
    result["timestamp"] = keyframe.timestamp;
    result["generated"] = keyframe.provenance == Provenance::generated;
    result["world_from_camera"] = observation.world_from_camera.m;
    result["intrinsics"] =
        std::array<double, 4>{keyframe.k.fx, keyframe.k.fy, keyframe.k.cx, keyframe.k.cy};
    result["stride"] = keyframe.stride;
    result["patch_size"] = observation.patch_size;
    result["latents"] = arrays[0];
    result["depth"] = take_vector(living_depth(observation), {rows, columns});
    result["confidence"] = arrays[2];
    result["centres"] = living_centres(state, observation);
    return result;
}

// known: versions, ascending. Returns where the index counts from (world), the versions of all
// observations by slot, and what is to be known of those that are new.
py::tuple changes(const BoundStore& store, const Array<std::uint64_t>& known) {
    std::optional<StoreState> held;  // a copy: observations that others hold too are not written to
    {
        const py::gil_scoped_release release;
        held = store.core.state();
    }
    const StoreState::Observations& observations = held->observations();
    auto versions = make_array<std::uint64_t>({static_cast<py::ssize_t>(observations.size())});
    py::list fresh;
    for (std::size_t i = 0; i < observations.size(); ++i) {
        const std::uint64_t version = observations[i]->version.value();
        versions.mutable_data()[i] = version;
        if (!std::binary_search(known.data(), known.data() + known.size(), version))
            fresh.append(describe(*held, *observations[i]));
    }
    const Vec3& origin = held->origin();
    return py::make_tuple(std::array<double, 3>{origin.x, origin.y, origin.z}, versions, fresh);
}

}  // namespace

void bind_store_mirror(BoundStoreClass& store) {
    store.def_property_readonly("revision",
                                [](const BoundStore& self) { return self.core.revision(); });
    store.def("changes", &changes, py::arg("known").noconvert());
}

}  // namespace mosaicmem::bindings
