#include "cuda/base/launch.cuh"
#include "cuda/base/pinned.hpp"

namespace mosaicmem::cuda {
namespace {

// At process exit the driver may be gone before our objects are destroyed.
bool is_driver_there() {
    int count = 0;
    return cudaGetDeviceCount(&count) == cudaSuccess;
}

}  // namespace

PinnedMemory::PinnedMemory(std::size_t n) : size_(n) {
    void* at = nullptr;
    if (n > 0) check(cudaHostAlloc(&at, n, cudaHostAllocPortable), "(pinned memory)");
    data_ = static_cast<unsigned char*>(at);
}

PinnedMemory::~PinnedMemory() {
    if (data_ && is_driver_there()) cudaFreeHost(data_);
}

bool is_pinned(const void* memory) {
    cudaPointerAttributes attributes;
    check(cudaPointerGetAttributes(&attributes, memory), "(kind of memory)");
    return attributes.type == cudaMemoryTypeHost;
}

Event::Event(const Stream& stream) : device_(stream.device) {
    constexpr const char* kName = "(a moment of a stream)";
    const OnDevice guard(device_);
    cudaEvent_t event;
    check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), kName);
    event_ = event;
    check(cudaEventRecord(event, static_cast<cudaStream_t>(stream.handle)), kName);
}

Event::~Event() {
    if (is_driver_there()) cudaEventDestroy(static_cast<cudaEvent_t>(event_));
}

bool Event::has_passed() const {
    const OnDevice guard(device_);
    const cudaError_t state = cudaEventQuery(static_cast<cudaEvent_t>(event_));
    if (state == cudaErrorNotReady) return false;
    check(state, "(a moment of a stream)");
    return true;
}

void Event::wait() const {
    const OnDevice guard(device_);
    check(cudaEventSynchronize(static_cast<cudaEvent_t>(event_)), "(a moment of a stream)");
}

SideStream::SideStream(int device) : stream_{device, nullptr} {
    const OnDevice guard(device);
    cudaStream_t handle;
    check(cudaStreamCreateWithFlags(&handle, cudaStreamNonBlocking), "(a stream for copies)");
    stream_.handle = handle;
}

SideStream::~SideStream() {
    if (is_driver_there()) cudaStreamDestroy(static_cast<cudaStream_t>(stream_.handle));
}

}  // namespace mosaicmem::cuda
