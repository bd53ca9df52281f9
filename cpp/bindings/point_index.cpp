// The kd-tree forest over plain points: for point clouds, and benchmarks of the index alone.

#include <cmath>

#include "cpp/bindings/store.hpp"
#include "cpp/memory/patch_index.hpp"

namespace mosaicmem::bindings {
namespace {

constexpr std::size_t kPart = 1 << 20;  // points per tree

class PointIndex {
  public:
    // points (n, 3), finite; their ids are 0 to n - 1.
    PointIndex(const Array<float>& points, int num_threads) {
        const std::size_t n = extent(points, 0);
        const py::gil_scoped_release release;
        std::vector<PatchIndex::Points> parts;
        for (Slot first = 0; first < n; first += kPart) {
            const std::size_t count = std::min(n - first, kPart);
            std::vector<Slot> slots(count);
            for (std::size_t i = 0; i < count; ++i) slots[i] = first + i;
            parts.emplace_back().append(slots, points.data() + 3 * first, 0.0);
        }
        index_.insert_trees(parts, [](Slot slot) { return slot; }, num_threads);
    }

    // queries (m, 3) -> distances and ids (m, min(k, n)).
    py::tuple nearest(const Array<float>& queries, std::size_t k) const {
        const auto columns = static_cast<py::ssize_t>(std::min(k, index_.size()));
        auto distances = make_array<float>({queries.shape(0), columns});
        auto ids = make_array<PatchId>({queries.shape(0), columns});
        float* distance = distances.mutable_data();
        PatchId* id = ids.mutable_data();
        for (std::size_t i = 0; i < extent(queries, 0); ++i) {
            for (const Neighbour& found : index_.nearest(queries.data() + 3 * i, k, {})) {
                *distance++ = std::sqrt(found.squared_distance);
                *id++ = found.id;
            }
        }
        return py::make_tuple(distances, ids);
    }

    // queries (m, 3) -> offsets (m + 1) into distances and ids.
    py::tuple within(const Array<float>& queries, float radius) const {
        std::vector<std::int64_t> offsets{0};
        std::vector<float> distances;
        std::vector<PatchId> ids;
        {
            const py::gil_scoped_release release;
            for (std::size_t i = 0; i < extent(queries, 0); ++i) {
                for (const Neighbour& found : index_.within(queries.data() + 3 * i, radius,
                                                            [](Slot slot) { return slot; })) {
                    distances.push_back(std::sqrt(found.squared_distance));
                    ids.push_back(found.id);
                }
                offsets.push_back(static_cast<std::int64_t>(ids.size()));
            }
        }
        const auto total = static_cast<py::ssize_t>(ids.size());
        return py::make_tuple(take_vector(std::move(offsets), {queries.shape(0) + 1}),
                              take_vector(std::move(distances), {total}),
                              take_vector(std::move(ids), {total}));
    }

    std::size_t nbytes() const { return index_.nbytes(); }

  private:
    PatchIndex index_;
};

}  // namespace

void bind_point_index(py::module_& m) {
    py::class_<PointIndex> index(m, "PointIndex", checked_new());
    def_init(index, &make_new<PointIndex, const Array<float>&, int>, py::arg("points").noconvert(),
             py::arg("num_threads") = 0);
    index.def("nearest", &PointIndex::nearest, py::arg("queries").noconvert(), py::arg("k"))
        .def("within", &PointIndex::within, py::arg("queries").noconvert(), py::arg("radius"))
        .def_property_readonly("nbytes", &PointIndex::nbytes);
}

}  // namespace mosaicmem::bindings
