// Whole keyframes: selects them, and composes canvases from them or from patches.

#include <algorithm>
#include <tuple>

#include "cpp/bindings/store.hpp"
#include "cpp/memory/canvas.hpp"
#include "cpp/memory/canvas_colors.hpp"
#include "cpp/memory/keyframe_selection.hpp"

namespace mosaicmem::bindings {
namespace {

// cameras: fx, fy, cx, cy, width, height, near, far, (1, 8) or (n, 8); camera_from_world (n, 4, 4);
// times (n).
std::unique_ptr<Targets> to_targets(const Array<double>& cameras,
                                    const Array<double>& camera_from_world,
                                    const Array<double>& times, std::size_t rows,
                                    std::size_t columns, double stride) {
    auto targets = std::make_unique<Targets>();
    for (const View& view : to_views(cameras, camera_from_world)) {
        const double time = times.data()[targets->grids.size()];
        targets->grids.push_back({view, rows, columns, stride, time});
    }
    return targets;
}

// See CanvasArrays.
using CanvasesOut =
    std::tuple<Out<float>, Out<bool>, Out<float>, Out<std::int32_t>, Out<float>, Out<bool>>;

CanvasArrays to_canvases(CanvasesOut& views) {
    auto& [latents, coverage, depth, source, weight, observed] = views;
    return {extent(latents, 3),
            latents.mutable_data(),
            reinterpret_cast<std::uint8_t*>(coverage.mutable_data()),
            depth.mutable_data(),
            source.mutable_data(),
            weight.mutable_data(),
            reinterpret_cast<std::uint8_t*>(observed.mutable_data())};
}

// Returns the table of picked observations, ascending, and writes positions in it to picks (T, K),
// -1 beyond the last.
Array<Slot> write_picks(const std::vector<std::vector<Slot>>& lists, Out<std::int32_t>& picks) {
    std::vector<Slot> table;
    for (const std::vector<Slot>& list : lists) table.insert(table.end(), list.begin(), list.end());
    std::ranges::sort(table);
    table.erase(std::unique(table.begin(), table.end()), table.end());
    const std::size_t most = extent(picks, 1);
    for (std::size_t t = 0; t < lists.size(); ++t) {
        std::int32_t* const row = picks.mutable_data() + t * most;
        std::fill_n(row, most, -1);
        for (std::size_t k = 0; k < std::min(most, lists[t].size()); ++k)
            row[k] = static_cast<std::int32_t>(std::ranges::lower_bound(table, lists[t][k]) -
                                               table.begin());
    }
    const auto n = static_cast<py::ssize_t>(table.size());
    return take_vector(std::move(table), {n});
}

std::vector<std::vector<Slot>> read_picks(const Array<std::int32_t>& picks,
                                          const Array<Slot>& observations) {
    const std::size_t most = extent(picks, 1);
    std::vector<std::vector<Slot>> lists(extent(picks, 0));
    for (std::size_t t = 0; t < lists.size(); ++t) {
        for (std::size_t k = 0; k < most; ++k) {
            const std::int32_t pick = picks.data()[t * most + k];
            if (pick >= 0) lists[t].push_back(observations.at(pick));
        }
    }
    return lists;
}

Array<Slot> select_keyframes(const BoundStore& store, const Targets& targets,
                             const KeyframeParams& params, Out<std::int32_t> picks,
                             int num_threads) {
    std::vector<std::vector<Slot>> lists;
    {
        const py::gil_scoped_release release;
        lists = store.core.read([&](const StoreState& state) {
            return mosaicmem::select_keyframes(state, targets.grids, params, num_threads);
        });
    }
    return write_picks(lists, picks);
}

using Compose = decltype(&mosaicmem::compose_keyframes);

template <Compose Composed>
py::dict compose(const BoundStore& store, const Targets& targets, const Array<std::int32_t>& picks,
                 const Array<Slot>& observations, const BlendOptions& options, CanvasesOut canvases,
                 int num_threads) {
    const auto lists = read_picks(picks, observations);
    const CanvasArrays out = to_canvases(canvases);
    ObservationTable table;
    {
        const py::gil_scoped_release release;
        table = store.core.read([&](const StoreState& state) {
            return Composed(state, targets.grids, lists, options, out, num_threads);
        });
    }
    return keyframe_arrays(placed(table));
}

// ids (T, K), -1 for none.
py::dict compose_patches(const BoundStore& store, const Targets& targets,
                         const Array<std::int64_t>& ids, const BlendOptions& options,
                         CanvasesOut canvases, int num_threads) {
    const std::size_t most = extent(ids, 1);
    std::vector<std::vector<PatchId>> lists(extent(ids, 0));
    for (std::size_t t = 0; t < lists.size(); ++t) {
        for (std::size_t k = 0; k < most; ++k) {
            const std::int64_t id = ids.data()[t * most + k];
            if (id >= 0) lists[t].push_back(static_cast<PatchId>(id));
        }
    }
    const CanvasArrays out = to_canvases(canvases);
    ObservationTable table;
    {
        const py::gil_scoped_release release;
        table = store.core.read([&](const StoreState& state) {
            return mosaicmem::compose_patches(state, targets.grids, lists, options, out,
                                              num_threads);
        });
    }
    return keyframe_arrays(placed(table));
}

// Both on the same state of the store.
py::tuple select_and_compose(const BoundStore& store, const Targets& targets,
                             const KeyframeParams& params, const BlendOptions& options,
                             Out<std::int32_t> picks, CanvasesOut canvases, int num_threads) {
    const CanvasArrays out = to_canvases(canvases);
    std::vector<std::vector<Slot>> lists;
    ObservationTable table;
    {
        const py::gil_scoped_release release;
        store.core.read([&](const StoreState& state) {
            lists = mosaicmem::select_keyframes(state, targets.grids, params, num_threads);
            table = mosaicmem::compose_keyframes(state, targets.grids, lists, options, out,
                                                 num_threads);
            return 0;
        });
    }
    return py::make_tuple(write_picks(lists, picks), keyframe_arrays(placed(table)));
}

// (image (h, w, 3) or None, its pixels for each pixel of the camera, (fx, fy, cx, cy))
using ColorArrays = std::tuple<std::optional<Array<std::uint8_t>>, double, std::array<double, 4>>;

// depth, source (T, h, w); others (T, h, w, 3); camera_from_world (K, 3, 4); out (T, scale h,
// scale w, 3).
void color_canvases(const Targets& targets, const Array<float>& depth,
                    const Array<std::int32_t>& source, const Array<float>& others,
                    const std::vector<ColorArrays>& images, const Array<double>& camera_from_world,
                    std::size_t scale, Out<float> out, int num_threads) {
    std::vector<ColorSource> sources;
    for (const auto& [image, per_pixel, k] : images) {
        Affine affine;
        std::memcpy(affine.m.data(), camera_from_world.data() + 12 * sources.size(),
                    sizeof affine.m);
        sources.push_back({image ? image->data() : nullptr, image ? extent(*image, 0) : 0,
                           image ? extent(*image, 1) : 0, per_pixel, to_intrinsics(k), affine});
    }
    float* const colors = out.mutable_data();
    const py::gil_scoped_release release;
    for (std::size_t t = 0; t < targets.grids.size(); ++t) {
        const TargetGrid& grid = targets.grids[t];
        const std::size_t first = t * grid.rows * grid.columns;
        color_canvas(grid, depth.data() + first, source.data() + first, others.data() + 3 * first,
                     sources, scale, colors + 3 * scale * scale * first, num_threads);
    }
}

}  // namespace

py::dict keyframe_arrays(const std::vector<PlacedKeyframe>& keyframes) {
    const auto n = static_cast<py::ssize_t>(keyframes.size());
    auto observation = make_array<Slot>({n});
    auto frame_id = make_array<std::int64_t>({n});
    auto timestamp = make_array<double>({n});
    auto pose = make_array<double>({n, 3, 4});
    auto intrinsics = make_array<double>({n, 4});
    auto generated = make_array<bool>({n});
    for (std::size_t i = 0; i < keyframes.size(); ++i) {
        const auto& [keyframe, slot, world_from_camera] = keyframes[i];
        const bool is_there = keyframe != nullptr;
        const Intrinsics k = is_there ? keyframe->k : Intrinsics{};
        observation.mutable_data()[i] = slot;
        frame_id.mutable_data()[i] = is_there ? keyframe->frame_id : 0;
        timestamp.mutable_data()[i] = is_there ? keyframe->timestamp : 0;
        generated.mutable_data()[i] = is_there && keyframe->provenance == Provenance::generated;
        std::memcpy(pose.mutable_data() + 12 * i, world_from_camera.m.data(), sizeof(Affine));
        std::memcpy(intrinsics.mutable_data() + 4 * i, &k, sizeof(Intrinsics));
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

void bind_store_keyframes(py::module_& m, BoundStoreClass& store) {
    py::enum_<Direction>(m, "Direction")
        .value("forward", Direction::forward)
        .value("backward", Direction::backward);
    py::class_<ViewWeightScales> scales(m, "ViewWeightScales", checked_new());
    def_init(scales, &make_new<ViewWeightScales, double, double, double, double>,
             py::arg("viewing_angle"), py::arg("field_angle"), py::arg("half_life"),
             py::arg("generated_weight"));
    py::class_<KeyframeParams> params(m, "KeyframeParams", checked_new());
    def_init(params,
             &make_new<KeyframeParams, std::size_t, std::size_t, double, ViewWeightScales, bool>,
             py::arg("per_view"), py::arg("per_window"), py::arg("depth_tolerance"),
             py::arg("scales"), py::arg("only_images") = false);
    py::class_<BlendOptions> options(m, "BlendOptions", checked_new());
    def_init(options, &make_new<BlendOptions, Direction, float, ViewWeightScales>,
             py::arg("direction"), py::arg("depth_tolerance"), py::arg("scales"));
    m.attr("most_picks") = kCandidates;
    py::class_<Targets> targets(m, "TargetGrids", checked_new());
    def_init(targets, &to_targets, py::arg("cameras").noconvert(),
             py::arg("camera_from_world").noconvert(), py::arg("times").noconvert(),
             py::arg("rows"), py::arg("columns"), py::arg("stride"));
    targets.def_property_readonly("count", [](const Targets& self) { return self.grids.size(); })
        .def_property_readonly("rows", [](const Targets& self) { return self.grids.at(0).rows; })
        .def_property_readonly("columns",
                               [](const Targets& self) { return self.grids.at(0).columns; });

    m.def("color_canvases", &color_canvases, py::arg("targets"), py::arg("depth").noconvert(),
          py::arg("source").noconvert(), py::arg("others").noconvert(), py::arg("images"),
          py::arg("camera_from_world").noconvert(), py::arg("scale"), py::arg("out").noconvert(),
          py::arg("num_threads") = 0);
    store
        .def("select_keyframes", &select_keyframes, py::arg("targets"), py::arg("params"),
             py::arg("picks").noconvert(), py::arg("num_threads"))
        .def("compose", &compose<&compose_keyframes>, py::arg("targets"),
             py::arg("picks").noconvert(), py::arg("observations").noconvert(), py::arg("options"),
             py::arg("canvases").noconvert(), py::arg("num_threads"))
        .def("compose_images", &compose<&compose_images>, py::arg("targets"),
             py::arg("picks").noconvert(), py::arg("observations").noconvert(), py::arg("options"),
             py::arg("canvases").noconvert(), py::arg("num_threads"))
        .def("compose_patches", &compose_patches, py::arg("targets"), py::arg("ids").noconvert(),
             py::arg("options"), py::arg("canvases").noconvert(), py::arg("num_threads"))
        .def("select_and_compose", &select_and_compose, py::arg("targets"), py::arg("params"),
             py::arg("options"), py::arg("picks").noconvert(), py::arg("canvases").noconvert(),
             py::arg("num_threads"));
}

}  // namespace mosaicmem::bindings
