// nanoflann's kd-tree in three dimensions, over points stored leaf by leaf.
//
// Built here, not by nanoflann, which sorts indices to the points: moving the points themselves
// accesses memory sequentially and yields each node's tight box for one extra pass. Nodes are
// nanoflann's with that box added, so its searches still work.
#pragma once

#include <cstddef>
#include <cstdint>
#include <nanoflann.hpp>
#include <vector>

#include "cpp/memory/box.hpp"

namespace mosaicmem {

// nanoflann's view of an (n, 3) array.
struct CentresAdaptor {
    const std::vector<float>& centres;

    std::size_t kdtree_get_point_count() const { return centres.size() / 3; }
    float kdtree_get_pt(std::size_t i, std::size_t axis) const { return centres[3 * i + axis]; }
    template <class B>
    bool kdtree_get_bbox(B&) const {
        return false;
    }
};

using NanoflannTree =
    nanoflann::KDTreeSingleIndexAdaptor<nanoflann::L2_Simple_Adaptor<float, CentresAdaptor>,
                                        CentresAdaptor, 3, std::uint32_t>;

struct BoxedNode : NanoflannTree::Node {
    Box box;             // tight, of all its points
    double newest_time;  // of its points

    bool is_leaf() const { return !child1; }
    const BoxedNode& left() const { return static_cast<const BoxedNode&>(*child1); }
    const BoxedNode& right() const { return static_cast<const BoxedNode&>(*child2); }
    std::size_t begin() const { return node_type.lr.left; }  // of a leaf's points
    std::size_t end() const { return node_type.lr.right; }
};

class KdTree : public NanoflannTree {
  public:
    // Reorders labels and centres (n, 3), n > 0, leaf by leaf, and removes the entries of `seen`,
    // which ascends by label, that no point uses. All must outlive the tree, unchanged; the adaptor
    // wraps the centres.
    KdTree(const CentresAdaptor& adaptor, std::vector<std::uint64_t>& labels,
           std::vector<float>& centres, std::vector<Seen>& seen);

    const BoxedNode& root() const { return static_cast<const BoxedNode&>(*root_node_); }
    std::size_t nbytes() const { return nbytes_; }

  private:
    template <class Place>
    class Builder;

    std::size_t nbytes_;
};

}  // namespace mosaicmem
