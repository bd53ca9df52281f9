// The patch memory published with Matrix-Game 3.5, by its own rules: cells at their corner pixels,
// depth by nearest sample, no occlusion test. Use it to reproduce that code's results; for better
// ones see keyframe_selection.hpp and blend.hpp.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace mosaicmem {

class PatchMemory {
  public:
    static constexpr std::size_t kPicks = 5;  // candidates per group
    using Picks = std::array<std::int64_t, kPicks>;

    PatchMemory(std::size_t channels, std::size_t rows, std::size_t columns)
        : channels_(channels), rows_(rows), columns_(columns) {}

    // Matrices are row-major; K^-1 is given in the precision that each use needs.
    struct Frames {
        std::size_t count;
        const float* latents;            // (channels, count, rows, columns)
        const float* camera_from_world;  // (count, 4, 4)
        const float* k_inverse;          // (count, 3, 3), for fusion
        const double* k_inverse_double;  // (count, 3, 3), for selection
        const float* depth;              // (count, height, width) metres, 0 or less where invalid
        std::size_t height, width;
    };
    void append(const Frames& frames);

    std::size_t size() const { return frames_.size(); }
    std::size_t channels() const { return channels_; }
    std::size_t rows() const { return rows_; }
    std::size_t columns() const { return columns_; }

    // Frame ids for each of `groups` queries camera_from_world (groups, 4, 4); -1 for none.
    std::vector<Picks> select_pose_nearest(const double* camera_from_world,
                                           std::size_t groups) const;
    std::vector<Picks> select_coverage(const double* camera_from_world, const double* k,
                                       std::size_t groups, int num_threads) const;

    enum class Keep { nearest, farthest };
    // Splats the candidates of each group, ids (groups, candidates) below size(), on top of each
    // other. latents (channels, groups, rows, columns), valid (groups, rows, columns).
    void fuse(const float* camera_from_world, const float* k, std::size_t groups,
              std::span<const std::int64_t> candidates, Keep keep, float* latents,
              std::uint8_t* valid, int num_threads) const;

  private:
    // Immutable, so that copies of a memory share it.
    struct Frame {
        std::shared_ptr<float[]> latents;    // (channels, rows, columns)
        std::shared_ptr<float[]> depth;      // (rows, columns)
        std::shared_ptr<double[]> coverage;  // world x, y, z (3, coarse cells), NaN if invalid
        std::array<float, 16> camera_from_world;
        std::array<float, 9> k_inverse;
    };

    std::size_t coarse_cells() const;
    Frame make_frame(const Frames& frames, std::size_t i) const;
    Picks pick_pose_nearest(const double* camera_from_world) const;
    Picks pick_coverage(const double* camera_from_world, const double* k) const;
    void splat(const Frame& frame, const float* camera_from_world, const float* k, float* depth,
               std::int32_t* source) const;

    std::size_t channels_, rows_, columns_;
    std::vector<Frame> frames_;
};

}  // namespace mosaicmem
