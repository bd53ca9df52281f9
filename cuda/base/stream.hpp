// The caller's stream, in which the kernels of cuda/ run. Nothing waits for it unless it says so,
// and nothing allocates: the caller provides scratch and results.
#pragma once

#include <cstddef>
#include <stdexcept>
#include <string>

namespace mosaicmem::cuda {

struct Stream {
    int device;
    void* handle;  // a cudaStream_t
};

// A CUDA failure, with the name of the kernel.
class CudaError : public std::runtime_error {
    using std::runtime_error::runtime_error;
};

// Makes a device current for a scope, then restores the previous one.
class OnDevice {
  public:
    explicit OnDevice(int device);
    ~OnDevice();
    OnDevice(const OnDevice&) = delete;
    OnDevice& operator=(const OnDevice&) = delete;

  private:
    int before_, device_;
};

// Number of GPUs that the driver exposes; 0 without a driver.
int device_count();

// The driver's version, as 13000 for 13.0; 0 without a driver.
int driver_version();

// Fills n bytes with a value, in stream order.
void fill_bytes(void* to, int value, std::size_t n, const Stream& stream);

// Copies n bytes within the device, in stream order.
void copy_bytes(const void* from, void* to, std::size_t n, const Stream& stream);

// Copies n bytes from host memory, in stream order. Pinned memory must not change until the copy is
// done.
void copy_from_host(const void* from, void* to, std::size_t n, const Stream& stream);

// Copies n bytes to host memory, and waits until they have arrived.
void copy_to_host(const void* from, void* to, std::size_t n, const Stream& stream);

// Copies n bytes from any host memory, in stream order; it may change once this returns. The bytes
// travel as launch parameters, so a captured graph keeps them. For small data.
void store_bytes(const void* from, void* to, std::size_t n, const Stream& stream);

// Waits until everything in the stream is done. An error while the stream is being captured.
void synchronize(const Stream& stream);

// Work added to `later` from now on waits for everything in `earlier`. The host does not wait.
void order_streams(const Stream& earlier, const Stream& later);

}  // namespace mosaicmem::cuda
