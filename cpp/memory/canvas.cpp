#include "cpp/memory/canvas.hpp"

#include <algorithm>
#include <map>
#include <stdexcept>

#include "cpp/base/aligned.hpp"
#include "cpp/base/parallel.hpp"
#include "cpp/memory/observation_grid.hpp"

namespace mosaicmem {
namespace {

enum class Content { latents, images };

// An observation prepared for blending: converts latents that are not float32 and masks dead
// patches; everything else is read in place. An image is a grid of its own, with a cell per pixel.
class PreparedSource {
  public:
    PreparedSource(std::shared_ptr<const Observation> observation, Content content)
        : observation_(std::move(observation)) {
        grid_ = grid_of(*observation_);
        if (content == Content::images) {
            show_image();
        } else {
            show_latents();
        }
    }

    const std::shared_ptr<const Observation>& observation() const { return observation_; }
    const SourceGrid& grid() const { return grid_; }

    // Replaces the depth of a grid by a part of it, which must outlive the grid.
    static void show(SourceGrid& grid, const std::vector<float>& depth,
                     const std::vector<float>& subcell_depth) {
        grid.depth = depth.data();
        if (grid.subcell_depth) grid.subcell_depth = subcell_depth.data();
    }

  private:
    void show_latents() {
        const Keyframe& keyframe = *observation_->keyframe;
        if (!grid_.latents) {
            const std::size_t count = keyframe.rows * keyframe.columns * keyframe.channels;
            latents_ = aligned_array<float>(count);
            widen(keyframe.latents, keyframe.latent_type, 0, count, latents_.get());
            grid_.latents = latents_.get();
        }
        if (observation_->alive_count < observation_->patch_count()) {
            depth_ = living_depth(*observation_);
            subcell_depth_ = living_subcell_depth(*observation_);
            show(grid_, depth_, subcell_depth_);
        }
    }

    void show_image() {
        const Keyframe& keyframe = *observation_->keyframe;
        const std::size_t scale = keyframe.image_scale;
        grid_.rows = scale * keyframe.rows;
        grid_.columns = scale * keyframe.columns;
        grid_.subcell_depth = nullptr;
        grid_.subcells = 1;
        if (scale == 0) return;  // a grid without cells
        grid_.stride = keyframe.stride / static_cast<double>(scale);
        const std::size_t count = 3 * grid_.rows * grid_.columns;
        latents_ = aligned_array<float>(count);
        for (std::size_t i = 0; i < count; ++i)
            latents_[i] = static_cast<float>(keyframe.image[i]) / 255;
        depth_ = living_pixel_depth(*observation_);
        grid_.latents = latents_.get();
        grid_.depth = depth_.data();
        if (!keyframe.confidence) return;
        confidence_.resize(grid_.rows * grid_.columns);
        for (std::size_t i = 0; i < confidence_.size(); ++i) {
            const std::size_t row = i / grid_.columns / scale, column = i % grid_.columns / scale;
            confidence_[i] = keyframe.confidence[row * keyframe.columns + column];
        }
        grid_.confidence = confidence_.data();
    }

    std::shared_ptr<const Observation> observation_;
    AlignedArray<float> latents_;
    std::vector<float> depth_, subcell_depth_, confidence_;
    SourceGrid grid_{};
};

// The sources of one target.
struct ViewSources {
    std::vector<std::size_t> at;                    // positions of the observations
    std::vector<std::vector<std::size_t>> patches;  // of each observation; empty: all living ones
};

ObservationTable compose_views(const StoreState& state, std::span<const TargetGrid> targets,
                               const std::vector<ViewSources>& sources, const BlendOptions& options,
                               const CanvasArrays& canvases, int num_threads,
                               Content content = Content::latents) {
    const bool is_empty = canvases.channels == 0;  // the store was, when asked for its channels
    const std::size_t channels = content == Content::images ? 3 : state.channels();
    if (!is_empty && state.alive_count() > 0 && channels != canvases.channels)
        throw std::runtime_error("the store has other channels than when it was asked");
    std::map<std::size_t, std::size_t> place;  // observation position -> table position
    for (const ViewSources& view : sources) {
        if (is_empty) break;
        for (const std::size_t at : view.at) place.emplace(at, 0);
    }
    std::vector<std::size_t> used;
    for (auto& [at, position] : place) {
        position = used.size();
        used.push_back(at);
    }
    std::vector<std::unique_ptr<PreparedSource>> prepared(used.size());
    const std::size_t grain = content == Content::images ? 1 : 16;
    parallel_for(used.size(), grain, num_threads, [&](std::size_t begin, std::size_t end) {
        for (std::size_t i = begin; i < end; ++i)
            prepared[i] = std::make_unique<PreparedSource>(state.observations()[used[i]], content);
    });

    ObservationTable table;
    for (const auto& source : prepared) table.push_back(source->observation());
    const std::size_t cells = targets.empty() ? 0 : targets[0].rows * targets[0].columns;
    parallel_for(targets.size(), 1, num_threads, [&](std::size_t begin, std::size_t end) {
        for (std::size_t v = begin; v < end; ++v) {
            const ViewSources& view = sources[v];
            std::vector<std::size_t> numbers;  // of the view's sources, in the table
            for (const std::size_t at : view.at) numbers.push_back(is_empty ? 0 : place.at(at));
            std::vector<SourceGrid> grids;
            std::vector<std::vector<float>> depth(view.patches.size()), subcell_depth(depth.size());
            for (std::size_t i = 0; !is_empty && i < view.at.size(); ++i) {
                const PreparedSource& source = *prepared[numbers[i]];
                grids.push_back(source.grid());
                if (view.patches.empty()) continue;
                depth[i] = depth_of(*source.observation(), view.patches[i]);
                subcell_depth[i] = subcell_depth_of(*source.observation(), view.patches[i]);
                PreparedSource::show(grids.back(), depth[i], subcell_depth[i]);
            }
            const std::size_t first = v * cells;
            blend(grids, targets[v], options, canvases.channels,
                  {canvases.latents + first * canvases.channels, canvases.coverage + first,
                   canvases.depth + first, canvases.source + first, canvases.weight + first});
            for (std::size_t cell = first; cell < first + cells; ++cell) {
                std::int32_t& source = canvases.source[cell];
                canvases.observed[cell] = 0;
                if (source < 0) continue;
                const std::size_t number = numbers[static_cast<std::size_t>(source)];
                source = static_cast<std::int32_t>(number);
                canvases.observed[cell] =
                    table[number]->keyframe->provenance == Provenance::observed;
            }
        }
    });
    return table;
}

std::vector<ViewSources> whole_sources(const StoreState& state,
                                       const std::vector<std::vector<Slot>>& observations) {
    std::vector<ViewSources> sources(observations.size());
    for (std::size_t v = 0; v < sources.size(); ++v) {
        for (const Slot slot : observations[v]) {
            const std::size_t at = state.at_slot(slot);
            if (at != StoreState::kNowhere && state.observations()[at]->first_slot == slot)
                sources[v].at.push_back(at);
        }
    }
    return sources;
}

}  // namespace

ObservationTable compose_keyframes(const StoreState& state, std::span<const TargetGrid> targets,
                                   const std::vector<std::vector<Slot>>& observations,
                                   const BlendOptions& options, const CanvasArrays& canvases,
                                   int num_threads) {
    return compose_views(state, targets, whole_sources(state, observations), options, canvases,
                         num_threads);
}

ObservationTable compose_images(const StoreState& state, std::span<const TargetGrid> targets,
                                const std::vector<std::vector<Slot>>& observations,
                                const BlendOptions& options, const CanvasArrays& canvases,
                                int num_threads) {
    return compose_views(state, targets, whole_sources(state, observations), options, canvases,
                         num_threads, Content::images);
}

ObservationTable compose_patches(const StoreState& state, std::span<const TargetGrid> targets,
                                 const std::vector<std::vector<PatchId>>& patches,
                                 const BlendOptions& options, const CanvasArrays& canvases,
                                 int num_threads) {
    std::vector<ViewSources> sources(targets.size());
    for (std::size_t v = 0; v < targets.size(); ++v) {
        std::map<std::size_t, std::vector<std::size_t>> of_observation;
        for (const PatchId id : patches[v]) {
            const std::size_t at = state.at_id(id);
            if (at != StoreState::kNowhere)
                of_observation[at].push_back(id - state.observations()[at]->first_id);
        }
        for (auto& [at, chosen] : of_observation) {
            sources[v].at.push_back(at);
            sources[v].patches.push_back(std::move(chosen));
        }
    }
    return compose_views(state, targets, sources, options, canvases, num_threads);
}

}  // namespace mosaicmem
