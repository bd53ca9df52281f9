// cuda/base/ptx.cuh on the host.
#pragma once

#include <cuda_runtime.h>

#include <cstring>

#include "half_conversions.hpp"

namespace mosaicmem::cuda {

using SharedAddress = std::uintptr_t;

inline SharedAddress shared_address(const void* at) { return reinterpret_cast<std::uintptr_t>(at); }

inline void copy_async(void* shared, const void* global, bool given) {
    cuda_emulator::copy_later(shared, global, given ? 16 : 0, given ? 0 : 16);
}
inline void commit_copies() { cuda_emulator::commit_copies(); }
template <int kLeft>
void wait_copies() {
    cuda_emulator::wait_copies(kLeft);
}

namespace emulated {

inline std::uint16_t element(SharedAddress row, unsigned i) {
    std::uint16_t bits;
    std::memcpy(&bits, reinterpret_cast<const char*>(row) + 2 * i, sizeof bits);
    return bits;
}
inline unsigned two(std::uint16_t low, std::uint16_t high) {
    return low | static_cast<unsigned>(high) << 16;
}

}  // namespace emulated

inline void load_matrices(unsigned (&r)[4], SharedAddress row) {
    const SharedAddress* rows = cuda_emulator::exchange(~0u, row);
    const unsigned lane = cuda_emulator::lane(), i = 2 * (lane % 4);
    for (unsigned m = 0; m < 4; ++m) {
        const SharedAddress from = rows[8 * m + lane / 4];
        r[m] = emulated::two(emulated::element(from, i), emulated::element(from, i + 1));
    }
}
inline void load_matrices_transposed(unsigned (&r)[4], SharedAddress row) {
    const SharedAddress* rows = cuda_emulator::exchange(~0u, row);
    const unsigned lane = cuda_emulator::lane(), i = 2 * (lane % 4);
    for (unsigned m = 0; m < 4; ++m) {
        r[m] = emulated::two(emulated::element(rows[8 * m + i], lane / 4),
                             emulated::element(rows[8 * m + i + 1], lane / 4));
    }
}

template <class T>
void multiply_add(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    struct Operands {
        unsigned a[4], b[2];
    } mine;
    std::memcpy(mine.a, a, sizeof mine.a);
    mine.b[0] = b0, mine.b[1] = b1;
    const Operands* all = cuda_emulator::exchange(~0u, mine);
    const auto half = [](unsigned word, unsigned i) {
        return to_float(T{static_cast<std::uint16_t>(word >> 16 * i)});
    };
    const unsigned lane = cuda_emulator::lane();
    for (unsigned i = 0; i < 4; ++i) {
        const unsigned row = lane / 4 + 8 * (i / 2), column = 2 * (lane % 4) + i % 2;
        float sum = 0;
        for (unsigned k = 0; k < 16; ++k) {
            const Operands &of_row = all[4 * (row % 8) + k % 8 / 2],
                           &of_column = all[4 * column + k % 8 / 2];
            sum += half(of_row.a[row / 8 + 2 * (k / 8)], k % 2) * half(of_column.b[k / 8], k % 2);
        }
        c[i] += sum;
    }
}

inline float exp2_fast(float x) { return std::exp2(x); }

}  // namespace mosaicmem::cuda
