#include "cpp/memory/keyframe_candidates.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <numeric>
#include <unordered_set>

#include "cpp/base/parallel.hpp"
#include "cpp/geometry/frustum.hpp"

namespace mosaicmem {
namespace {

constexpr std::size_t kSamples = 256;  // patches of each tree in each frustum
constexpr std::size_t kBinRows = 4, kBinColumns = 5;
constexpr std::size_t kBestOfBin = 6;     // candidates of highest worth per image bin
constexpr std::size_t kNearestOfBin = 2;  // nearest candidates per image bin, which may occlude
constexpr double kPatchesAround = 1.5;    // margin from which patches may reach into the image

class CandidateSearch {
  public:
    CandidateSearch(const StoreState& store, const std::vector<TargetGrid>& targets, double stride,
                    const KeyframeParams& params, int num_threads)
        : store_(store),
          params_(params),
          num_threads_(num_threads),
          targets_(targets),
          stride_(stride) {}

    std::vector<std::size_t> run() {
        if (store_.observations().size() <= kCandidates) {
            candidates_.resize(store_.observations().size());
            std::iota(candidates_.begin(), candidates_.end(), 0);
            return std::move(candidates_);
        }
        std::vector<Bins> bins(targets_.size());
        parallel_for(targets_.size(), 1, num_threads_, [&](std::size_t begin, std::size_t end) {
            for (std::size_t v = begin; v < end; ++v) sample(v, bins[v]);
        });
        // The first of all bins, then the second, as long as there is room.
        for (std::size_t rank = 0; rank < kBestOfBin; ++rank) {
            take_rank(bins, rank, &Bin::nearest);
            take_rank(bins, rank, &Bin::best);
        }
        std::sort(candidates_.begin(), candidates_.end());
        return std::move(candidates_);
    }

  private:
    struct Seen {
        double key;      // lower is better
        std::size_t at;  // of the observation
        bool operator<(const Seen& other) const {
            return key != other.key ? key < other.key : at < other.at;
        }
    };
    struct Bin {
        std::vector<Seen> nearest,
            best;  // by depth, and by worth (negated); one entry per keyframe
    };
    using Bins = std::array<Bin, kBinRows * kBinColumns>;

    // Among the keyframes at one rank, those that hold it in the most bins come first.
    void take_rank(const std::vector<Bins>& bins, std::size_t rank, std::vector<Seen> Bin::* list) {
        std::map<std::size_t, std::size_t> votes;
        for (const Bins& view : bins) {
            for (const Bin& bin : view) {
                if (rank < (bin.*list).size()) ++votes[(bin.*list)[rank].at];
            }
        }
        std::vector<std::pair<std::size_t, std::size_t>> order(votes.begin(), votes.end());
        std::stable_sort(order.begin(), order.end(),
                         [](const auto& a, const auto& b) { return a.second > b.second; });
        for (const auto& [at, count] : order) {
            if (candidates_.size() == kCandidates) return;
            if (known_.insert(at).second) candidates_.push_back(at);
        }
    }

    // Samples the patches in and around the frustum of a target.
    void sample(std::size_t v, Bins& bins) const {
        View view = targets_[v].view;
        const double margin = kPatchesAround * static_cast<double>(store_.patch_size()) * stride_;
        view.k.cx += margin;
        view.k.cy += margin;
        view.width += 2 * margin;
        view.height += 2 * margin;
        const Affine camera_from_index = view.camera_from_world * store_.world_from_index();
        for (const PatchIndex::Node& root : store_.index().roots())
            descend(root, kSamples, 0, {v, view, camera_from_index}, bins);
    }

    struct Look {
        std::size_t v;  // target
        View view;      // with a margin
        Affine camera_from_index;
    };

    // Splits the budget between the children in view by the image area that they cover: near ones
    // cover much of it and may occlude the others.
    void descend(const PatchIndex::Node& node, std::size_t budget, unsigned depth, const Look& look,
                 Bins& bins) const {
        if (store_.index().is_leaf(node)) {
            const PatchIndex::Leaf leaf = store_.index().leaf(node);
            const std::size_t count = std::min(budget, leaf.count);
            for (std::size_t i = 0; i < count; ++i) {
                // Targets of one window look alike; each begins at a different patch.
                const std::size_t at = (i * leaf.count / count + look.v) % leaf.count;
                judge(leaf.slots[at], leaf.centres + 3 * at, look, bins);
            }
            return;
        }
        PatchIndex::Node children[2];
        store_.index().children(node, children[0], children[1]);
        double area[2];
        for (int i = 0; i < 2; ++i) {
            BoxInView seen;
            const bool sees = see_box(children[i].box, look.camera_from_index, look.view, seen);
            const PixelRect& rect = seen.rect;
            area[i] = sees ? 1e-6 + (rect.u_last - rect.u_first) * (rect.v_last - rect.v_first) : 0;
        }
        if (area[0] + area[1] == 0) return;
        const double part = area[0] / (area[0] + area[1]);
        std::size_t left;
        if (budget == 1) {
            // Picks a side pseudo-randomly, but the same every time.
            const std::uint32_t mixed =
                (static_cast<std::uint32_t>(look.v) + 1) * 0x9E3779B1u + depth * 0x85EBCA6Bu;
            left = static_cast<double>(mixed >> 8) * 0x1p-24 < part;
        } else {
            left = static_cast<std::size_t>(std::lround(part * static_cast<double>(budget)));
            if (area[0] > 0 && area[1] > 0) left = std::clamp<std::size_t>(left, 1, budget - 1);
        }
        if (left > 0) descend(children[0], left, depth + 1, look, bins);
        if (left < budget) descend(children[1], budget - left, depth + 1, look, bins);
    }

    // Enters a patch's keyframe in the image bin that the patch lies in or reaches into.
    void judge(Slot slot, const float* centre, const Look& look, Bins& bins) const {
        const View& view = targets_[look.v].view;
        const Vec3 p = look.camera_from_index({centre[0], centre[1], centre[2]});
        if (!(p.z >= view.near && p.z <= view.far)) return;
        const std::size_t at = store_.at_slot(slot);
        if (at == StoreState::kNowhere) return;
        const Observation& observation = *store_.observations()[at];
        const std::size_t patch = slot - observation.first_slot;
        if (!observation.is_alive(patch)) return;
        const Keyframe& keyframe = *observation.keyframe;
        if (params_.passes_over(keyframe)) return;
        const Tile tile = observation.tile(patch);
        const double u = 0.5 * static_cast<double>(tile.column + tile.column_end) * keyframe.stride;
        const double w = 0.5 * static_cast<double>(tile.row + tile.row_end) * keyframe.stride;
        const auto& m = observation.world_from_camera.m;
        const double x = (u - keyframe.k.cx) / keyframe.k.fx,
                     y = (w - keyframe.k.cy) / keyframe.k.fy;
        const Vec3 camera = view.camera_from_world({m[3], m[7], m[11]});
        const Vec3 away{p.x - camera.x, p.y - camera.y, p.z - camera.z};
        const double source_depth =
            std::sqrt((away.x * away.x + away.y * away.y + away.z * away.z) / (1 + x * x + y * y));
        const double size =
            keyframe.stride / keyframe.k.fx * view.k.fx / stride_ * source_depth / p.z;
        const double reach = 0.5 * static_cast<double>(store_.patch_size()) * size * stride_;
        const double column = view.k.fx * p.x / p.z + view.k.cx;
        const double row = view.k.fy * p.y / p.z + view.k.cy;
        if (!(column > -reach && column < view.width + reach && row > -reach &&
              row < view.height + reach)) {
            return;
        }
        const double standing =
            params_.scales.standing(keyframe.provenance, keyframe.timestamp, targets_[look.v].time);
        const double worth = worth_of(p, camera, {x, y, size, standing}, params_.scales);
        const auto part = [](double position, double extent, std::size_t parts) {
            const double most = static_cast<double>(parts) - 1;
            return static_cast<std::size_t>(
                std::clamp(position / extent * static_cast<double>(parts), 0.0, most));
        };
        Bin& bin = bins[part(row, view.height, kBinRows) * kBinColumns +
                        part(column, view.width, kBinColumns)];
        enter({p.z, at}, kNearestOfBin, bin.nearest);
        enter({-worth, at}, kBestOfBin, bin.best);
    }

    // Keeps the first `most` entries of a bin, one per keyframe.
    static void enter(const Seen& seen, std::size_t most, std::vector<Seen>& list) {
        if (list.size() == most && !(seen < list.back())) return;
        const auto same = std::find_if(list.begin(), list.end(),
                                       [&](const Seen& other) { return other.at == seen.at; });
        if (same != list.end()) {
            if (!(seen < *same)) return;
            list.erase(same);
        }
        list.insert(std::upper_bound(list.begin(), list.end(), seen), seen);
        if (list.size() > most) list.pop_back();
    }

    const StoreState& store_;
    const KeyframeParams& params_;
    int num_threads_;
    const std::vector<TargetGrid>& targets_;
    double stride_;
    std::vector<std::size_t> candidates_;
    std::unordered_set<std::size_t> known_;  // the candidates so far
};

}  // namespace

std::vector<std::size_t> find_candidates(const StoreState& store,
                                         const std::vector<TargetGrid>& targets, double stride,
                                         const KeyframeParams& params, int num_threads) {
    return CandidateSearch(store, targets, stride, params, num_threads).run();
}

}  // namespace mosaicmem
