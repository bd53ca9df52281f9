#include "cpp/memory/retrieved_tokens.hpp"

#include <algorithm>
#include <map>
#include <stdexcept>

#include "cpp/base/cells.hpp"
#include "cpp/base/parallel.hpp"
#include "cpp/memory/observation_grid.hpp"

namespace mosaicmem {
namespace {

using Retrieved = std::vector<std::vector<RetrievedPatch>>;  // for each view

Retrieved retrieve_all(const StoreState& state, std::span<const View> views,
                       std::span<const RetrievalParams> params, int num_threads) {
    Retrieved retrieved(views.size());
    parallel_for(views.size(), 1, num_threads, [&](std::size_t begin, std::size_t end) {
        for (std::size_t v = begin; v < end; ++v)
            retrieved[v] = retrieve(state, views[v], params[v]);
    });
    return retrieved;
}

bool has_room(const StoreState& state, std::span<const RetrievalParams> params,
              const FoundArrays& found) {
    return params.empty() || found.top_k >= std::min(params[0].top_k, state.alive_count());
}

void write(const Retrieved& retrieved, const FoundArrays& found) {
    for (std::size_t v = 0; v < retrieved.size(); ++v) {
        const std::vector<RetrievedPatch>& patches = retrieved[v];
        found.count[v] = static_cast<std::int32_t>(patches.size());
        for (std::size_t k = 0; k < found.top_k; ++k) {
            const std::size_t at = v * found.top_k + k;
            const bool is_there = k < patches.size();
            const RetrievedPatch patch = is_there ? patches[k] : RetrievedPatch{};
            found.ids[at] = is_there ? static_cast<std::int64_t>(patch.id) : -1;
            found.scores[at] = patch.score;
            found.pixels[2 * at] = patch.u;
            found.pixels[2 * at + 1] = patch.v;
            found.depth[at] = patch.depth;
        }
    }
}

// Writes the tokens of one view.
class TokenWriter {
  public:
    TokenWriter(const TokenArrays& out, std::size_t top_k, std::size_t view, const View& target,
                double time)
        : out_(out), top_k_(top_k), view_(view), target_(target), time_(time) {
        const std::size_t grid = out.rows * out.columns;
        coverage_ = {out.coverage + view * grid, grid};
        observed_ = {out.observed + view * grid, grid};
        std::ranges::fill(coverage_, std::uint8_t{0});
        std::ranges::fill(observed_, std::uint8_t{0});
    }

    // Writes no tokens for the patches from `first` to `last`.
    void clear(std::size_t first, std::size_t last) const {
        const std::size_t from = view_ * top_k_ + first, patches = last - first;
        std::fill_n(out_.sources + from, patches, -1);
        std::fill_n(out_.generated + from, patches, std::uint8_t{0});
        const std::size_t token = from * out_.cells, tokens = patches * out_.cells;
        std::fill_n(out_.latents + token * out_.channels, tokens * out_.channels, 0.0f);
        std::fill_n(out_.positions + 3 * token, 3 * tokens, 0.0);
        std::fill_n(out_.source_positions + 2 * token, 2 * tokens, 0);
        std::fill_n(out_.depth + token, tokens, 0.0f);
        std::fill_n(out_.confidence + token, tokens, 0.0f);
        std::fill_n(out_.valid + token, tokens, std::uint8_t{0});
    }

    void write(std::size_t k, const Observation& observation, std::size_t patch,
               std::int32_t source) const {
        const Keyframe& keyframe = *observation.keyframe;
        const std::size_t at = view_ * top_k_ + k;
        const bool is_observed = keyframe.provenance == Provenance::observed;
        const double age = out_.seconds_per_latent > 0
                               ? (keyframe.timestamp - time_) / out_.seconds_per_latent
                               : static_cast<double>(view_);
        clear(k, k + 1);
        out_.sources[at] = source;
        out_.generated[at] = !is_observed;
        const Reprojection reproject(keyframe.k, observation.world_from_camera, target_);
        const Tile tile = observation.tile(patch);
        for (std::size_t r = tile.row; r < tile.row_end; ++r) {
            for (std::size_t c = tile.column; c < tile.column_end; ++c) {
                const std::size_t cell = r * keyframe.columns + c;
                float u, v, z;
                if (!is_valid_depth(keyframe.depth[cell]) ||
                    !reproject((static_cast<double>(c) + 0.5) * keyframe.stride,
                               (static_cast<double>(r) + 0.5) * keyframe.stride,
                               keyframe.depth[cell], u, v, z)) {
                    continue;
                }
                const std::size_t token =
                    at * out_.cells + (r - tile.row) * observation.patch_size + c - tile.column;
                widen(keyframe.latents, keyframe.latent_type, cell * keyframe.channels,
                      keyframe.channels, out_.latents + token * out_.channels);
                const double y = v / out_.stride - 0.5, x = u / out_.stride - 0.5;
                out_.positions[3 * token] = age;
                out_.positions[3 * token + 1] = y;
                out_.positions[3 * token + 2] = x;
                out_.source_positions[2 * token] = static_cast<std::int32_t>(r);
                out_.source_positions[2 * token + 1] = static_cast<std::int32_t>(c);
                out_.depth[token] = z;
                out_.confidence[token] = keyframe.confidence ? keyframe.confidence[cell] : 1.0f;
                out_.valid[token] = 1;
                for_each_cell(static_cast<float>(x), static_cast<float>(y), Splat::bilinear,
                              out_.rows, out_.columns, [&](std::size_t reached, float) {
                                  coverage_[reached] = 1;
                                  if (is_observed) observed_[reached] = 1;
                              });
            }
        }
    }

  private:
    const TokenArrays& out_;
    std::size_t top_k_, view_;
    const View& target_;
    double time_;
    std::span<std::uint8_t> coverage_, observed_;
};

}  // namespace

bool retrieve_window(const StoreState& state, std::span<const View> views,
                     std::span<const RetrievalParams> params, const FoundArrays& found,
                     int num_threads) {
    if (!has_room(state, params, found)) return false;
    write(retrieve_all(state, views, params, num_threads), found);
    return true;
}

std::optional<ObservationTable> retrieve_tokens(const StoreState& state,
                                                std::span<const View> views,
                                                std::span<const RetrievalParams> params,
                                                const FoundArrays& found, const TokenArrays& tokens,
                                                int num_threads) {
    if (!has_room(state, params, found)) return std::nullopt;
    const bool is_empty = tokens.channels == 0;  // the store was, when asked for its channels
    if (!is_empty && state.alive_count() > 0 && state.channels() != tokens.channels)
        throw std::runtime_error("the store has other channels than when it was asked");
    const Retrieved retrieved =
        is_empty ? Retrieved(views.size()) : retrieve_all(state, views, params, num_threads);
    write(retrieved, found);
    std::map<std::size_t, std::int32_t> sources;  // observation position -> table position
    std::size_t most = 0;
    for (const std::vector<RetrievedPatch>& patches : retrieved) {
        most = std::max(most, patches.size());
        for (const RetrievedPatch& patch : patches) sources.emplace(state.at_id(patch.id), 0);
    }
    ObservationTable table;
    for (auto& [at, source] : sources) {
        source = static_cast<std::int32_t>(table.size());
        table.push_back(state.observations()[at]);
    }
    parallel_for(views.size(), 1, num_threads, [&](std::size_t begin, std::size_t end) {
        for (std::size_t v = begin; v < end; ++v) {
            const TokenWriter writer(tokens, found.top_k, v, views[v], params[v].time);
            for (std::size_t k = 0; k < retrieved[v].size(); ++k) {
                const PatchId id = retrieved[v][k].id;
                const std::size_t at = state.at_id(id);
                const Observation& observation = *state.observations()[at];
                writer.write(k, observation, id - observation.first_id, sources.at(at));
            }
            writer.clear(retrieved[v].size(), most);
        }
    });
    return table;
}

}  // namespace mosaicmem
