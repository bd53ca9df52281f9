// A mirrored store at the border.
#pragma once

#include "cuda/bindings/device_array.hpp"
#include "cuda/memory/mirror.hpp"

namespace mosaicmem::bindings {

// The tables of a mirror, as Python keeps them.
struct MirrorTables {
    DeviceArray centres, chunk_row, observations;
    std::array<double, 3> origin;  // of the index, world
    std::size_t channels;
    LatentType latent_type;

    cuda::Mirror mirror() const {
        return {centres.as<float>(),
                chunk_row.as<std::int32_t>(),
                chunk_row.extent(0),
                observations.as<cuda::MirroredObservation>(),
                {{1, 0, 0, origin[0], 0, 1, 0, origin[1], 0, 0, 1, origin[2]}},
                channels,
                latent_type};
    }
};

}  // namespace mosaicmem::bindings
