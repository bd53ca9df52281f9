# Provides nanoflann::nanoflann (header only, >= 1.5) from the first of: a CMake package, a bare header on the prefix
# path (the napf wheel, a build requirement of pyproject.toml, installs one), a download pinned by hash.

find_package(nanoflann 1.5 CONFIG QUIET)

if(NOT TARGET nanoflann::nanoflann)
    find_path(NANOFLANN_INCLUDE_DIR nanoflann.hpp)
    if(NANOFLANN_INCLUDE_DIR)
        file(STRINGS "${NANOFLANN_INCLUDE_DIR}/nanoflann.hpp" version_line REGEX "define NANOFLANN_VERSION 0x")
        string(REGEX MATCH "0x[0-9a-fA-F]+" nanoflann_version "${version_line}")
        math(EXPR nanoflann_version "${nanoflann_version}")
        if(nanoflann_version LESS 336)  # 0x150, that is 1.5.0
            message(STATUS "nanoflann in ${NANOFLANN_INCLUDE_DIR} is older than 1.5: not used")
            set(NANOFLANN_INCLUDE_DIR "")
        endif()
    endif()
    if(NOT NANOFLANN_INCLUDE_DIR)
        message(STATUS "nanoflann: not installed; fetching its header from GitHub. Without that network, install nanoflann "
            "1.5 or later, or pass -DNANOFLANN_INCLUDE_DIR=<folder of nanoflann.hpp>")
        include(FetchContent)
        FetchContent_Declare(nanoflann_source
            URL https://github.com/jlblancoc/nanoflann/archive/refs/tags/v1.5.5.zip
            URL_HASH SHA256=57496cb27e1310a77a367e5a902c8f1c700496d91ac54ccc87fbe9ccc28bc6cc
            SOURCE_SUBDIR none)  # the header is all that is needed
        FetchContent_MakeAvailable(nanoflann_source)
        set(NANOFLANN_INCLUDE_DIR "${nanoflann_source_SOURCE_DIR}/include")
    endif()
    message(STATUS "nanoflann: ${NANOFLANN_INCLUDE_DIR}")
    add_library(nanoflann::nanoflann INTERFACE IMPORTED)
    # SYSTEM: its warnings are not ours.
    target_include_directories(nanoflann::nanoflann SYSTEM INTERFACE "${NANOFLANN_INCLUDE_DIR}")
endif()
