#include <atomic>
#include <cmath>
#include <limits>
#include <new>
#include <span>

#include "cpp/bindings/store.hpp"
#include "cpp/memory/neighbours.hpp"
#include "cpp/memory/projected_tokens.hpp"

namespace mosaicmem::bindings {
namespace {

template <class T>
Array<T> copy_field(std::size_t n, const auto& get) {
    auto array = make_array<T>({static_cast<py::ssize_t>(n)});
    T* out = array.mutable_data();
    for (std::size_t i = 0; i < n; ++i) out[i] = get(i);
    return array;
}

py::dict info_arrays(const std::vector<PatchInfo>& infos) {
    const std::size_t n = infos.size();
    py::dict result;
    result["observation"] =
        copy_field<PatchId>(n, [&](std::size_t i) { return infos[i].observation; });
    result["frame_id"] =
        copy_field<std::int64_t>(n, [&](std::size_t i) { return infos[i].frame_id; });
    result["timestamp"] = copy_field<double>(n, [&](std::size_t i) { return infos[i].timestamp; });
    result["generated"] = copy_field<bool>(
        n, [&](std::size_t i) { return infos[i].provenance == Provenance::generated; });
    result["row"] = copy_field<std::int64_t>(n, [&](std::size_t i) { return infos[i].row; });
    result["column"] = copy_field<std::int64_t>(n, [&](std::size_t i) { return infos[i].column; });
    auto centres = make_array<double>({static_cast<py::ssize_t>(n), 3});
    auto poses = make_array<double>({static_cast<py::ssize_t>(n), 3, 4});
    auto intrinsics = make_array<double>({static_cast<py::ssize_t>(n), 4});
    for (std::size_t i = 0; i < n; ++i) {
        std::memcpy(centres.mutable_data() + 3 * i, &infos[i].centre, sizeof(Vec3));
        std::memcpy(poses.mutable_data() + 12 * i, infos[i].world_from_camera.m.data(),
                    sizeof(Affine));
        std::memcpy(intrinsics.mutable_data() + 4 * i, &infos[i].k, sizeof(Intrinsics));
    }
    result["centre"] = centres;
    result["world_from_camera"] = poses;
    result["intrinsics"] = intrinsics;
    return result;
}

py::dict token_arrays(ProjectedTokens&& tokens) {
    const auto n = static_cast<py::ssize_t>(tokens.patch.size());
    py::dict result;
    result["latents"] =
        take_vector(std::move(tokens.latents), {n, static_cast<py::ssize_t>(tokens.channels)});
    result["projected"] = take_vector(std::move(tokens.projected), {n, 3});
    result["confidence"] = take_vector(std::move(tokens.confidence), {n});
    result["patch"] = take_vector(std::move(tokens.patch), {n});
    result["source_row"] = take_vector(std::move(tokens.source_row), {n});
    result["source_column"] = take_vector(std::move(tokens.source_column), {n});
    return result;
}

std::unique_ptr<BoundStore> new_store(std::size_t patch_size,
                                      const std::optional<std::size_t>& max_patches,
                                      const std::optional<std::size_t>& max_bytes,
                                      Eviction policy) {
    return std::make_unique<BoundStore>(
        StoreState(patch_size, to_limits(max_patches, max_bytes, policy)));
}

PatchId insert(BoundStore& store, const py::array& latents, LatentType latent_type,
               const Array<float>& depth, const std::optional<Array<float>>& confidence,
               const std::optional<Array<std::uint8_t>>& image,
               const std::optional<Array<float>>& subcell_depth, double stride,
               const std::array<double, 4>& k, const Array<double>& world_from_camera,
               double timestamp, Provenance provenance, std::int64_t frame_id, int num_threads) {
    auto keyframe = make_keyframe(latents, latent_type, depth, confidence, image, subcell_depth,
                                  stride, to_intrinsics(k), frame_id, timestamp, provenance);
    const Affine affine = to_affine(world_from_camera);
    const py::gil_scoped_release release;
    return store.core.insert(std::move(keyframe), affine, num_threads);
}

py::dict project_tokens(const BoundStore& store, const Array<PatchId>& ids,
                        const std::array<double, 8>& camera,
                        const Array<double>& camera_from_world) {
    const View view = to_view(camera, camera_from_world);
    ProjectedTokens tokens;
    {
        const py::gil_scoped_release release;
        tokens = store.core.read([&](const StoreState& state) {
            return mosaicmem::project_tokens(state, id_span(ids), view);
        });
    }
    return token_arrays(std::move(tokens));
}

// queries (n, 3) -> distances and ids (n, min(k, living patches)).
py::tuple nearest(const BoundStore& store, const Array<double>& queries, std::size_t k,
                  int num_threads) {
    const std::size_t n = extent(queries, 0);
    std::vector<std::vector<Neighbour>> found;
    {
        const py::gil_scoped_release release;
        found = store.core.read([&](const StoreState& state) {
            return mosaicmem::nearest(state, queries.data(), n, k, num_threads);
        });
    }
    const std::size_t columns = found.empty() ? 0 : found.front().size();
    auto distances = make_array<float>({queries.shape(0), static_cast<py::ssize_t>(columns)});
    auto ids = make_array<PatchId>({queries.shape(0), static_cast<py::ssize_t>(columns)});
    for (std::size_t i = 0; i < n; ++i) {
        for (std::size_t j = 0; j < found[i].size(); ++j) {
            distances.mutable_data()[i * columns + j] = std::sqrt(found[i][j].squared_distance);
            ids.mutable_data()[i * columns + j] = found[i][j].id;
        }
    }
    return py::make_tuple(distances, ids);
}

// queries (n, 3) -> offsets (n + 1) into distances and ids.
py::tuple within(const BoundStore& store, const Array<double>& queries, double radius,
                 int num_threads) {
    const std::size_t n = extent(queries, 0);
    std::vector<std::vector<Neighbour>> found;
    {
        const py::gil_scoped_release release;
        found = store.core.read([&](const StoreState& state) {
            return mosaicmem::within(state, queries.data(), n, radius, num_threads);
        });
    }
    std::vector<std::int64_t> offsets{0};
    std::vector<float> distances;
    std::vector<PatchId> ids;
    for (const std::vector<Neighbour>& neighbours : found) {
        for (const Neighbour& neighbour : neighbours) {
            distances.push_back(std::sqrt(neighbour.squared_distance));
            ids.push_back(neighbour.id);
        }
        offsets.push_back(static_cast<std::int64_t>(ids.size()));
    }
    const auto total = static_cast<py::ssize_t>(ids.size());
    return py::make_tuple(take_vector(std::move(offsets), {static_cast<py::ssize_t>(n + 1)}),
                          take_vector(std::move(distances), {total}),
                          take_vector(std::move(ids), {total}));
}

// Raises a KeyError that names the first id that is not alive.
py::dict describe(const BoundStore& store, const Array<PatchId>& ids) {
    std::vector<PatchInfo> infos;
    std::optional<PatchId> missing;
    {
        const py::gil_scoped_release release;
        missing = store.core.read([&](const StoreState& state) {
            return mosaicmem::describe(state, id_span(ids), infos);
        });
    }
    if (missing) throw py::key_error("patch " + std::to_string(*missing) + " does not live");
    return info_arrays(infos);
}

Array<PatchId> alive_ids(const BoundStore& store) {
    std::vector<PatchId> ids;
    {
        const py::gil_scoped_release release;
        ids = store.core.read([](const StoreState& state) { return state.alive_ids(); });
    }
    const auto n = static_cast<py::ssize_t>(ids.size());
    return take_vector(std::move(ids), {n});
}

// Counts, bytes by kind, and times, all of the same state of the store.
py::dict statistics(const BoundStore& store) {
    std::size_t patches, observations, generated_patches = 0, generated_observations = 0;
    StoreBytes bytes;
    double first = std::numeric_limits<double>::infinity(), last = -first;
    {
        const py::gil_scoped_release release;
        store.core.read([&](const StoreState& state) {
            patches = state.alive_count();
            observations = state.observations().size();
            bytes = state.bytes();
            for (const auto& observation : state.observations()) {
                first = std::min(first, observation->keyframe->timestamp);
                last = std::max(last, observation->keyframe->timestamp);
                if (observation->keyframe->provenance == Provenance::observed) continue;
                generated_patches += observation->alive_count;
                ++generated_observations;
            }
            return 0;
        });
    }
    py::dict result;
    result["patches"] = patches;
    result["keyframes"] = observations;
    result["generated_patches"] = generated_patches;
    result["generated_keyframes"] = generated_observations;
    result["latent_bytes"] = bytes.latents;
    result["depth_bytes"] = bytes.depth;
    result["confidence_bytes"] = bytes.confidence;
    result["image_bytes"] = bytes.images;
    result["index_bytes"] = bytes.index;
    result["bookkeeping_bytes"] = bytes.bookkeeping;
    result["first_time"] = observations ? py::cast(first) : py::none();
    result["last_time"] = observations ? py::cast(last) : py::none();
    return result;
}

template <class T, T (StoreState::*Get)() const>
T get(const BoundStore& store) {
    const py::gil_scoped_release release;
    return store.core.read([](const StoreState& state) { return (state.*Get)(); });
}

std::size_t nbytes(const BoundStore& store) {
    const py::gil_scoped_release release;
    return store.core.read([](const StoreState& state) { return state.bytes().total(); });
}

// Of the observations with these slots: (image or None, its pixels for each pixel of the camera)
// each; None for those that are gone.
py::list images(const BoundStore& store, const Array<Slot>& slots) {
    std::vector<std::shared_ptr<const Keyframe>> keyframes;
    {
        const py::gil_scoped_release release;
        store.core.read([&](const StoreState& state) {
            for (std::size_t i = 0; i < extent(slots, 0); ++i) {
                const std::size_t at = state.at_slot(slots.data()[i]);
                keyframes.push_back(
                    at == StoreState::kNowhere ? nullptr : state.observations()[at]->keyframe);
            }
            return 0;
        });
    }
    py::list found;
    for (const auto& keyframe : keyframes)
        found.append(keyframe ? py::object(py::make_tuple(
                                    image_of(*keyframe),
                                    static_cast<double>(keyframe->image_scale) / keyframe->stride))
                              : py::none());
    return found;
}

// Where the index counts from, world metres.
py::tuple origin(const BoundStore& store) {
    const Vec3 at = store.core.read([](const StoreState& state) { return state.origin(); });
    return py::make_tuple(at.x, at.y, at.z);
}

}  // namespace

py::object image_of(const Keyframe& keyframe) {
    if (!keyframe.image_owner) return py::none();
    return (*static_cast<const py::tuple*>(keyframe.image_owner.get()))[0];
}

std::shared_ptr<const void> keep_alive(py::tuple objects) {
    return {new py::tuple(std::move(objects)), [](const void* kept) {
                const py::gil_scoped_acquire acquire;
                delete static_cast<const py::tuple*>(kept);
            }};
}

std::shared_ptr<const Keyframe> make_keyframe(
    const py::array& latents, LatentType latent_type, const Array<float>& depth,
    const std::optional<Array<float>>& confidence, const std::optional<Array<std::uint8_t>>& image,
    const std::optional<Array<float>>& subcell_depth, double stride, const Intrinsics& k,
    std::int64_t frame_id, double timestamp, Provenance provenance) {
    const py::array cells = py::array::ensure(latents, py::array::c_style | kAligned);
    if (!cells) throw std::bad_alloc();
    // Bytes of three array objects and a tuple, with the allocator's overhead, of one more array,
    // and of an array in a tuple of its own; measured.
    constexpr std::size_t kObjects = 432, kObject = 128, kImage = 256;
    const std::size_t rows = extent(cells, 0);
    return std::make_shared<const Keyframe>(
        Keyframe{cells.data(),
                 latent_type,
                 depth.data(),
                 data_or_null(confidence),
                 rows,
                 extent(cells, 1),
                 extent(cells, 2),
                 stride,
                 k,
                 frame_id,
                 timestamp,
                 provenance,
                 Keyframe::next_serial(),
                 data_or_null(subcell_depth),
                 subcell_depth ? extent(*subcell_depth, 0) / rows : 1,
                 data_or_null(image),
                 image ? extent(*image, 0) / rows : 0,
                 keep_alive(py::make_tuple(cells, depth, confidence, subcell_depth)),
                 kObjects + (subcell_depth ? kObject : 0),
                 image ? keep_alive(py::make_tuple(image)) : nullptr,
                 image ? kImage : 0});
}

Limits to_limits(const std::optional<std::size_t>& max_patches,
                 const std::optional<std::size_t>& max_bytes, Eviction policy) {
    Limits limits;
    limits.max_patches = max_patches.value_or(limits.max_patches);
    limits.max_bytes = max_bytes.value_or(limits.max_bytes);
    limits.policy = policy;
    return limits;
}

void bind_memory(py::module_& m) {
    py::enum_<LatentType>(m, "LatentType")
        .value("float32", LatentType::float32)
        .value("float16", LatentType::float16)
        .value("bfloat16", LatentType::bfloat16);
    py::enum_<Provenance>(m, "Provenance")
        .value("observed", Provenance::observed)
        .value("generated", Provenance::generated);
    py::enum_<Eviction>(m, "Eviction")
        .value("oldest", Eviction::oldest)
        .value("redundant", Eviction::redundant);
    BoundStoreClass store(m, "MemoryStore", checked_new());
    def_init(store, &new_store, py::arg("patch_size"), py::arg("max_patches"), py::arg("max_bytes"),
             py::arg("policy"));
    store
        .def("insert", &insert, py::arg("latents"), py::arg("latent_type"),
             py::arg("depth").noconvert(), py::arg("confidence").noconvert(),
             py::arg("image").noconvert(), py::arg("subcell_depth").noconvert(), py::arg("stride"),
             py::arg("intrinsics"), py::arg("world_from_camera"), py::arg("timestamp"),
             py::arg("provenance"), py::arg("frame_id"), py::arg("num_threads") = 0)
        .def("within", &within, py::arg("queries").noconvert(), py::arg("radius"),
             py::arg("num_threads") = 0)
        .def("project_tokens", &project_tokens, py::arg("ids").noconvert(), py::arg("camera"),
             py::arg("camera_from_world"))
        .def("nearest", &nearest, py::arg("queries").noconvert(), py::arg("k"),
             py::arg("num_threads") = 0)
        .def("describe", &describe, py::arg("ids").noconvert())
        .def("alive_ids", &alive_ids)
        .def("statistics", &statistics)
        .def("images", &images, py::arg("slots").noconvert())
        .def_property_readonly("alive_count", &get<std::size_t, &StoreState::alive_count>)
        .def_property_readonly("channels", &get<std::size_t, &StoreState::channels>)
        .def_property_readonly("next_id", &get<PatchId, &StoreState::next_id>)
        .def_property_readonly("origin", &origin)
        .def_property_readonly("nbytes", &nbytes);
    bind_store_edits(store);
    bind_store_keyframes(m, store);
    bind_store_files(m, store);
    bind_store_retrieval(m, store);
    store.def_property_readonly("revision",
                                [](const BoundStore& self) { return self.core.revision(); });
}

}  // namespace mosaicmem::bindings
