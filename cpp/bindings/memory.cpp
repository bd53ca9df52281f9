#include <cmath>
#include <span>

#include "arrays.hpp"
#include "memory_store.hpp"

namespace mosaicmem::bindings {
namespace {

template <class T>
Array<T> copy_field(std::size_t n, const auto& get) {
    auto array = make_array<T>({static_cast<py::ssize_t>(n)});
    T* out = array.mutable_data();
    for (std::size_t i = 0; i < n; ++i) out[i] = get(i);
    return array;
}

py::dict patch_arrays(const std::vector<RetrievedPatch>& patches) {
    const std::size_t n = patches.size();
    py::dict result;
    result["id"] = copy_field<PatchId>(n, [&](std::size_t i) { return patches[i].id; });
    result["score"] = copy_field<double>(n, [&](std::size_t i) { return patches[i].score; });
    result["u"] = copy_field<double>(n, [&](std::size_t i) { return patches[i].u; });
    result["v"] = copy_field<double>(n, [&](std::size_t i) { return patches[i].v; });
    result["depth"] = copy_field<double>(n, [&](std::size_t i) { return patches[i].depth; });
    return result;
}

py::dict info_arrays(const std::vector<PatchInfo>& infos) {
    const std::size_t n = infos.size();
    py::dict result;
    result["observation"] =
        copy_field<PatchId>(n, [&](std::size_t i) { return infos[i].observation; });
    result["frame_id"] =
        copy_field<std::int64_t>(n, [&](std::size_t i) { return infos[i].frame_id; });
    result["timestamp"] = copy_field<double>(n, [&](std::size_t i) { return infos[i].timestamp; });
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

py::dict token_arrays(LandedTokens&& tokens) {
    const auto n = static_cast<py::ssize_t>(tokens.patch.size());
    py::dict result;
    result["latents"] =
        take_vector(std::move(tokens.latents), {n, static_cast<py::ssize_t>(tokens.channels)});
    result["landing"] = take_vector(std::move(tokens.landing), {n, 3});
    result["confidence"] = take_vector(std::move(tokens.confidence), {n});
    result["patch"] = take_vector(std::move(tokens.patch), {n});
    result["source_row"] = take_vector(std::move(tokens.source_row), {n});
    result["source_column"] = take_vector(std::move(tokens.source_column), {n});
    return result;
}

// Keeps Python objects alive for the core, which lets go of them on any thread, with or without the
// GIL.
std::shared_ptr<const void> keep_alive(py::tuple objects) {
    return {new py::tuple(std::move(objects)), [](const void* kept) {
                const py::gil_scoped_acquire acquire;
                delete static_cast<const py::tuple*>(kept);
            }};
}

class BoundStore {
  public:
    explicit BoundStore(std::size_t patch_size) : store_(patch_size) {}

    PatchId insert(const py::array& latents, LatentType latent_type, const Array<float>& depth,
                   const std::optional<Array<float>>& confidence, double stride,
                   const std::array<double, 4>& k, const Array<double>& world_from_camera,
                   std::int64_t frame_id, double timestamp, int num_threads) {
        const Keyframe keyframe{
            latents.data(),     latent_type,
            depth.data(),       data_or_null(confidence),
            extent(latents, 0), extent(latents, 1),
            extent(latents, 2), stride,
            to_intrinsics(k),   frame_id,
            timestamp,          keep_alive(py::make_tuple(latents, depth, confidence))};
        const Affine affine = to_affine(world_from_camera);
        const py::gil_scoped_release release;
        return store_.insert(keyframe, affine, num_threads);
    }

    std::size_t erase(const Array<PatchId>& ids) {
        const std::span<const PatchId> list(ids.data(), static_cast<std::size_t>(ids.size()));
        const py::gil_scoped_release release;
        return store_.erase(list);
    }

    std::size_t erase_frame(std::int64_t frame_id) {
        const py::gil_scoped_release release;
        return store_.erase_frame(frame_id);
    }

    std::size_t evict_oldest(std::size_t most) {
        const py::gil_scoped_release release;
        return store_.evict_oldest(most);
    }

    py::dict retrieve(const std::array<double, 8>& camera, const Array<double>& camera_from_world,
                      double time, std::size_t top_k, double half_life, double min_visibility,
                      double diversity_radius, double diversity_penalty) const {
        const View view = to_view(camera, camera_from_world);
        const RetrievalParams params{
            top_k, time, half_life, min_visibility, diversity_radius, diversity_penalty};
        std::vector<RetrievedPatch> patches;
        {
            const py::gil_scoped_release release;
            patches = store_.retrieve(view, params);
        }
        return patch_arrays(patches);
    }

    // For each view: (patches as retrieve gives them, their description, their tokens), all of one
    // state of the store. camera_from_world (n, 4, 4), times (n).
    py::list look(const std::array<double, 8>& camera, const Array<double>& camera_from_world,
                  const Array<double>& times, std::size_t top_k, double half_life,
                  double min_visibility, double diversity_radius, double diversity_penalty,
                  int num_threads) const {
        std::vector<View> views;
        std::vector<RetrievalParams> params;
        for (std::size_t i = 0; i < extent(times, 0); ++i) {
            Affine affine;
            std::memcpy(affine.m.data(), camera_from_world.data() + 16 * i, sizeof affine.m);
            views.push_back({{camera[0], camera[1], camera[2], camera[3]},
                             affine,
                             camera[4],
                             camera[5],
                             camera[6],
                             camera[7]});
            params.push_back({top_k, times.data()[i], half_life, min_visibility, diversity_radius,
                              diversity_penalty});
        }
        std::vector<MemoryStore::Sight> sights;
        {
            const py::gil_scoped_release release;
            sights = store_.look(views, params, num_threads);
        }
        py::list result;
        for (MemoryStore::Sight& sight : sights) {
            result.append(py::make_tuple(patch_arrays(sight.patches), info_arrays(sight.infos),
                                         token_arrays(std::move(sight.tokens))));
        }
        return result;
    }

    py::dict land(const Array<PatchId>& ids, const std::array<double, 8>& camera,
                  const Array<double>& camera_from_world) const {
        const View view = to_view(camera, camera_from_world);
        const std::span<const PatchId> list(ids.data(), static_cast<std::size_t>(ids.size()));
        LandedTokens tokens;
        {
            const py::gil_scoped_release release;
            tokens = store_.land(list, view);
        }
        return token_arrays(std::move(tokens));
    }

    // queries (n, 3) -> distances and ids (n, min(k, living patches)).
    py::tuple nearest(const Array<double>& queries, std::size_t k, int num_threads) const {
        const std::size_t n = extent(queries, 0);
        const double* in = queries.data();
        std::vector<std::vector<Neighbour>> found;
        {
            const py::gil_scoped_release release;
            found = store_.nearest(in, n, k, num_threads);
        }
        const std::size_t columns = found.empty() ? 0 : found.front().size();
        auto distances = make_array<float>({queries.shape(0), static_cast<py::ssize_t>(columns)});
        auto ids = make_array<PatchId>({queries.shape(0), static_cast<py::ssize_t>(columns)});
        for (std::size_t i = 0; i < n; ++i) {
            for (std::size_t j = 0; j < columns; ++j) {
                distances.mutable_data()[i * columns + j] = std::sqrt(found[i][j].squared_distance);
                ids.mutable_data()[i * columns + j] = found[i][j].id;
            }
        }
        return py::make_tuple(distances, ids);
    }

    // queries (n, 3) -> offsets (n + 1) into distances and ids.
    py::tuple within(const Array<double>& queries, double radius, int num_threads) const {
        const std::size_t n = extent(queries, 0);
        const double* in = queries.data();
        std::vector<std::vector<Neighbour>> found;
        {
            const py::gil_scoped_release release;
            found = store_.within(in, n, radius, num_threads);
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

    // A KeyError names the first id that is not alive.
    py::dict describe(const Array<PatchId>& ids) const {
        const std::span<const PatchId> list(ids.data(), static_cast<std::size_t>(ids.size()));
        std::vector<PatchInfo> infos;
        std::optional<PatchId> missing;
        {
            const py::gil_scoped_release release;
            missing = store_.describe(list, infos);
        }
        if (missing) throw py::key_error("patch " + std::to_string(*missing) + " does not live");
        return info_arrays(infos);
    }

    Array<PatchId> alive_ids() const {
        std::vector<PatchId> ids;
        {
            const py::gil_scoped_release release;
            ids = store_.alive_ids();
        }
        const auto n = static_cast<py::ssize_t>(ids.size());
        return take_vector(std::move(ids), {n});
    }

    py::object time_range() const {
        double first, last;
        bool any;
        {
            const py::gil_scoped_release release;
            any = store_.time_range(first, last);
        }
        if (!any) return py::none();
        return py::make_tuple(first, last);
    }

    template <std::size_t (MemoryStore::*Count)() const>
    std::size_t count() const {
        const py::gil_scoped_release release;
        return (store_.*Count)();
    }

  private:
    MemoryStore store_;
};

}  // namespace

void bind_memory(py::module_& m) {
    py::enum_<LatentType>(m, "LatentType")
        .value("float32", LatentType::float32)
        .value("float16", LatentType::float16)
        .value("bfloat16", LatentType::bfloat16);
    py::class_<BoundStore>(m, "MemoryStore")
        .def(py::init<std::size_t>(), py::arg("patch_size"))
        .def("insert", &BoundStore::insert, py::arg("latents"), py::arg("latent_type"),
             py::arg("depth").noconvert(), py::arg("confidence").noconvert(), py::arg("stride"),
             py::arg("intrinsics"), py::arg("world_from_camera"), py::arg("frame_id"),
             py::arg("timestamp"), py::arg("num_threads") = 0)
        .def("erase", &BoundStore::erase, py::arg("ids").noconvert())
        .def("erase_frame", &BoundStore::erase_frame, py::arg("frame_id"))
        .def("evict_oldest", &BoundStore::evict_oldest, py::arg("most"))
        .def("retrieve", &BoundStore::retrieve, py::arg("camera"), py::arg("camera_from_world"),
             py::arg("time"), py::arg("top_k"), py::arg("half_life"), py::arg("min_visibility"),
             py::arg("diversity_radius"), py::arg("diversity_penalty"))
        .def("look", &BoundStore::look, py::arg("camera"), py::arg("camera_from_world").noconvert(),
             py::arg("times").noconvert(), py::arg("top_k"), py::arg("half_life"),
             py::arg("min_visibility"), py::arg("diversity_radius"), py::arg("diversity_penalty"),
             py::arg("num_threads") = 0)
        .def("within", &BoundStore::within, py::arg("queries").noconvert(), py::arg("radius"),
             py::arg("num_threads") = 0)
        .def("land", &BoundStore::land, py::arg("ids").noconvert(), py::arg("camera"),
             py::arg("camera_from_world"))
        .def("nearest", &BoundStore::nearest, py::arg("queries").noconvert(), py::arg("k"),
             py::arg("num_threads") = 0)
        .def("describe", &BoundStore::describe, py::arg("ids").noconvert())
        .def("alive_ids", &BoundStore::alive_ids)
        .def("time_range", &BoundStore::time_range)
        .def_property_readonly("alive_count", &BoundStore::count<&MemoryStore::alive_count>)
        .def_property_readonly("observation_count",
                               &BoundStore::count<&MemoryStore::observation_count>)
        .def_property_readonly("index_nbytes", &BoundStore::count<&MemoryStore::index_nbytes>)
        .def_property_readonly("keyframe_nbytes",
                               &BoundStore::count<&MemoryStore::keyframe_nbytes>);
}

}  // namespace mosaicmem::bindings
