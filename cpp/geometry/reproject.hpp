// Eq. 2 of the MosaicMem paper: where a source cell lands in a target camera.
//   (u', v') = proj(K_target * camera_from_world_target * world_from_camera_source * (depth *
//   K_source^-1 [u, v, 1]))
#pragma once

#include <cstddef>
#include <cstdint>

#include "cpp/base/camera.hpp"

namespace mosaicmem {

// The whole chain from a source pixel and its depth to the target image, composed and applied in
// double.
class Reprojection {
  public:
    MOSAICMEM_HOST_DEVICE Reprojection(const Intrinsics& source_k, const Affine& world_from_source,
                                       const View& target)
        : ray_(source_k, target.camera_from_world * world_from_source),
          k_(target.k),
          near_(target.near) {}

    // Sets (u, v) in pixels and z in metres. False, with u = v = 0, unless z > near.
    MOSAICMEM_HOST_DEVICE bool operator()(double u_source, double v_source, float depth, float& u,
                                          float& v, float& z) const {
        const Vec3 p = ray_(u_source, v_source, depth);
        z = static_cast<float>(p.z);
        const bool in_front = p.z > near_;
        const double inverse = in_front ? 1.0 / p.z : 0.0;
        u = in_front ? static_cast<float>(k_.fx * p.x * inverse + k_.cx) : 0.0f;
        v = in_front ? static_cast<float>(k_.fy * p.y * inverse + k_.cy) : 0.0f;
        return in_front;
    }

  private:
    PixelRay ray_;  // source pixel and depth -> target camera frame
    Intrinsics k_;
    double near_;
};

// Dense form. depth (rows, columns) at cells of `stride` pixels; out (rows, columns, 3) holds u',
// v' in pixels and z' in metres; valid (rows, columns) is 1 where depth is valid and z' > near. out
// is zero elsewhere.
void reproject_grid(const float* depth, std::size_t rows, std::size_t columns, double stride,
                    const Intrinsics& source_k, const Affine& world_from_source, const View& target,
                    float* out, std::uint8_t* valid, int num_threads);

}  // namespace mosaicmem
