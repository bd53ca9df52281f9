// The running sums of a target's cells, to which windows of weighted cells are added.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "cpp/base/aligned.hpp"
#include "cpp/memory/tent_window.hpp"

namespace mosaicmem {

class BlendSums {
  public:
    BlendSums(const PlaneLayout& layout, std::size_t channels)
        : layout_(layout),
          channels_(channels),
          stride_((channels + kQuad - 1) / kQuad * kQuad),
          latents_(aligned_array<float>(layout.size() * stride_)),
          total_(layout.size()),
          most_(layout.size()),
          most_before_(layout.size()),
          source_(layout.size(), -1) {
        std::fill_n(latents_.get(), layout.size() * stride_, 0.0f);
    }

    std::size_t channels() const { return channels_; }
    float total(std::size_t at) const { return total_[at]; }  // weight
    // Of the largest weight of a single source cell; -1 if nothing was added.
    std::int32_t source(std::size_t at) const { return source_[at]; }

    // Writes the weighted mean of what was added, zeros if nothing was.
    void average(std::size_t at, float* __restrict out) const {
        const float* const __restrict sum = &latents_[at * stride_];
        const float part = total_[at] > 0 ? 1.0f / total_[at] : 0.0f;
        for (std::size_t k = 0; k < channels_; ++k) out[k] = sum[k] * part;
    }

    MOSAICMEM_INLINE void add(std::size_t at, float weight, const float* __restrict latent) {
        float* __restrict out = &latents_[at * stride_];
        for (std::size_t k = 0; k < channels_; ++k) out[k] += weight * latent[k];
        total_[at] += weight;
        most_[at] = std::max(most_[at], weight);
    }

    // Adds one source cell, by its weights in a square window that begins at `at`.
    template <std::int32_t kReach>
    MOSAICMEM_INLINE void add_window(std::size_t at, const Window<kReach>& weights,
                                     const float* latent) {
        const auto pitch = static_cast<std::size_t>(layout_.pitch());
        for (std::size_t r = 0; r < kReach; ++r) {
            const std::size_t row = at + r * pitch;
            const Quad most = load_row(&most_[row]);
            store_row(load_row(&total_[row]) + weights.rows[r], &total_[row]);
            store_row(select(weights.rows[r] > most, weights.rows[r], most), &most_[row]);
        }
        float* const first = &latents_[at * stride_];
        std::size_t k = 0;
        for (; k + kBlock <= channels_; k += kBlock)
            add_values<kReach, Sixteen>(first + k, weights, latent + k);
        for (; k + kQuad <= channels_; k += kQuad)
            add_values<kReach, Four>(first + k, weights, latent + k);
        if (k == channels_) return;
        float rest[kQuad] = {};
        for (std::size_t i = 0; k + i < channels_; ++i) rest[i] = latent[k + i];
        add_values<kReach, Four>(first + k, weights, rest);
    }

    // To be called when all of a source has been added: notes where it weighs most so far.
    void end_source(std::int32_t number) {
        for (std::size_t at = 0; at < source_.size(); ++at) {
            source_[at] = most_[at] > most_before_[at] ? number : source_[at];
            most_before_[at] = most_[at];
        }
    }

  private:
    static constexpr std::size_t kQuad = 4, kBlock = 16;
    struct Four {
        using Values = float __attribute__((vector_size(kQuad * sizeof(float)), aligned(4)));
    };
    struct Sixteen {
        using Values = float __attribute__((vector_size(kBlock * sizeof(float)), aligned(4)));
    };
    // Adds `values`, of a few channels, to the same channels of the cells of a window.
    template <std::int32_t kReach, class Channels>
    MOSAICMEM_INLINE void add_values(float* row, const Window<kReach>& weights,
                                     const float* latent) {
        using Values = typename Channels::Values;
        const Values values = *reinterpret_cast<const Values*>(latent);
        for (std::size_t r = 0; r < kReach; ++r) {
            for (std::size_t c = 0; c < kReach; ++c)
                *reinterpret_cast<Values*>(row + c * stride_) += weights.rows[r][c] * values;
            row += static_cast<std::size_t>(layout_.pitch()) * stride_;
        }
    }

    PlaneLayout layout_;
    std::size_t channels_, stride_;  // floats per cell
    AlignedArray<float> latents_;
    std::vector<float> total_, most_, most_before_;  // the last two of single source cells
    std::vector<std::int32_t> source_;
};

}  // namespace mosaicmem
