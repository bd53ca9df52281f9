# Sets MOSAICMEM_HAS_CUDA: whether cuda/ is built into the core.
#   MOSAICMEM_CUDA=AUTO  if a CUDA compiler is found (the default)
#                  ON    always; an error without a compiler
#                  OFF   never
# nvcc comes from CMAKE_CUDA_COMPILER or CUDACXX, the PATH, CUDA_HOME or CUDA_PATH, /usr/local/cuda, or from PyPI's
# packages in the build environment. find_package(CUDAToolkit) does not find the latter, so it is not used.

set(MOSAICMEM_CUDA AUTO CACHE STRING "Build the CUDA kernels: AUTO, ON or OFF")
set_property(CACHE MOSAICMEM_CUDA PROPERTY STRINGS AUTO ON OFF)
string(TOUPPER "${MOSAICMEM_CUDA}" MOSAICMEM_CUDA)
if(NOT MOSAICMEM_CUDA MATCHES "^(AUTO|ON|OFF)$")
    message(FATAL_ERROR "MOSAICMEM_CUDA: expected AUTO, ON or OFF, got ${MOSAICMEM_CUDA}")
endif()

set(MOSAICMEM_HAS_CUDA OFF)
if(MOSAICMEM_CUDA STREQUAL OFF)
    return()
endif()

if(NOT CMAKE_CUDA_COMPILER)
    if(DEFINED ENV{CUDACXX})
        set(nvcc "$ENV{CUDACXX}")
    else()
        execute_process(
            COMMAND "${Python_EXECUTABLE}" -c "import sysconfig; print(sysconfig.get_path('platlib', vars={}))"
            OUTPUT_VARIABLE site_packages OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
        file(GLOB from_pypi "${site_packages}/nvidia/cu[0-9]*/bin" "${site_packages}/nvidia/cuda_nvcc/bin")
        find_program(MOSAICMEM_NVCC nvcc
            HINTS ENV CUDA_HOME ENV CUDA_PATH PATH_SUFFIXES bin
            PATHS /usr/local/cuda/bin ${from_pypi})
        set(nvcc "${MOSAICMEM_NVCC}")
    endif()
    if(nvcc)
        set(CMAKE_CUDA_COMPILER "${nvcc}")
    endif()
endif()
if(NOT CMAKE_CUDA_COMPILER)
    if(MOSAICMEM_CUDA STREQUAL ON)
        message(FATAL_ERROR
            "MOSAICMEM_CUDA is ON, and there is no CUDA compiler. Install the CUDA toolkit, or, into the environment "
            "that you build in: pip install nvidia-cuda-nvcc nvidia-cuda-crt nvidia-cuda-runtime nvidia-cuda-cccl "
            "nvidia-nvvm; or name a compiler: CUDACXX=/path/to/nvcc. Without CUDA: MOSAICMEM_CUDA=OFF.")
    endif()
    message(STATUS "CUDA: no nvcc found; building without. MOSAICMEM_CUDA=ON says what to install")
    return()
endif()

# Decided below; otherwise CMake would take the compiler's default.
if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
    set(architectures_are_ours ON)
endif()
enable_language(CUDA)
if(CMAKE_CUDA_COMPILER_VERSION VERSION_LESS 12.0)
    message(FATAL_ERROR "CUDA: expected nvcc 12.0 or later, got ${CMAKE_CUDA_COMPILER_VERSION} "
        "(${CMAKE_CUDA_COMPILER}). MOSAICMEM_CUDA=OFF builds without it.")
endif()
if(architectures_are_ours)
    if(CMAKE_CUDA_ARCHITECTURES_NATIVE MATCHES "^[0-9]")
        set(architectures "${CMAKE_CUDA_ARCHITECTURES_NATIVE}")
    else()
        # No GPU found: Hopper, and PTX for all others from Ampere on, which the driver compiles at first use.
        set(architectures 90a-real 80-virtual)
    endif()
    set(CMAKE_CUDA_ARCHITECTURES "${architectures}" CACHE STRING "What the CUDA kernels are compiled for" FORCE)
endif()
message(STATUS "CUDA: ${CMAKE_CUDA_COMPILER} ${CMAKE_CUDA_COMPILER_VERSION} for ${CMAKE_CUDA_ARCHITECTURES}")
set(MOSAICMEM_HAS_CUDA ON)
