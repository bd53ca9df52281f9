#include "launch.cuh"
#include "stream.hpp"

namespace mosaicmem::cuda {

OnDevice::OnDevice(int device) : before_(device), device_(device) {
    check(cudaGetDevice(&before_), "(choice of the device)");
    if (before_ != device_) check(cudaSetDevice(device_), "(choice of the device)");
}

OnDevice::~OnDevice() {
    if (before_ != device_) cudaSetDevice(before_);
}

int device_count() {
    int count = 0;
    if (cudaGetDeviceCount(&count) != cudaSuccess) {
        cudaGetLastError();  // a machine without a GPU is no error
        return 0;
    }
    return count;
}

int driver_version() {
    int version = 0;
    return cudaDriverGetVersion(&version) == cudaSuccess ? version : 0;
}

void fill_bytes(void* to, int value, std::size_t n, const Stream& stream) {
    if (n == 0) return;
    const OnDevice guard(stream.device);
    check(cudaMemsetAsync(to, value, n, static_cast<cudaStream_t>(stream.handle)), "fill_bytes");
}

void copy_bytes(const void* from, void* to, std::size_t n, const Stream& stream) {
    if (n == 0) return;
    const OnDevice guard(stream.device);
    check(cudaMemcpyAsync(to, from, n, cudaMemcpyDeviceToDevice,
                          static_cast<cudaStream_t>(stream.handle)),
          "copy_bytes");
}

}  // namespace mosaicmem::cuda
