// Where the kernels of this folder run: a stream of the caller's. Nothing waits for it that does
// not say so, and nothing allocates: scratch and results are given.
#pragma once

#include <cstddef>
#include <stdexcept>
#include <string>

namespace mosaicmem::cuda {

struct Stream {
    int device;
    void* handle;  // a cudaStream_t
};

// A failure of CUDA, with the kernel that was to run.
class CudaError : public std::runtime_error {
    using std::runtime_error::runtime_error;
};

// Makes a device the current one, and that of before again at the end.
class OnDevice {
  public:
    explicit OnDevice(int device);
    ~OnDevice();
    OnDevice(const OnDevice&) = delete;
    OnDevice& operator=(const OnDevice&) = delete;

  private:
    int before_, device_;
};

// GPUs that the driver gives access to; 0 where there is no driver.
int device_count();

// Of the driver, as 13000 for 13.0; 0 where there is none.
int driver_version();

// Fills n bytes with a value, in the order of the stream.
void fill_bytes(void* to, int value, std::size_t n, const Stream& stream);

// Copies n bytes within the device, in the order of the stream.
void copy_bytes(const void* from, void* to, std::size_t n, const Stream& stream);

// Copies n bytes from memory of the host, in the order of the stream. Pinned memory must stay as it
// is until then.
void copy_from_host(const void* from, void* to, std::size_t n, const Stream& stream);

// Copies n bytes to memory of the host, and waits until they are there.
void copy_to_host(const void* from, void* to, std::size_t n, const Stream& stream);

// Copies n bytes of any memory of the host, which may change when this returns, in the order of the
// stream: they travel with launches, so a graph keeps them. For little.
void store_bytes(const void* from, void* to, std::size_t n, const Stream& stream);

// Waits until all that is in the stream is done. An error in a stream that is being captured.
void synchronize(const Stream& stream);

// What is put into `later` from now on waits for all that is in `earlier`. The host does not.
void order_streams(const Stream& earlier, const Stream& later);

}  // namespace mosaicmem::cuda
