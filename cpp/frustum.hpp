// Boxes of the spatial index, as a view sees them.
#pragma once

#include "camera.hpp"
#include "kd_tree.hpp"

namespace mosaicmem {

// Pixels that some points fall on; empty if first > last.
struct PixelRect {
    double u_first, u_last, v_first, v_last;
};

struct BoxInView {
    PixelRect rect;  // within the image
    double nearest;  // metres: no point of the box that the view sees is nearer
};

// False if no point of the box is in the frustum. Rounding is covered by margins.
bool see_box(const Box& box, const Affine& camera_from_box, const View& view, BoxInView& seen);

}  // namespace mosaicmem
