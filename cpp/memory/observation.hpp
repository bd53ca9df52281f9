// A keyframe, and a keyframe placed in the world.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "cpp/base/camera.hpp"
#include "cpp/base/tile.hpp"
#include "cpp/memory/patch_index.hpp"
#include "cpp/memory/score.hpp"

namespace mosaicmem {

// One frame on the latent grid; immutable. Cell (r, c) has its centre at pixel ((c + 0.5) stride,
// (r + 0.5) stride).
struct Keyframe {
    const void* latents;  // (rows, columns, channels) of latent_type
    LatentType latent_type;
    const float* depth;       // (rows, columns) metres, <= 0 or not finite where invalid
    const float* confidence;  // (rows, columns) in [0, 1], or null for 1 everywhere
    std::size_t rows, columns, channels;
    double stride;  // pixels per cell
    Intrinsics k;
    std::int64_t frame_id;
    double timestamp;  // seconds
    Provenance provenance;
    std::uint64_t serial;               // unique within the process
    const float* subcell_depth;         // (subcells rows, subcells columns) metres, or null
    std::size_t subcells;               // along the edge of a cell; 1 without subcell_depth
    const std::uint8_t* image;          // (image_scale rows, image_scale columns, 3), or null
    std::size_t image_scale;            // pixels of the image along the edge of a cell
    std::shared_ptr<const void> owner;  // of the buffers except image
    std::size_t owner_nbytes;           // memory of the owner beside them
    std::shared_ptr<const void> image_owner;
    std::size_t image_owner_nbytes;

    static std::uint64_t next_serial();
    // The same keyframe, which shares all other buffers, with a serial of its own.
    std::shared_ptr<const Keyframe> without_image() const;

    std::size_t latent_nbytes() const {
        return rows * columns * channels * (latent_type == LatentType::float32 ? 4 : 2);
    }
    std::size_t cell_nbytes() const { return rows * columns * sizeof(float); }
    std::size_t depth_nbytes() const {
        return cell_nbytes() * (subcell_depth ? 1 + subcells * subcells : 1);
    }
    std::size_t confidence_nbytes() const { return confidence ? cell_nbytes() : 0; }
    std::size_t image_nbytes() const {
        return image ? 3 * rows * columns * image_scale * image_scale : 0;
    }
    std::size_t nbytes() const {
        return latent_nbytes() + depth_nbytes() + confidence_nbytes() + image_nbytes();
    }
    std::size_t overhead_nbytes() const;  // of this object and the owner, without the buffers
};

// A number, unique within the process, that identifies one state of its owner. A copy gets a new
// one, since copies are made to be changed.
class Version {
  public:
    Version() : value_(next()) {}
    Version(const Version&) : value_(next()) {}
    Version& operator=(const Version&) {
        renew();
        return *this;
    }

    void renew() { value_ = next(); }
    std::uint64_t value() const { return value_; }

  private:
    static std::uint64_t next();

    std::uint64_t value_;
};

// A keyframe placed in the world. Patch p of it, in row-major order of the patch grid, has the id
// first_id + p and, in the index, the slot first_slot + p. Patches that an edit moves away from the
// others become a separate observation with the same keyframe and ids: each patch is alive in at
// most one of the observations with the same first_id.
struct Observation {
    std::shared_ptr<const Keyframe> keyframe;
    Affine world_from_camera;
    PatchId first_id;
    Slot first_slot;
    std::size_t patch_size;  // cells along an edge
    std::size_t patch_rows, patch_columns;
    std::vector<std::uint64_t> alive_bits;
    std::size_t alive_count = 0;
    Version version;  // lets caches of derived data detect changes

    Observation(std::shared_ptr<const Keyframe> seen, const Affine& placed, std::size_t size)
        : keyframe(std::move(seen)),
          world_from_camera(placed),
          first_id(0),
          first_slot(0),
          patch_size(size),
          patch_rows((keyframe->rows + size - 1) / size),
          patch_columns((keyframe->columns + size - 1) / size),
          alive_bits((patch_count() + 63) / 64) {}

    std::size_t patch_count() const { return patch_rows * patch_columns; }
    bool is_alive(std::size_t patch) const { return alive_bits[patch / 64] >> (patch % 64) & 1; }
    void set_alive(std::size_t patch) {
        alive_bits[patch / 64] |= 1ull << (patch % 64);
        ++alive_count;
    }
    void set_dead(std::size_t patch) {
        alive_bits[patch / 64] &= ~(1ull << (patch % 64));
        --alive_count;
    }
    template <class Visit>
    void for_each_alive(const Visit& visit) const {
        for (std::size_t p = 0; p < patch_count(); ++p) {
            if (is_alive(p)) visit(p);
        }
    }

    Tile tile(std::size_t patch) const;

    // The point at the median depth of the patch's valid cells, on the ray through their mean
    // pixel, so that it lies on a surface. False if no cell is valid.
    bool centre(std::size_t patch, Vec3& world) const;

    std::size_t overhead_nbytes() const;  // of this object, without the keyframe
};

// The observations that a query's results refer to by position.
using ObservationTable = std::vector<std::shared_ptr<const Observation>>;

}  // namespace mosaicmem
