// Binds a store in device memory, which answers the queries of `MemoryStore` with the same
// parameters. It reads the tables of the last follow(); Python's lock serialises calls.

#include "cuda/memory/device_store.hpp"

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <string>
#include <variant>

#include "cpp/bindings/store.hpp"
#include "cpp/memory/coarse_grid.hpp"
#include "cuda/bindings/device_array.hpp"
#include "cuda/memory/blend.hpp"
#include "cuda/memory/keyframe_selection.hpp"
#include "cuda/memory/retrieval.hpp"

namespace mosaicmem::bindings {
namespace {

// See FoundArrays, TokenArrays and CanvasArrays.
using FoundViews = std::array<DeviceArray, 5>;
using TokenViews = std::array<DeviceArray, 10>;
using CanvasViews = std::array<DeviceArray, 6>;

FoundArrays to_found(const FoundViews& views) {
    const auto& [ids, scores, pixels, depth, count] = views;
    return {ids.extent(1),       ids.as<std::int64_t>(), scores.as<double>(),
            pixels.as<double>(), depth.as<double>(),     count.as<std::int32_t>()};
}

TokenArrays to_tokens(const TokenViews& views, double stride, double seconds_per_latent) {
    const auto& [sources, generated, latents, positions, source_positions, depth, confidence, valid,
                 coverage, observed] = views;
    return {latents.extent(2),
            latents.extent(3),
            sources.as<std::int32_t>(),
            generated.as<std::uint8_t>(),
            latents.as<float>(),
            positions.as<double>(),
            source_positions.as<std::int32_t>(),
            depth.as<float>(),
            confidence.as<float>(),
            valid.as<std::uint8_t>(),
            coverage.as<std::uint8_t>(),
            observed.as<std::uint8_t>(),
            coverage.extent(1),
            coverage.extent(2),
            stride,
            seconds_per_latent};
}

class BoundDeviceStore {
  public:
    BoundDeviceStore(const std::optional<std::size_t>& budget, const cuda::RetrievalRoom& room)
        : store_(budget), room_(room) {}

    void follow(const BoundStore& store, int num_threads, const Execution& execution) {
        store_.follow(store.core, execution);
        host_ = &store.core;
        num_threads_ = num_threads;
    }

    void prefetch(const Array<Slot>& observations, const Execution& execution) {
        store_.prefetch({observations.data(), extent(observations, 0)}, execution);
    }

    // Always has room, so returns true, as the host does on success.
    bool retrieve_window(const Array<double>& cameras, const Array<double>& camera_from_world,
                         const Array<double>& times, std::size_t, const RetrievalWeights& options,
                         const FoundViews& found, const Execution& execution) {
        retrieve(views_of(cameras, camera_from_world, times), options, to_found(found), execution);
        return true;
    }

    py::dict retrieve_tokens(const Array<double>& cameras, const Array<double>& camera_from_world,
                             const Array<double>& times, std::size_t,
                             const RetrievalWeights& options, double stride,
                             double seconds_per_latent, const FoundViews& found,
                             const TokenViews& tokens, const Execution& execution) {
        const TokenArrays out = to_tokens(tokens, stride, seconds_per_latent);
        const auto views = views_of(cameras, camera_from_world, times);
        const FoundArrays patches = to_found(found);
        const cuda::Mirror mirror = mirror_with(out.channels);
        {
            const py::gil_scoped_release release;
            const auto [there, places] = retrieve(views, options, patches, execution);
            cuda::project_tokens(mirror, there, views.size(), patches.top_k, places, out,
                                 execution);
        }
        return table();
    }

    // Returns the table that the picks refer to by position.
    py::object select_keyframes(const Targets& targets, const KeyframeParams& params,
                                const DeviceArray& picks, const Execution& execution) {
        {
            const py::gil_scoped_release release;
            select(targets, params, picks, execution);
        }
        return table()["observation"];
    }

    // picks (T, K): table rows if on the GPU, positions in `observations` if on the host.
    py::dict compose(const Targets& targets,
                     const std::variant<DeviceArray, Array<std::int32_t>>& picks,
                     const Array<Slot>& observations, const BlendOptions& options,
                     const CanvasViews& canvases, const Execution& execution) {
        {
            const py::gil_scoped_release release;
            if (const auto* there = std::get_if<DeviceArray>(&picks)) {
                blend(targets, there->as<std::int32_t>(), there->extent(1), options, canvases,
                      execution);
            } else {
                const auto& positions = std::get<Array<std::int32_t>>(picks);
                std::vector<std::int32_t> rows(positions.data(),
                                               positions.data() + positions.size());
                for (std::int32_t& row : rows)
                    row = row < 0 ? -1 : store_.row_of(observations.data()[row]);
                blend(targets, on_device(rows, execution), extent(positions, 1), options, canvases,
                      execution);
            }
        }
        return table();
    }

    py::tuple select_and_compose(const Targets& targets, const KeyframeParams& params,
                                 const BlendOptions& options, const DeviceArray& picks,
                                 const CanvasViews& canvases, const Execution& execution) {
        {
            const py::gil_scoped_release release;
            select(targets, params, picks, execution);
            blend(targets, picks.as<std::int32_t>(), picks.extent(1), options, canvases, execution);
        }
        return py::make_tuple(table()["observation"], table());
    }

    const cuda::DeviceStore& store() const { return store_; }

  private:
    using Views = std::vector<cuda::RetrievalView>;

    // The keyframe of each row; zero for free rows.
    const py::dict& table() {
        if (table_version_ != store_.version()) {
            std::vector<PlacedKeyframe> rows;
            for (const cuda::DeviceStore::Row& row : store_.rows())
                rows.push_back({row.keyframe.get(), row.first_slot, row.world_from_camera});
            table_ = keyframe_arrays(rows);
            for (const auto& column : table_)  // results share them
                column.second.attr("setflags")(py::arg("write") = false);
            table_version_ = store_.version();
        }
        return table_;
    }

    void select(const Targets& targets, const KeyframeParams& params, const DeviceArray& picks,
                const Execution& execution) {
        std::vector<TargetGrid> coarse;
        for (const TargetGrid& target : targets.grids) coarse.push_back(on_coarse_grid(target));
        const std::size_t rows = coarse.at(0).rows, columns = coarse.at(0).columns,
                          cells = rows * columns;
        if (cells > cuda::kMostCoarseCells) {
            throw std::invalid_argument(
                "targets: expected a grid less thin, got one that is looked at in " +
                std::to_string(rows) + "x" + std::to_string(columns) + " cells");
        }
        // Candidates come from the index on the host.
        const std::vector<Slot> slots = host_->read([&](const StoreState& state) {
            return mosaicmem::keyframe_candidates(state, targets.grids, params, num_threads_);
        });
        std::vector<std::int32_t> candidates;
        for (const Slot slot : slots) {
            if (const std::int32_t row = store_.row_of(slot); row >= 0) candidates.push_back(row);
        }
        const std::size_t views = coarse.size(), count = candidates.size();
        const std::size_t per_window = std::min(params.per_window, count);
        void* const workspace = execution.scratch(
            cuda::select_keyframes_workspace_bytes(views, cells, count, per_window));
        cuda::select_keyframes(store_.mirror(), on_device(coarse, execution), views, cells,
                               on_device(candidates, execution), count, per_window, picks.extent(1),
                               static_cast<float>(params.depth_tolerance),
                               scales_of_choice(params.scales), picks.as<std::int32_t>(), workspace,
                               execution);
    }

    Views views_of(const Array<double>& cameras, const Array<double>& camera_from_world,
                   const Array<double>& times) const {
        const Affine world_from_index = store_.mirror().world_from_index;
        Views views;
        for (const View& view : to_views(cameras, camera_from_world)) {
            views.push_back(
                {view, view.camera_from_world * world_from_index, times.data()[views.size()]});
        }
        return views;
    }

    // Returns the views and the places of the patches found, both on the GPU.
    std::pair<const cuda::RetrievalView*, const std::int32_t*> retrieve(
        const Views& views, const RetrievalWeights& options, const FoundArrays& found,
        const Execution& execution) {
        const std::size_t count = views.size(), top_k = found.top_k;
        const cuda::RetrievalView* const there = on_device(views, execution);
        auto* const places =
            static_cast<std::int32_t*>(execution.scratch(2 * count * top_k * sizeof(std::int32_t)));
        void* const workspace =
            execution.scratch(cuda::retrieve_workspace_bytes(count, top_k, room_));
        cuda::retrieve(store_.mirror(), there, count, to_retrieval_params(options, top_k), room_,
                       found, places, workspace, execution);
        return {there, places};
    }

    void blend(const Targets& targets, const std::int32_t* picks, std::size_t count,
               const BlendOptions& options, const CanvasViews& canvases,
               const Execution& execution) {
        const auto& [latents, coverage, depth, source, weight, observed] = canvases;
        const std::size_t views = targets.grids.size(), rows = targets.grids.at(0).rows,
                          columns = targets.grids.at(0).columns, room = store_.most_parts();
        if (latents.extent(3) > cuda::kMostChannels) {
            throw std::invalid_argument(
                "latents: expected at most " + std::to_string(cuda::kMostChannels) +
                " channels on a GPU, got " + std::to_string(latents.extent(3)));
        }
        void* const workspace =
            execution.scratch(cuda::blend_workspace_bytes(views, rows * columns, count, room));
        cuda::blend(
            mirror_with(latents.extent(3)), on_device(targets.grids, execution), views, rows,
            columns, picks, count, room, options,
            {latents.extent(3), latents.as<float>(), coverage.as<std::uint8_t>(), depth.as<float>(),
             source.as<std::int32_t>(), weight.as<float>(), observed.as<std::uint8_t>()},
            workspace, execution);
    }

    // The tables, for results of `channels` channels. An empty store accepts any number.
    cuda::Mirror mirror_with(std::size_t channels) const {
        cuda::Mirror mirror = store_.mirror();
        if (store_.most_parts() > 0 && mirror.channels != channels)
            throw std::runtime_error("the store has other channels than when it was asked");
        mirror.channels = channels;
        return mirror;
    }

    template <class T>
    const T* on_device(const std::vector<T>& values, const Execution& execution) {
        return static_cast<const T*>(
            store_.put(values.data(), values.size() * sizeof(T), execution));
    }

    cuda::DeviceStore store_;
    cuda::RetrievalRoom room_;
    const MemoryStore* host_ = nullptr;  // of the last follow(), as is the next
    int num_threads_ = 0;                // for queries on the host
    py::dict table_;
    std::uint64_t table_version_ = std::numeric_limits<std::uint64_t>::max();
};

std::unique_ptr<BoundDeviceStore> new_device_store(
    const std::optional<std::size_t>& budget,
    const std::tuple<std::size_t, std::size_t, std::size_t>& room) {
    const auto [fewest, most, seen] = room;
    return std::make_unique<BoundDeviceStore>(budget, cuda::RetrievalRoom{fewest, most, seen});
}

// A copy in pinned memory, which the returned array owns.
py::array pinned_copy(const py::array& array) {
    auto memory = std::make_unique<cuda::PinnedMemory>(static_cast<std::size_t>(array.nbytes()));
    std::memcpy(memory->data(), array.data(), memory->size());
    void* const data = memory->data();
    const py::capsule owner(memory.get(),
                            [](void* p) { delete static_cast<cuda::PinnedMemory*>(p); });
    memory.release();
    return py::array(array.dtype(), {array.shape(), array.shape() + array.ndim()}, data, owner);
}

}  // namespace

void bind_cuda_device_store(py::module_& m) {
    using Self = BoundDeviceStore;
    using Released = py::call_guard<py::gil_scoped_release>;
    constexpr cuda::RetrievalRoom kRoom;
    m.attr("retrieval_room") = py::make_tuple(kRoom.fewest, kRoom.most, kRoom.seen);
    m.attr("most_top_k") = cuda::kMostTopK;
    m.def("pinned_copy", &pinned_copy, py::arg("array"));
    py::class_<Self> store(m, "DeviceStore", checked_new());
    def_init(store, &new_device_store, py::arg("budget"), py::arg("room"));
    store
        .def("follow", &Self::follow, py::arg("store"), py::arg("num_threads"),
             py::arg("execution"), Released())
        .def("prefetch", &Self::prefetch, py::arg("observations").noconvert(), py::arg("execution"),
             Released())
        .def("retrieve_window", &Self::retrieve_window, py::arg("cameras").noconvert(),
             py::arg("camera_from_world").noconvert(), py::arg("times").noconvert(),
             py::arg("top_k"), py::arg("options"), py::arg("found"), py::arg("execution"),
             Released())
        .def("retrieve_tokens", &Self::retrieve_tokens, py::arg("cameras").noconvert(),
             py::arg("camera_from_world").noconvert(), py::arg("times").noconvert(),
             py::arg("top_k"), py::arg("options"), py::arg("stride"), py::arg("seconds_per_latent"),
             py::arg("found"), py::arg("tokens"), py::arg("execution"))
        .def("select_keyframes", &Self::select_keyframes, py::arg("targets"), py::arg("params"),
             py::arg("picks"), py::arg("execution"))
        .def("compose", &Self::compose, py::arg("targets"), py::arg("picks").noconvert(),
             py::arg("observations").noconvert(), py::arg("options"), py::arg("canvases"),
             py::arg("execution"))
        .def("select_and_compose", &Self::select_and_compose, py::arg("targets"), py::arg("params"),
             py::arg("options"), py::arg("picks"), py::arg("canvases"), py::arg("execution"))
        .def(
            "is_resident",
            [](const Self& self, Slot slot) { return self.store().is_resident(slot); },
            py::arg("observation"))
        .def_property_readonly("channels", [](const Self& self) { return self.store().channels(); })
        .def_property_readonly("version", [](const Self& self) { return self.store().version(); })
        .def_property_readonly("latent_bytes",
                               [](const Self& self) { return self.store().latent_bytes(); })
        .def_property_readonly("used_chunks",
                               [](const Self& self) { return self.store().used_chunks(); });
#ifdef MOSAICMEM_EMULATE_CUDA  // for tests
    m.attr("retrieval_state_bytes") = sizeof(cuda::RetrievalState);
    m.attr("retrieval_rounds_offset") = offsetof(cuda::RetrievalState, rounds);
#endif
}

}  // namespace mosaicmem::bindings
