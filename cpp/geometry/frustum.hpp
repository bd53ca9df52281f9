// Bounding boxes of points, projected into a view.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>

#include "cpp/base/camera.hpp"
#include "cpp/base/host_device.hpp"

namespace mosaicmem {

// Range of pixels that some points project to; empty if first > last.
struct PixelRect {
    double u_first, u_last, v_first, v_last;
};

struct BoxInView {
    PixelRect rect;  // within the image
    double nearest;  // metres: lower bound on the depth of any visible point of the box
};

// False only if no point of the box (low and high, three floats each) is in the frustum. Margins
// absorb rounding errors.
template <class AnyBox>
MOSAICMEM_HOST_DEVICE bool see_box(const AnyBox& box, const Affine& camera_from_box,
                                   const View& view, BoxInView& seen) {
    constexpr double kMargin = 1e-10;
    double low[3], high[3];  // bounds of the box in the camera frame
    for (int i = 0; i < 3; ++i) {
        const double* m = &camera_from_box.m[static_cast<std::size_t>(4 * i)];
        double centre = m[3], extent = 0, magnitude = std::abs(m[3]);
        for (int j = 0; j < 3; ++j) {
            const double middle = 0.5 * (static_cast<double>(box.low[j]) + box.high[j]);
            centre += m[j] * middle;
            extent += std::abs(m[j]) * (box.high[j] - middle);
            magnitude += std::abs(m[j] * middle);
        }
        const double margin = 1e-14 * (magnitude + extent);
        low[i] = centre - extent - margin;
        high[i] = centre + extent + margin;
    }
    const double nearest = std::max(low[2], view.near), furthest = std::min(high[2], view.far);
    if (nearest > furthest) return false;
    const double margin =
        kMargin * (view.width + view.height + std::abs(view.k.cx) + std::abs(view.k.cy));
    const double u_first = view.k.fx * low[0] / (low[0] >= 0 ? furthest : nearest) + view.k.cx;
    const double u_last = view.k.fx * high[0] / (high[0] >= 0 ? nearest : furthest) + view.k.cx;
    const double v_first = view.k.fy * low[1] / (low[1] >= 0 ? furthest : nearest) + view.k.cy;
    const double v_last = view.k.fy * high[1] / (high[1] >= 0 ? nearest : furthest) + view.k.cy;
    seen.nearest = nearest;
    seen.rect = {std::max(u_first - margin, 0.0), std::min(u_last + margin, view.width),
                 std::max(v_first - margin, 0.0), std::min(v_last + margin, view.height)};
    return seen.rect.u_first <= seen.rect.u_last && seen.rect.v_first <= seen.rect.v_last;
}

}  // namespace mosaicmem
