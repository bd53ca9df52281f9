#include <cstring>

#include "cuda/base/launch.cuh"
#include "cuda/base/stream.hpp"

namespace mosaicmem::cuda {

namespace {

// Whether the device already has a context. Making it current would create one, which takes some
// hundred megabytes; only the driver API can tell, and it is not linked.
bool is_in_use([[maybe_unused]] int device) {
#if defined(CUDART_VERSION) && CUDART_VERSION >= 12050
    using GetState = int (*)(int device, unsigned* flags, int* active);
    void* function = nullptr;
    cudaDriverEntryPointQueryResult found;
    constexpr unsigned kSince = 7000;
    if (cudaGetDriverEntryPointByVersion("cuDevicePrimaryCtxGetState", &function, kSince,
                                         cudaEnableDefault, &found) != cudaSuccess ||
        found != cudaDriverEntryPointSuccess) {
        cudaGetLastError();
        return true;
    }
    unsigned flags = 0;
    int active = 0;
    return reinterpret_cast<GetState>(function)(device, &flags, &active) != 0 || active != 0;
#else
    return true;
#endif
}

}  // namespace

OnDevice::OnDevice(int device) : before_(device), device_(device) {
    check(cudaGetDevice(&before_), "(choice of the device)");
    if (before_ != device_) check(cudaSetDevice(device_), "(choice of the device)");
}

OnDevice::~OnDevice() {
    if (before_ != device_ && is_in_use(before_)) cudaSetDevice(before_);
}

int device_count() {
    int count = 0;
    if (cudaGetDeviceCount(&count) != cudaSuccess) {
        cudaGetLastError();  // a machine without a GPU is not an error
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

void copy_from_host(const void* from, void* to, std::size_t n, const Stream& stream) {
    if (n == 0) return;
    const OnDevice guard(stream.device);
    check(cudaMemcpyAsync(to, from, n, cudaMemcpyHostToDevice,
                          static_cast<cudaStream_t>(stream.handle)),
          "copy_from_host");
}

void copy_to_host(const void* from, void* to, std::size_t n, const Stream& stream) {
    if (n > 0) {
        const OnDevice guard(stream.device);
        check(cudaMemcpyAsync(to, from, n, cudaMemcpyDeviceToHost,
                              static_cast<cudaStream_t>(stream.handle)),
              "copy_to_host");
    }
    synchronize(stream);
}

namespace {

constexpr std::size_t kParcel = 3968;  // launch parameters are at most 4 KB

struct Parcel {
    unsigned char bytes[kParcel];
};

__global__ void unpack_kernel(Parcel parcel, std::size_t n, unsigned char* to) {
    for (std::size_t i = threadIdx.x; i < n; i += blockDim.x) to[i] = parcel.bytes[i];
}

}  // namespace

void store_bytes(const void* from, void* to, std::size_t n, const Stream& stream) {
    for (std::size_t done = 0; done < n; done += kParcel) {
        const std::size_t now = std::min(kParcel, n - done);
        Parcel parcel;
        std::memcpy(parcel.bytes, static_cast<const char*>(from) + done, now);
        launch("store_bytes", unpack_kernel, {dim3(1), dim3(kBlock)}, stream, parcel, now,
               static_cast<unsigned char*>(to) + done);
    }
}

void synchronize(const Stream& stream) {
    const OnDevice guard(stream.device);
    check(cudaStreamSynchronize(static_cast<cudaStream_t>(stream.handle)),
          "(first use of an array of the host, which is to be before a stream is captured)");
}

void order_streams(const Stream& earlier, const Stream& later) {
    if (earlier.handle == later.handle && earlier.device == later.device) return;
    constexpr const char* kName = "(order of two streams)";
    cudaEvent_t event;
    {
        const OnDevice guard(earlier.device);
        check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), kName);
        check(cudaEventRecord(event, static_cast<cudaStream_t>(earlier.handle)), kName);
    }
    const OnDevice guard(later.device);
    check(cudaStreamWaitEvent(static_cast<cudaStream_t>(later.handle), event, 0), kName);
    check(cudaEventDestroy(event), kName);  // takes effect once the event has happened
}

}  // namespace mosaicmem::cuda
