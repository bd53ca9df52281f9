#include "cuda/memory/retrieval.hpp"

#include "cuda/bindings/mirror.hpp"

namespace mosaicmem::bindings {
namespace {

using Camera = std::array<double, 8>;  // fx, fy, cx, cy, width, height, near, far

// Views as the kernels take them, for device memory. camera_from_world (n, 4, 4); times (n).
py::bytes pack_views(const MirrorTables& tables, const Camera& camera,
                     const Array<double>& camera_from_world, const Array<double>& times) {
    const Affine world_from_index = tables.mirror().world_from_index;
    std::vector<cuda::RetrievalView> packed;
    for (const View& view : to_views(camera, camera_from_world)) {
        packed.push_back(
            {view, view.camera_from_world * world_from_index, times.data()[packed.size()]});
    }
    return {reinterpret_cast<const char*>(packed.data()), packed.size() * sizeof packed[0]};
}

// (states, candidates, seen, histogram, taken, first_of_bin, next)
using Scratch = std::array<DeviceArray, 7>;
// (ids, scores, pixels, depth, places, count)
using Retrieved = std::array<DeviceArray, 6>;

void retrieve_on_device(const MirrorTables& tables, const DeviceArray& views,
                        const std::array<double, 5>& options, const Scratch& scratch,
                        const Retrieved& retrieved, const Execution& execution) {
    const std::size_t count = retrieved[0].extent(0), top_k = retrieved[0].extent(1);
    const auto [half_life, min_visibility, radius, penalty, generated_weight] = options;
    cuda::retrieve(
        tables.mirror(), views.as<cuda::RetrievalView>(), count,
        {top_k, 0, half_life, min_visibility, radius, penalty, generated_weight},
        {scratch[0].as<cuda::RetrievalState>(), scratch[1].as<cuda::RetrievalCandidate>(),
         scratch[1].extent(1), scratch[2].as<std::uint64_t>(), scratch[2].extent(1),
         scratch[3].as<std::uint32_t>(), scratch[4].as<cuda::RetrievalCandidate>(),
         scratch[5].as<std::int32_t>(), scratch[6].as<std::int32_t>()},
        {retrieved[0].as<std::int64_t>(), retrieved[1].as<double>(), retrieved[2].as<double>(),
         retrieved[3].as<double>(), retrieved[4].as<std::int32_t>(),
         retrieved[5].as<std::int32_t>()},
        execution);
}

// (latents, positions, depth, confidence, valid, coverage, observed)
using Projected = std::array<DeviceArray, 7>;

void project_tokens_on_device(const MirrorTables& tables, const DeviceArray& views,
                              const DeviceArray& places, double stride, double seconds_per_latent,
                              const Projected& projected, const Execution& execution) {
    cuda::project_tokens(
        tables.mirror(), views.as<cuda::RetrievalView>(), places.extent(0), places.extent(1),
        places.as<std::int32_t>(),
        {projected[2].extent(2), projected[0].as<float>(), projected[1].as<float>(),
         projected[2].as<float>(), projected[3].as<float>(), projected[4].as<std::uint8_t>(),
         projected[5].as<std::uint8_t>(), projected[6].as<std::uint8_t>(), projected[5].extent(1),
         projected[5].extent(2), stride, seconds_per_latent},
        execution);
}

}  // namespace

void bind_cuda_retrieval(py::module_& m) {
    m.attr("view_bytes") = sizeof(cuda::RetrievalView);
    m.attr("retrieval_state_bytes") = sizeof(cuda::RetrievalState);
    m.attr("retrieval_rounds_offset") = offsetof(cuda::RetrievalState, rounds);
    m.attr("retrieval_candidate_bytes") = sizeof(cuda::RetrievalCandidate);
    m.attr("score_bins") = cuda::kScoreBins;
    m.attr("taken_bins") = cuda::kTakenBins;
    m.def("pack_views", &pack_views, py::arg("tables"), py::arg("camera"),
          py::arg("camera_from_world").noconvert(), py::arg("times").noconvert());
    m.def("retrieve", &retrieve_on_device, py::arg("tables"), py::arg("views"), py::arg("options"),
          py::arg("scratch"), py::arg("retrieved"), py::arg("execution"));
    m.def("project_tokens", &project_tokens_on_device, py::arg("tables"), py::arg("views"),
          py::arg("places"), py::arg("stride"), py::arg("seconds_per_latent"), py::arg("projected"),
          py::arg("execution"));
}

}  // namespace mosaicmem::bindings
