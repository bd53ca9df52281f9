#include "cuda/geometry/voxel_map.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <mutex>

#include "cpp/geometry/voxel_geometry.hpp"
#include "cuda/base/device_memory.hpp"
#include "cuda/bindings/device_array.hpp"

namespace mosaicmem::bindings {
namespace {

constexpr std::size_t kLeastCapacity = 1 << 16;
constexpr unsigned long long kFree = ~0ull;

double time_of(long long ordered) {
    const long long bits = ordered < 0 ? ordered ^ std::numeric_limits<long long>::max() : ordered;
    double time;
    std::memcpy(&time, &bits, sizeof time);
    return time;
}

// A voxel as copied from the GPU.
struct ExportedVoxel {
    unsigned long long key;
    const long long* words;
};

// `VoxelMap` on the GPU. Adding a frame waits for the GPU only if the table may be full: then it
// reads the number of voxels, and may grow the table. Python's lock serialises calls.
class DeviceVoxelMap {
  public:
    explicit DeviceVoxelMap(double voxel_size) : voxel_size_(voxel_size) {}

    void add(const DeviceArray& depth, const std::optional<DeviceArray>& color,
             const std::array<double, 4>& k, const Array<double>& world_from_camera,
             double timestamp, const DeviceArray& counts, const Execution& execution) {
        order_.follow(execution);
        const std::size_t height = depth.extent(0), width = depth.extent(1);
        make_room(height * width, execution);
        const cuda::RgbdFrame frame{
            depth.as<float>(), data_or_null<std::uint8_t>(color), height,   width,
            to_intrinsics(k),  to_affine(world_from_camera),      timestamp};
        cuda::add_voxels(table(), frame, voxel_size_, counts.as<unsigned long long>(), execution);
    }

    std::size_t size(const Execution& execution) {
        if (capacity_ == 0) return 0;
        order_.follow(execution);
        return look(execution);
    }

    py::dict export_means(std::size_t min_count, const Execution& execution) {
        std::vector<unsigned long long> keys(capacity_);
        std::vector<long long> words(capacity_ * cuda::kVoxelWords);
        if (capacity_ > 0) {
            order_.follow(execution);
            cuda::copy_to_host(keys_.as<void>(), keys.data(), keys_.bytes(), execution);
            cuda::copy_to_host(words_.as<void>(), words.data(), words_.bytes(), execution);
        }
        std::vector<ExportedVoxel> voxels;
        for (std::size_t slot = 0; slot < capacity_; ++slot) {
            const long long* const own = words.data() + slot * cuda::kVoxelWords;
            if (keys[slot] != kFree && own[0] >= static_cast<long long>(min_count))
                voxels.push_back({keys[slot], own});
        }
        std::sort(voxels.begin(), voxels.end(),
                  [](const ExportedVoxel& a, const ExportedVoxel& b) { return a.key < b.key; });
        return means(voxels);
    }

    std::size_t nbytes() const { return keys_.bytes() + words_.bytes() + voxels_.bytes(); }

  private:
    cuda::VoxelTable table() const {
        return {keys_.as<unsigned long long>(), words_.as<long long>(),
                voxels_.as<unsigned long long>(), capacity_};
    }

    // The number of voxels; waits for the GPU.
    std::size_t look(const Execution& execution) {
        unsigned long long voxels = 0;
        cuda::copy_to_host(voxels_.as<void>(), &voxels, sizeof voxels, execution);
        return most_ = voxels;
    }

    // Keeps half of the table free, whatever the next frame adds.
    void make_room(std::size_t pixels, const Execution& execution) {
        if (capacity_ > 0 && 2 * (most_ + pixels) > capacity_) look(execution);
        const std::size_t needed = 2 * (most_ + pixels);
        if (capacity_ == 0 || needed > capacity_) grow(needed, execution);
        most_ += pixels;
    }

    void grow(std::size_t needed, const Execution& execution) {
        std::size_t capacity = kLeastCapacity;
        while (capacity < 2 * needed) capacity *= 2;
        cuda::DeviceMemory keys(execution, capacity * sizeof(unsigned long long));
        cuda::DeviceMemory words(execution, capacity * cuda::kVoxelWords * sizeof(long long));
        cuda::DeviceMemory voxels(execution, sizeof(unsigned long long));
        const cuda::VoxelTable larger{keys.as<unsigned long long>(), words.as<long long>(),
                                      voxels.as<unsigned long long>(), capacity};
        cuda::clear_voxels(larger, execution);
        if (capacity_ > 0) cuda::move_voxels(table(), larger, execution);
        std::swap(keys, keys_);
        std::swap(words, words_);
        std::swap(voxels, voxels_);
        capacity_ = capacity;
        for (cuda::DeviceMemory* const old : {&keys, &words, &voxels}) old->release(execution);
    }

    py::dict means(const std::vector<ExportedVoxel>& voxels) const {
        const auto n = static_cast<py::ssize_t>(voxels.size());
        auto points = make_array<float>({n, 3}), normals = make_array<float>({n, 3});
        auto colors = make_array<std::uint8_t>({n, 3});
        auto counts = make_array<std::int64_t>({n});
        auto times = make_array<double>({n, 2});
        float *point = points.mutable_data(), *normal = normals.mutable_data();
        std::uint8_t* color = colors.mutable_data();
        for (std::size_t i = 0; i < voxels.size(); ++i) {
            const long long* const words = voxels[i].words;
            const auto count = static_cast<double>(words[0]);
            double m[3];
            for (std::size_t axis = 0; axis < 3; ++axis)
                m[axis] = static_cast<double>(words[7 + axis]);
            const double length = std::sqrt(m[0] * m[0] + m[1] * m[1] + m[2] * m[2]);
            for (std::size_t axis = 0; axis < 3; ++axis) {
                const auto biased = static_cast<std::int64_t>(
                    voxels[i].key >> (kAxisBits * (2 - axis)) & ((1u << kAxisBits) - 1));
                const double inside =
                    static_cast<double>(words[1 + axis]) / count * cuda::kPositionUnit;
                *point++ = static_cast<float>((static_cast<double>(biased - kAxisHalf) + inside) *
                                              voxel_size_);
                *color++ =
                    static_cast<std::uint8_t>(static_cast<double>(words[4 + axis]) / count + 0.5);
                *normal++ = length > 0 ? static_cast<float>(m[axis] / length) : 0.0f;
            }
            counts.mutable_data()[i] = words[0];
            times.mutable_data()[2 * i] = time_of(words[10]);
            times.mutable_data()[2 * i + 1] = time_of(words[11]);
        }
        py::dict result;
        result["points"] = points;
        result["colors"] = colors;
        result["normals"] = normals;
        result["counts"] = counts;
        result["times"] = times;
        return result;
    }

    double voxel_size_;
    cuda::DeviceMemory keys_, words_, voxels_;
    std::size_t capacity_ = 0;
    std::size_t most_ = 0;  // upper bound of the number of voxels
    cuda::StreamOrder order_;
};

}  // namespace

void bind_cuda_voxel_map(py::module_& m) {
    py::class_<DeviceVoxelMap> map(m, "VoxelMap", checked_new());
    def_init(map, &make_new<DeviceVoxelMap, double>, py::arg("voxel_size"));
    map.def("add", &DeviceVoxelMap::add, py::arg("depth"), py::arg("color"), py::arg("intrinsics"),
            py::arg("world_from_camera"), py::arg("timestamp"), py::arg("counts"),
            py::arg("execution"))
        .def("size", &DeviceVoxelMap::size, py::arg("execution"))
        .def("export", &DeviceVoxelMap::export_means, py::arg("min_count"), py::arg("execution"))
        .def_property_readonly("nbytes", &DeviceVoxelMap::nbytes);
}

}  // namespace mosaicmem::bindings
