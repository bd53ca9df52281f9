#include "cpp/bindings/store.hpp"
#include "cuda/bindings/mirror.hpp"
#include "cuda/memory/blend.hpp"
#include "cuda/memory/keyframe_selection.hpp"

namespace mosaicmem::bindings {
namespace {

// Targets as the kernels take them, for device memory.
py::bytes pack(const std::vector<TargetGrid>& grids) {
    return {reinterpret_cast<const char*>(grids.data()), grids.size() * sizeof(TargetGrid)};
}

py::bytes pack_targets(const Targets& targets) { return pack(targets.grids); }

// (projected, next, head, reach, front, surface, closed)
using BlendScratch = std::array<DeviceArray, 7>;
// (latents, coverage, depth, source, weight)
using Blended = std::array<DeviceArray, 5>;

void blend(const MirrorTables& tables, const DeviceArray& targets, const DeviceArray& picks,
           const BlendOptions& options, const BlendScratch& scratch, const Blended& blended,
           const Execution& execution) {
    cuda::blend(
        tables.mirror(), targets.as<TargetGrid>(), blended[0].extent(0), blended[0].extent(1),
        blended[0].extent(2), picks.as<std::int32_t>(), picks.extent(1), options,
        {scratch[0].as<float>(), scratch[1].as<std::int32_t>(), scratch[2].as<std::int32_t>(),
         scratch[3].as<std::int32_t>(), scratch[4].as<unsigned>(), scratch[5].as<float>(),
         scratch[6].as<float>(), scratch[1].extent(2)},
        {blended[0].as<float>(), blended[1].as<std::uint8_t>(), blended[2].as<float>(),
         blended[3].as<std::int32_t>(), blended[4].as<float>()},
        execution);
}

// Of a window, as it is looked at: packed targets, and their rows and columns.
py::tuple pack_coarse_grid(const Targets& targets) {
    std::vector<TargetGrid> coarse;
    for (const TargetGrid& target : targets.grids) coarse.push_back(on_coarse_grid(target));
    return py::make_tuple(pack(coarse), coarse.at(0).rows, coarse.at(0).columns);
}

// (nearest, worth, best, gains, shared)
using SelectionScratch = std::array<DeviceArray, 5>;

void select_keyframes(const MirrorTables& tables, const DeviceArray& targets,
                      std::pair<std::size_t, std::size_t> size, const DeviceArray& candidates,
                      const KeyframeParams& params, const SelectionScratch& scratch,
                      const DeviceArray& picks, const Execution& execution) {
    cuda::select_keyframes(
        tables.mirror(), targets.as<TargetGrid>(), picks.extent(0), size.first, size.second,
        candidates.as<std::int32_t>(), candidates.extent(0), scratch[4].extent(0), picks.extent(1),
        static_cast<float>(params.depth_tolerance), scales_of_choice(params.scales),
        {scratch[0].as<unsigned long long>(), scratch[1].as<float>(), scratch[2].as<float>(),
         scratch[3].as<float>(), scratch[4].as<std::int32_t>()},
        picks.as<std::int32_t>(), execution);
}

}  // namespace

void bind_cuda_keyframes(py::module_& m) {
    m.attr("most_canvas_channels") = cuda::kMostChannels;
    m.def("pack_targets", &pack_targets, py::arg("targets"));
    m.def("pack_coarse_grid", &pack_coarse_grid, py::arg("targets"));
    m.def("select_keyframes", &select_keyframes, py::arg("tables"), py::arg("targets"),
          py::arg("size"), py::arg("candidates"), py::arg("params"), py::arg("scratch"),
          py::arg("picks"), py::arg("execution"));
    m.def("blend", &blend, py::arg("tables"), py::arg("targets"), py::arg("picks"),
          py::arg("options"), py::arg("scratch"), py::arg("blended"), py::arg("execution"));
}

}  // namespace mosaicmem::bindings
