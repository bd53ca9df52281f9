# Provides nanoflann::nanoflann (header only, >= 1.5) from the first of: a CMake package; a header on the prefix path or
# in NANOFLANN_INCLUDE_DIR; the wheel of nanoflann.txt, which pip downloads from its configured index.

find_package(nanoflann 1.5 CONFIG QUIET)
if(TARGET nanoflann::nanoflann)
    return()
endif()

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
    set(folder "${CMAKE_BINARY_DIR}/nanoflann")
    set(requirement "${CMAKE_CURRENT_LIST_DIR}/nanoflann.txt")
    set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS "${requirement}")
    if(NOT EXISTS "${folder}/include/nanoflann.hpp" OR "${requirement}" IS_NEWER_THAN "${folder}/include/nanoflann.hpp")
        message(STATUS "nanoflann: not installed; pip downloads its header")
        file(REMOVE_RECURSE "${folder}")
        # The tags select the same wheel on every platform: only its header is used.
        execute_process(
            COMMAND "${Python_EXECUTABLE}" -m pip download --quiet --disable-pip-version-check --no-deps
                --only-binary :all: --platform manylinux2014_x86_64 --implementation cp --python-version 3.12 --abi cp312
                --require-hashes --requirement "${requirement}" --dest "${folder}"
            RESULT_VARIABLE status ERROR_VARIABLE errors)
        file(GLOB wheel "${folder}/napf-*.whl")
        if(NOT status EQUAL 0 OR NOT wheel)
            message(FATAL_ERROR
                "nanoflann: no header of version 1.5 or later is installed, and pip could not download one:\n${errors}\n"
                "pip must be installed for ${Python_EXECUTABLE} and reach a package index (PIP_INDEX_URL or "
                "PIP_FIND_LINKS names another). To use a header that you have: "
                "-C cmake.define.NANOFLANN_INCLUDE_DIR=<folder of nanoflann.hpp>")
        endif()
        file(ARCHIVE_EXTRACT INPUT "${wheel}" DESTINATION "${folder}" PATTERNS "*/nanoflann.hpp")
        file(TOUCH "${folder}/include/nanoflann.hpp")
    endif()
    set(NANOFLANN_INCLUDE_DIR "${folder}/include")
endif()
message(STATUS "nanoflann: ${NANOFLANN_INCLUDE_DIR}")
add_library(nanoflann::nanoflann INTERFACE IMPORTED)
# SYSTEM silences warnings of its header.
target_include_directories(nanoflann::nanoflann SYSTEM INTERFACE "${NANOFLANN_INCLUDE_DIR}")
