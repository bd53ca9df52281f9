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
          latents_(aligned_array<float>(layout.size() * channels)),
          total_(layout.size()),
          most_(layout.size()),
          source_(layout.size(), -1) {
        std::fill_n(latents_.get(), layout.size() * channels, 0.0f);
    }

    std::size_t channels() const { return channels_; }
    // Writes the weighted mean of what was added, zeros if nothing was.
    void average(std::size_t at, float* __restrict out) const {
        const float* const __restrict sum = &latents_[at * channels_];
        const float total = total_[at] > 0 ? total_[at] : 1.0f;
        for (std::size_t k = 0; k < channels_; ++k) out[k] = sum[k] / total;
    }
    float total(std::size_t at) const { return total_[at]; }  // weight
    std::int32_t source(std::size_t at) const {
        return source_[at];
    }  // of the largest weight, or -1

    MOSAICMEM_INLINE void add(std::size_t at, float weight, const float* __restrict latent,
                              std::int32_t source) {
        float* __restrict out = &latents_[at * channels_];
        for (std::size_t k = 0; k < channels_; ++k) out[k] += weight * latent[k];
        total_[at] += weight;
        if (weight > most_[at]) {
            most_[at] = weight;
            source_[at] = source;
        }
    }

    // Adds one source cell, by its weights in a square window that begins at `at`.
    template <std::int32_t kReach>
    MOSAICMEM_INLINE void add_window(std::size_t at, const Quad (&weights)[kReach],
                                     const float* latent, std::int32_t source) {
        const auto pitch = static_cast<std::size_t>(layout_.pitch());
        for (std::size_t r = 0; r < kReach; ++r) {
            const std::size_t row = at + r * pitch;
            store_row(load_row(&total_[row]) + weights[r], &total_[row]);
            const Quad most = load_row(&most_[row]);
            const QuadMask is_more = weights[r] > most, known = load_row(&source_[row]);
            store_row(select(is_more, weights[r], most), &most_[row]);
            store_row((is_more & source) | (~is_more & known), &source_[row]);
        }
        const std::size_t channels = channels_, to_next_row = pitch * channels;
        float* const first = &latents_[at * channels];
        std::size_t k = 0;
        for (; k + kBlock <= channels; k += kBlock) {
            const Block own = *reinterpret_cast<const Block*>(latent + k);
            float* row = first + k;
            for (std::size_t r = 0; r < kReach; ++r, row += to_next_row) {
                for (int c = 0; c < kReach; ++c)
                    *reinterpret_cast<Block*>(row + static_cast<std::size_t>(c) * channels) +=
                        weights[r][c] * own;
            }
        }
        for (; k < channels; ++k) {
            float* row = first + k;
            for (std::size_t r = 0; r < kReach; ++r, row += to_next_row) {
                for (int c = 0; c < kReach; ++c)
                    row[static_cast<std::size_t>(c) * channels] += weights[r][c] * latent[k];
            }
        }
    }

  private:
    static constexpr std::size_t kBlock = 16;
    using Block = float __attribute__((vector_size(kBlock * sizeof(float)), aligned(4)));

    PlaneLayout layout_;
    std::size_t channels_;
    AlignedArray<float> latents_;  // a row of channels per cell
    std::vector<float> total_, most_;
    std::vector<std::int32_t> source_;
};

}  // namespace mosaicmem
