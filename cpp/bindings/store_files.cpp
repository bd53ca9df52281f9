// Converts a store to arrays, to write to files, and arrays read from files to a store.

#include <bit>
#include <tuple>
#include <unordered_map>

#include "cpp/bindings/store.hpp"

namespace mosaicmem::bindings {
namespace {

// One entry per observation, by slot. `alive` holds the bits of living patches in words of 64,
// `words` of them per observation; `keyframe` holds serials; arrays[i] = (latents, depth,
// confidence or None, image or None, subcell_depth or None) of observation i.
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
    auto provenance = make_array<std::uint8_t>({n});
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
        provenance.mutable_data()[i] = static_cast<std::uint8_t>(keyframe.provenance);
        const double camera[6] = {keyframe.k.fx, keyframe.k.fy,   keyframe.k.cx,
                                  keyframe.k.cy, keyframe.stride, keyframe.timestamp};
        std::memcpy(cameras.mutable_data() + 6 * i, camera, sizeof camera);
        words.mutable_data()[i] = static_cast<std::int64_t>(observation.alive_bits.size());
        alive.insert(alive.end(), observation.alive_bits.begin(), observation.alive_bits.end());
        const auto& kept = *static_cast<const py::tuple*>(keyframe.owner.get());
        arrays.append(py::make_tuple(kept[0], kept[1], kept[2], image_of(keyframe), kept[3]));
    }
    py::dict result;
    result["slot"] = slots;
    result["first_id"] = first_ids;
    result["world_from_camera"] = poses;
    result["keyframe"] = serials;
    result["latent_type"] = types;
    result["frame_id"] = frame_ids;
    result["provenance"] = provenance;
    result["camera"] = cameras;
    result["words"] = words;
    const auto total = static_cast<py::ssize_t>(alive.size());
    result["alive"] = take_vector(std::move(alive), {total});
    result["arrays"] = arrays;
    result["next_id"] = state.next_id();
    result["next_slot"] = state.next_slot();
    result["patches"] = state.alive_count();
    result["channels"] = state.channels();
    result["origin"] = py::make_tuple(state.origin().x, state.origin().y, state.origin().z);
    {
        const py::gil_scoped_release release;
        held.reset();
    }
    return result;
}

// (latents, latent_type, depth, confidence, image, subcell_depth, (fx, fy, cx, cy, stride,
// timestamp), frame_id, provenance)
using KeyframeArrays = std::tuple<py::array, LatentType, Array<float>, std::optional<Array<float>>,
                                  std::optional<Array<std::uint8_t>>, std::optional<Array<float>>,
                                  std::array<double, 6>, std::int64_t, Provenance>;

// The inverse of export_observations(): `keyframe` (n) is the position in `keyframes` of each
// observation's keyframe; ids and slots have been checked. Returns the store and the keyframes'
// serials. Raises ValueError if a living patch has no depth or lies out of range, or if channels
// differ.
py::tuple open_store(std::size_t patch_size, const std::optional<std::size_t>& max_patches,
                     const std::optional<std::size_t>& max_bytes, Eviction policy,
                     std::size_t channels, const std::array<double, 3>& origin, PatchId next_id,
                     Slot next_slot, const std::vector<KeyframeArrays>& keyframes,
                     const Array<Slot>& slots, const Array<PatchId>& first_ids,
                     const Array<std::int64_t>& keyframe, const Array<double>& world_from_camera,
                     const Array<std::uint64_t>& alive, bool evict, int num_threads) {
    std::vector<std::shared_ptr<const Keyframe>> seen;
    auto serials = make_array<std::uint64_t>({static_cast<py::ssize_t>(keyframes.size())});
    for (const auto& [latents, type, depth, confidence, image, subcell_depth, camera, frame_id,
                      provenance] : keyframes) {
        seen.push_back(make_keyframe(latents, type, depth, confidence, image, subcell_depth,
                                     camera[4], {camera[0], camera[1], camera[2], camera[3]},
                                     frame_id, camera[5], provenance));
        serials.mutable_data()[seen.size() - 1] = seen.back()->serial;
    }
    StoreState::Observations observations;
    const std::uint64_t* word = alive.data();
    for (std::size_t i = 0; i < extent(slots, 0); ++i) {
        Affine affine;
        std::memcpy(affine.m.data(), world_from_camera.data() + 12 * i, sizeof affine.m);
        auto observation = std::make_shared<Observation>(
            seen.at(static_cast<std::size_t>(keyframe.data()[i])), affine, patch_size);
        observation->first_id = first_ids.data()[i];
        observation->first_slot = slots.data()[i];
        for (std::uint64_t& bits : observation->alive_bits) {
            if (word == alive.data() + alive.size())
                throw py::value_error("too few words of living patches");
            bits = *word++;
            observation->alive_count += static_cast<std::size_t>(std::popcount(bits));
        }
        observations.push_back(std::move(observation));
    }
    std::unique_ptr<BoundStore> store;
    {
        const py::gil_scoped_release release;
        StoreState state(patch_size, to_limits(max_patches, max_bytes, policy));
        state.start_at(channels, {origin[0], origin[1], origin[2]}, next_id, next_slot);
        state.adopt(std::move(observations), num_threads, true);
        if (evict) state.evict();
        state.take_dropped();
        store = std::make_unique<BoundStore>(std::move(state));
    }
    return py::make_tuple(to_python(std::move(store)), serials);
}

// (latents, depth, confidence, image, subcell_depth)
using Buffers = std::tuple<py::array, Array<float>, std::optional<Array<float>>,
                           std::optional<Array<std::uint8_t>>, std::optional<Array<float>>>;

// The keyframe over other buffers, which have the same content.
std::shared_ptr<const Keyframe> over_buffers(const Keyframe& keyframe, const Buffers& buffers) {
    const auto& [latents, depth, confidence, image, subcell_depth] = buffers;
    Keyframe made = *make_keyframe(latents, keyframe.latent_type, depth, confidence, image,
                                   subcell_depth, keyframe.stride, keyframe.k, keyframe.frame_id,
                                   keyframe.timestamp, keyframe.provenance);
    if (made.nbytes() != keyframe.nbytes() || made.rows != keyframe.rows)
        throw py::value_error("expected buffers of the keyframe's shapes");
    made.serial = keyframe.serial;
    return std::make_shared<const Keyframe>(std::move(made));
}

// Keyframes by serial take other buffers of the same content, in place of those that they have.
// Serials of no keyframe are skipped.
void remap(BoundStore& store, const Array<std::uint64_t>& serials,
           const std::vector<Buffers>& buffers) {
    std::unordered_map<std::uint64_t, std::size_t> wanted;
    for (std::size_t i = 0; i < extent(serials, 0); ++i) wanted.emplace(serials.data()[i], i);
    std::vector<std::shared_ptr<const Keyframe>> found, made;
    {
        const py::gil_scoped_release release;
        store.core.read([&](const StoreState& state) {
            for (const auto& observation : state.observations()) {
                if (wanted.contains(observation->keyframe->serial))
                    found.push_back(observation->keyframe);
            }
            return 0;
        });
    }
    for (const auto& keyframe : found) {
        const auto which = wanted.extract(keyframe->serial);
        if (which) made.push_back(over_buffers(*keyframe, buffers.at(which.mapped())));
    }
    const py::gil_scoped_release release;
    store.core.remap(made);
    found.clear();
}

}  // namespace

void bind_store_files(py::module_& m, BoundStoreClass& store) {
    store.def("export_observations", &export_observations);
    store.def("remap", &remap, py::arg("serials").noconvert(), py::arg("buffers"));
    m.def("open_store", &open_store, py::arg("patch_size"), py::arg("max_patches"),
          py::arg("max_bytes"), py::arg("policy"), py::arg("channels"), py::arg("origin"),
          py::arg("next_id"), py::arg("next_slot"), py::arg("keyframes"),
          py::arg("slots").noconvert(), py::arg("first_ids").noconvert(),
          py::arg("keyframe").noconvert(), py::arg("world_from_camera").noconvert(),
          py::arg("alive").noconvert(), py::arg("evict"), py::arg("num_threads") = 0);
}

}  // namespace mosaicmem::bindings
