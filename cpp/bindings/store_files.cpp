// What a store is made of, as arrays: for writing it to files, and for making one of what was read.

#include "store.hpp"

namespace mosaicmem::bindings {
namespace {

// One entry for each observation, by slot; bits of living patches in words of 64, one observation
// after the other. Keyframes by serial; arrays[i] = (latents, depth, confidence or None) of
// observation i.
py::dict export_observations(const BoundStore& store) {
    std::optional<StoreState> held;
    {
        const py::gil_scoped_release release;
        held = store.core.state();
    }
    const StoreState& state = *held;
    const StoreState::Observations& observations = state.observations();
    const auto n = static_cast<py::ssize_t>(observations.size());
    auto slots = make_array<Slot>({n});
    auto first_ids = make_array<PatchId>({n});
    auto poses = make_array<double>({n, 3, 4});
    auto serials = make_array<std::uint64_t>({n});
    auto types = make_array<std::uint8_t>({n});
    auto frame_ids = make_array<std::int64_t>({n});
    auto cameras = make_array<double>({n, 6});  // fx, fy, cx, cy, stride, timestamp
    auto words = make_array<std::int64_t>({n});
    std::vector<std::uint64_t> alive;
    py::list arrays;
    for (py::ssize_t i = 0; i < n; ++i) {
        const Observation& observation = *observations[static_cast<std::size_t>(i)];
        const Keyframe& keyframe = *observation.keyframe;
        slots.mutable_data()[i] = observation.first_slot;
        first_ids.mutable_data()[i] = observation.first_id;
        std::memcpy(poses.mutable_data() + 12 * i, observation.world_from_camera.m.data(),
                    sizeof(Affine));
        serials.mutable_data()[i] = keyframe.serial;
        types.mutable_data()[i] = static_cast<std::uint8_t>(keyframe.latent_type);
        frame_ids.mutable_data()[i] = keyframe.frame_id;
        const double camera[6] = {keyframe.k.fx, keyframe.k.fy,   keyframe.k.cx,
                                  keyframe.k.cy, keyframe.stride, keyframe.timestamp};
        std::memcpy(cameras.mutable_data() + 6 * i, camera, sizeof camera);
        words.mutable_data()[i] = static_cast<std::int64_t>(observation.alive_bits.size());
        alive.insert(alive.end(), observation.alive_bits.begin(), observation.alive_bits.end());
        arrays.append(*static_cast<const py::tuple*>(keyframe.owner.get()));
    }
    py::dict result;
    result["slot"] = slots;
    result["first_id"] = first_ids;
    result["world_from_camera"] = poses;
    result["keyframe"] = serials;
    result["latent_type"] = types;
    result["frame_id"] = frame_ids;
    result["camera"] = cameras;
    result["words"] = words;
    const auto total = static_cast<py::ssize_t>(alive.size());
    result["alive"] = take_vector(std::move(alive), {total});
    result["arrays"] = arrays;
    result["next_id"] = state.next_id();
    result["channels"] = state.channels();
    result["origin"] = py::make_tuple(state.origin().x, state.origin().y, state.origin().z);
    {
        const py::gil_scoped_release release;
        held.reset();
    }
    return result;
}

}  // namespace

void bind_store_files(py::module_& m, BoundStoreClass& store) {
    (void)m;
    store.def("export_observations", &export_observations);
}

}  // namespace mosaicmem::bindings
