# Stands in for vcpkg where it is not installed: the same steps as vcpkg's helper functions take, for
# one configuration, so that the portfile itself runs. Called by vcpkg.sh with PORT_DIR, WORK_DIR and FEATURES.
cmake_minimum_required(VERSION 3.24)
set(PORT oriel)
set(CURRENT_PACKAGES_DIR "${WORK_DIR}/package")

function(run)
  execute_process(COMMAND ${ARGN} COMMAND_ERROR_IS_FATAL ANY)
endfunction()

function(vcpkg_check_features)
  cmake_parse_arguments(ARG "" "OUT_FEATURE_OPTIONS" "FEATURES" ${ARGN})
  set(options)
  while(ARG_FEATURES)
    list(POP_FRONT ARG_FEATURES feature variable)
    if(feature IN_LIST FEATURES)
      list(APPEND options -D${variable}=ON)
    else()
      list(APPEND options -D${variable}=OFF)
    endif()
  endwhile()
  set(${ARG_OUT_FEATURE_OPTIONS} ${options} PARENT_SCOPE)
endfunction()

function(vcpkg_cmake_configure)
  cmake_parse_arguments(ARG "" "SOURCE_PATH" "OPTIONS" ${ARGN})
  run("${CMAKE_COMMAND}" -G Ninja -S "${ARG_SOURCE_PATH}" -B "${WORK_DIR}/build"
      "-DCMAKE_INSTALL_PREFIX=${CURRENT_PACKAGES_DIR}"
      -DCMAKE_BUILD_TYPE=Release -DORIEL_WERROR=ON -DCMAKE_INSTALL_LIBDIR=lib ${ARG_OPTIONS})
endfunction()

function(vcpkg_cmake_install)
  run("${CMAKE_COMMAND}" --build "${WORK_DIR}/build" --target install)
endfunction()

# vcpkg moves CONFIG_PATH to share/<port> and rewrites the way from there to the prefix.
function(vcpkg_cmake_config_fixup)
  cmake_parse_arguments(ARG "" "CONFIG_PATH" "" ${ARGN})
  file(MAKE_DIRECTORY "${CURRENT_PACKAGES_DIR}/share")
  file(RENAME "${CURRENT_PACKAGES_DIR}/${ARG_CONFIG_PATH}" "${CURRENT_PACKAGES_DIR}/share/${PORT}")
  file(GLOB configs "${CURRENT_PACKAGES_DIR}/share/${PORT}/*.cmake")
  foreach(config IN LISTS configs)
    file(READ "${config}" text)
    string(REPLACE "\${CMAKE_CURRENT_LIST_DIR}/../../../" "\${CMAKE_CURRENT_LIST_DIR}/../../" text "${text}")
    string(REGEX REPLACE
      "get_filename_component\\(_IMPORT_PREFIX \"\\\${CMAKE_CURRENT_LIST_FILE}\" PATH\\)(\nget_filename_component\\(_IMPORT_PREFIX \"\\\${_IMPORT_PREFIX}\" PATH\\))+"
      "get_filename_component(_IMPORT_PREFIX \"\${CMAKE_CURRENT_LIST_DIR}/../../\" ABSOLUTE)"
      text "${text}")
    file(WRITE "${config}" "${text}")
  endforeach()
endfunction()

function(vcpkg_fixup_pkgconfig)
  if(NOT EXISTS "${CURRENT_PACKAGES_DIR}/lib/pkgconfig/oriel.pc")
    message(FATAL_ERROR "lib/pkgconfig/oriel.pc was not installed")
  endif()
endfunction()

function(vcpkg_install_copyright)
  cmake_parse_arguments(ARG "" "" "FILE_LIST" ${ARGN})
  configure_file("${ARG_FILE_LIST}" "${CURRENT_PACKAGES_DIR}/share/${PORT}/copyright" COPYONLY)
endfunction()

include("${PORT_DIR}/portfile.cmake")
