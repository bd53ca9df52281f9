// Whole keyframes: choosing them, and composing canvases from them or from patches.

#include "cpp/bindings/store.hpp"

namespace mosaicmem::bindings {
namespace {

// camera: fx, fy, cx, cy, width, height, near, far; camera_from_world (n, 4, 4); times (n).
std::unique_ptr<Targets> to_targets(const std::array<double, 8>& camera,
                                    const Array<double>& camera_from_world,
                                    const Array<double>& times, std::size_t rows,
                                    std::size_t columns, double stride) {
    auto targets = std::make_unique<Targets>();
    for (const View& view : to_views(camera, camera_from_world)) {
        const double time = times.data()[targets->grids.size()];
        targets->grids.push_back({view, rows, columns, stride, time});
    }
    return targets;
}

template <class Id>
std::vector<std::vector<Id>> to_lists(const std::vector<Array<Id>>& arrays) {
    std::vector<std::vector<Id>> lists;
    for (const Array<Id>& array : arrays)
        lists.emplace_back(array.data(), array.data() + array.size());
    return lists;
}

py::dict keyframe_arrays(const std::vector<std::shared_ptr<const Observation>>& keyframes) {
    const auto n = static_cast<py::ssize_t>(keyframes.size());
    auto observation = make_array<Slot>({n});
    auto frame_id = make_array<std::int64_t>({n});
    auto timestamp = make_array<double>({n});
    auto pose = make_array<double>({n, 3, 4});
    auto intrinsics = make_array<double>({n, 4});
    auto generated = make_array<bool>({n});
    for (std::size_t i = 0; i < keyframes.size(); ++i) {
        const Observation& from = *keyframes[i];
        observation.mutable_data()[i] = from.first_slot;
        frame_id.mutable_data()[i] = from.keyframe->frame_id;
        timestamp.mutable_data()[i] = from.keyframe->timestamp;
        generated.mutable_data()[i] = from.keyframe->provenance == Provenance::generated;
        std::memcpy(pose.mutable_data() + 12 * i, from.world_from_camera.m.data(), sizeof(Affine));
        std::memcpy(intrinsics.mutable_data() + 4 * i, &from.keyframe->k, sizeof(Intrinsics));
    }
    py::dict result;
    result["observation"] = observation;
    result["frame_id"] = frame_id;
    result["timestamp"] = timestamp;
    result["world_from_camera"] = pose;
    result["intrinsics"] = intrinsics;
    result["generated"] = generated;
    return result;
}

py::dict mosaic_arrays(ComposedMosaic&& mosaic, const Targets& targets) {
    const auto t = static_cast<py::ssize_t>(targets.grids.size()),
               r = static_cast<py::ssize_t>(targets.grids.at(0).rows),
               c = static_cast<py::ssize_t>(targets.grids.at(0).columns);
    auto coverage = make_array<bool>({t, r, c});
    std::memcpy(coverage.mutable_data(), mosaic.coverage.data(), mosaic.coverage.size());
    py::dict result;
    result["keyframes"] = keyframe_arrays(mosaic.keyframes);
    result["latents"] = take_vector(std::move(mosaic.latents),
                                    {t, r, c, static_cast<py::ssize_t>(mosaic.channels)});
    result["coverage"] = coverage;
    result["depth"] = take_vector(std::move(mosaic.depth), {t, r, c});
    result["source"] = take_vector(std::move(mosaic.source), {t, r, c});
    result["weight"] = take_vector(std::move(mosaic.weight), {t, r, c});
    return result;
}

std::vector<Array<Slot>> to_arrays(const std::vector<std::vector<Slot>>& lists) {
    std::vector<Array<Slot>> arrays;
    for (const std::vector<Slot>& list : lists)
        arrays.emplace_back(static_cast<py::ssize_t>(list.size()), list.data());
    return arrays;
}

}  // namespace

void bind_store_keyframes(py::module_& m, BoundStoreClass& store) {
    py::enum_<Direction>(m, "Direction")
        .value("forward", Direction::forward)
        .value("backward", Direction::backward);
    py::class_<ViewWeightScales> scales(m, "ViewWeightScales", checked_new());
    def_init(scales, &make_new<ViewWeightScales, double, double, double, double>,
             py::arg("viewing_angle"), py::arg("field_angle"), py::arg("half_life"),
             py::arg("generated_weight"));
    py::class_<KeyframeParams> params(m, "KeyframeParams", checked_new());
    def_init(params, &make_new<KeyframeParams, std::size_t, std::size_t, double, ViewWeightScales>,
             py::arg("per_view"), py::arg("per_window"), py::arg("depth_tolerance"),
             py::arg("scales"));
    py::class_<BlendOptions> options(m, "BlendOptions", checked_new());
    def_init(options, &make_new<BlendOptions, Direction, float, ViewWeightScales>,
             py::arg("direction"), py::arg("depth_tolerance"), py::arg("scales"));
    py::class_<Targets> targets(m, "TargetGrids", checked_new());
    def_init(targets, &to_targets, py::arg("camera"), py::arg("camera_from_world").noconvert(),
             py::arg("times").noconvert(), py::arg("rows"), py::arg("columns"), py::arg("stride"));
    targets.def_property_readonly("count", [](const Targets& self) { return self.grids.size(); })
        .def_property_readonly("rows", [](const Targets& self) { return self.grids.at(0).rows; })
        .def_property_readonly("columns",
                               [](const Targets& self) { return self.grids.at(0).columns; });

    store
        .def(
            "select_keyframes",
            [](const BoundStore& self, const Targets& targets, const KeyframeParams& params,
               int num_threads) {
                std::vector<std::vector<Slot>> picks;
                {
                    const py::gil_scoped_release release;
                    picks = self.core.read([&](const StoreState& state) {
                        return state.select_keyframes(targets.grids, params, num_threads);
                    });
                }
                return to_arrays(picks);
            },
            py::arg("targets"), py::arg("params"), py::arg("num_threads") = 0)
        .def(
            "keyframe_candidates",
            [](const BoundStore& self, const Targets& targets, const KeyframeParams& params,
               int num_threads) {
                std::vector<Slot> slots;
                {
                    const py::gil_scoped_release release;
                    slots = self.core.read([&](const StoreState& state) {
                        return state.keyframe_candidates(targets.grids, params, num_threads);
                    });
                }
                const auto n = static_cast<py::ssize_t>(slots.size());
                return take_vector(std::move(slots), {n});
            },
            py::arg("targets"), py::arg("params"), py::arg("num_threads") = 0)
        .def(
            "compose",
            [](const BoundStore& self, const Targets& targets,
               const std::vector<Array<Slot>>& sources, bool are_patches,
               const BlendOptions& options, int num_threads) {
                const std::vector<std::vector<Slot>> lists = to_lists(sources);
                ComposedMosaic mosaic;
                {
                    const py::gil_scoped_release release;
                    mosaic = self.core.read([&](const StoreState& state) {
                        return are_patches ? state.compose_patches(targets.grids, lists, options,
                                                                   num_threads)
                                           : state.compose_keyframes(targets.grids, lists, options,
                                                                     num_threads);
                    });
                }
                return mosaic_arrays(std::move(mosaic), targets);
            },
            py::arg("targets"), py::arg("sources"), py::arg("are_patches"), py::arg("options"),
            py::arg("num_threads") = 0)
        .def(
            "choose_and_compose",
            [](const BoundStore& self, const Targets& targets, const KeyframeParams& params,
               const BlendOptions& options, int num_threads) {
                std::vector<std::vector<Slot>> picks;
                ComposedMosaic mosaic;
                {
                    const py::gil_scoped_release release;
                    self.core.read([&](const StoreState& state) {
                        picks = state.select_keyframes(targets.grids, params, num_threads);
                        mosaic =
                            state.compose_keyframes(targets.grids, picks, options, num_threads);
                        return 0;
                    });
                }
                return py::make_tuple(to_arrays(picks), mosaic_arrays(std::move(mosaic), targets));
            },
            py::arg("targets"), py::arg("params"), py::arg("options"), py::arg("num_threads") = 0);
}

}  // namespace mosaicmem::bindings
