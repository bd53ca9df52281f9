// Marks functions that the kernels of cpp/ and cuda/ share.
#pragma once

#ifdef __CUDACC__
#define MOSAICMEM_HOST_DEVICE __host__ __device__
#else
#define MOSAICMEM_HOST_DEVICE
#endif
