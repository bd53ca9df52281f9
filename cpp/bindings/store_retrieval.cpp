// Patches and tokens for the views of a window, written into the caller's arrays.

#include "cpp/base/parallel.hpp"
#include "cpp/bindings/store.hpp"
#include "cpp/memory/retrieval.hpp"
#include "cpp/memory/retrieved_tokens.hpp"

namespace mosaicmem::bindings {
namespace {

// See FoundArrays and TokenArrays.
using FoundOut =
    std::tuple<Out<std::int64_t>, Out<double>, Out<double>, Out<double>, Out<std::int32_t>>;
using TokensOut =
    std::tuple<Out<std::int32_t>, Out<bool>, Out<float>, Out<double>, Out<std::int32_t>, Out<float>,
               Out<float>, Out<bool>, Out<bool>, Out<bool>>;

FoundArrays to_found(FoundOut& views) {
    auto& [ids, scores, pixels, depth, count] = views;
    return {extent(ids, 1),        ids.mutable_data(),   scores.mutable_data(),
            pixels.mutable_data(), depth.mutable_data(), count.mutable_data()};
}

std::uint8_t* bytes_of(Out<bool>& array) {
    return reinterpret_cast<std::uint8_t*>(array.mutable_data());
}

TokenArrays to_tokens(TokensOut& views, double stride, double seconds_per_latent) {
    auto& [sources, generated, latents, positions, source_positions, depth, confidence, valid,
           coverage, observed] = views;
    return {extent(latents, 2),
            extent(latents, 3),
            sources.mutable_data(),
            bytes_of(generated),
            latents.mutable_data(),
            positions.mutable_data(),
            source_positions.mutable_data(),
            depth.mutable_data(),
            confidence.mutable_data(),
            bytes_of(valid),
            bytes_of(coverage),
            bytes_of(observed),
            extent(coverage, 1),
            extent(coverage, 2),
            stride,
            seconds_per_latent};
}

std::vector<RetrievalParams> to_params(const Array<double>& times, const RetrievalWeights& options,
                                       std::size_t top_k) {
    std::vector<RetrievalParams> params;
    for (std::size_t i = 0; i < extent(times, 0); ++i) {
        params.push_back(to_retrieval_params(options, top_k));
        params.back().time = times.data()[i];
    }
    return params;
}

bool retrieve_views(const BoundStore& store, const Array<double>& cameras,
                    const Array<double>& camera_from_world, const Array<double>& times,
                    std::size_t top_k, const RetrievalWeights& options, FoundOut found,
                    int num_threads) {
    const std::vector<View> views = to_views(cameras, camera_from_world);
    const FoundArrays out = to_found(found);
    const auto params = to_params(times, options, top_k);
    const py::gil_scoped_release release;
    return store.core.read([&](const StoreState& state) {
        return retrieve_window(state, views, params, out, num_threads);
    });
}

std::optional<py::dict> retrieve_tokens_of_views(
    const BoundStore& store, const Array<double>& cameras, const Array<double>& camera_from_world,
    const Array<double>& times, std::size_t top_k, const RetrievalWeights& options, double stride,
    double seconds_per_latent, FoundOut found, TokensOut tokens, int num_threads) {
    const std::vector<View> views = to_views(cameras, camera_from_world);
    const FoundArrays out = to_found(found);
    const TokenArrays tokens_out = to_tokens(tokens, stride, seconds_per_latent);
    const auto params = to_params(times, options, top_k);
    std::optional<ObservationTable> table;
    {
        const py::gil_scoped_release release;
        table = store.core.read([&](const StoreState& state) {
            return retrieve_tokens(state, views, params, out, tokens_out, num_threads);
        });
    }
    if (!table) return std::nullopt;
    return keyframe_arrays(placed(*table));
}

// (T,): see least_taken().
py::array least_taken_of_views(const BoundStore& store, const Array<double>& cameras,
                               const Array<double>& camera_from_world, const Array<double>& times,
                               std::size_t top_k, const RetrievalWeights& options,
                               int num_threads) {
    const std::vector<View> views = to_views(cameras, camera_from_world);
    const auto params = to_params(times, options, top_k);
    auto out = make_array<double>({static_cast<py::ssize_t>(views.size())});
    double* least = out.mutable_data();
    const py::gil_scoped_release release;
    store.core.read([&](const StoreState& state) {
        parallel_for(views.size(), 1, num_threads, [&](std::size_t begin, std::size_t end) {
            for (std::size_t t = begin; t < end; ++t)
                least[t] = least_taken(state, views[t], params[t]);
        });
        return 0;
    });
    return out;
}

// (T, n): upper bounds of the scores of patches in boxes (n, 2, 3), world metres, in each of T
// views; -1 where no point of a box is in the frustum.
py::array score_bounds(const Array<double>& boxes, const Array<double>& newest_times,
                       const Array<double>& cameras, const Array<double>& camera_from_world,
                       const Array<double>& times, const RetrievalWeights& options) {
    struct WorldBox {
        double low[3], high[3];
    };
    const std::vector<View> views = to_views(cameras, camera_from_world);
    const auto params = to_params(times, options, 1);
    const std::size_t count = extent(boxes, 0);
    auto out = make_array<double>(
        {static_cast<py::ssize_t>(views.size()), static_cast<py::ssize_t>(count)});
    for (std::size_t t = 0; t < views.size(); ++t) {
        for (std::size_t i = 0; i < count; ++i) {
            WorldBox box;
            std::memcpy(&box, boxes.data() + 6 * i, sizeof box);
            PixelRect rect;
            out.mutable_data()[t * count + i] = score_bound(
                box, newest_times.data()[i], views[t].camera_from_world, views[t], params[t], rect);
        }
    }
    return out;
}

}  // namespace

void bind_store_retrieval(py::module_& m, BoundStoreClass& store) {
    m.def("score_bounds", &score_bounds, py::arg("boxes").noconvert(),
          py::arg("newest_times").noconvert(), py::arg("cameras").noconvert(),
          py::arg("camera_from_world").noconvert(), py::arg("times").noconvert(),
          py::arg("options"));
    store
        .def("least_taken", &least_taken_of_views, py::arg("cameras").noconvert(),
             py::arg("camera_from_world").noconvert(), py::arg("times").noconvert(),
             py::arg("top_k"), py::arg("options"), py::arg("num_threads"))
        .def("retrieve_window", &retrieve_views, py::arg("cameras").noconvert(),
             py::arg("camera_from_world").noconvert(), py::arg("times").noconvert(),
             py::arg("top_k"), py::arg("options"), py::arg("found").noconvert(),
             py::arg("num_threads"))
        .def("retrieve_tokens", &retrieve_tokens_of_views, py::arg("cameras").noconvert(),
             py::arg("camera_from_world").noconvert(), py::arg("times").noconvert(),
             py::arg("top_k"), py::arg("options"), py::arg("stride"), py::arg("seconds_per_latent"),
             py::arg("found").noconvert(), py::arg("tokens").noconvert(), py::arg("num_threads"));
}

}  // namespace mosaicmem::bindings
