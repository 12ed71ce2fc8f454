# What `cmake --install` lays down: headers, the library, CMake and pkg-config files, the laws.
include(CMakePackageConfigHelpers)
set(ORIEL_CMAKE_DIR ${CMAKE_INSTALL_LIBDIR}/cmake/oriel)

# What a static library needs, its users link; a shared one carries it.
set(ORIEL_LINKS_LIBURING OFF)
set(ORIEL_PC_LIBS "")
set(ORIEL_PC_TIER_LIBS "")
get_target_property(oriel_type oriel TYPE)
if(oriel_type STREQUAL "STATIC_LIBRARY")
  set(ORIEL_PC_LIBS " -pthread")
  if(ORIEL_USES_ONEDNN)
    string(PREPEND ORIEL_PC_LIBS " -ldnnl")
  endif()
  set(ORIEL_PC_TIER_LIBS " -lssl -lcrypto -pthread")
  if(ORIEL_USES_LIBURING)
    set(ORIEL_LINKS_LIBURING ON)
    string(PREPEND ORIEL_PC_TIER_LIBS " -luring")
  endif()
endif()

install(TARGETS oriel EXPORT oriel-targets FILE_SET HEADERS
        ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR} LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(EXPORT oriel-targets NAMESPACE oriel:: DESTINATION ${ORIEL_CMAKE_DIR})
configure_package_config_file(src/cmake/oriel-config.cmake.in ${PROJECT_BINARY_DIR}/oriel-config.cmake
                              INSTALL_DESTINATION ${ORIEL_CMAKE_DIR})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/oriel-config-version.cmake
                                 COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/oriel-config.cmake ${PROJECT_BINARY_DIR}/oriel-config-version.cmake
        DESTINATION ${ORIEL_CMAKE_DIR})

# An export set of its own: who links oriel::oriel alone never needs the CUDA toolkit.
if(ORIEL_CUDA)
  install(TARGETS oriel_cuda EXPORT oriel-cuda-targets
          ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR} LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
  install(EXPORT oriel-cuda-targets NAMESPACE oriel:: DESTINATION ${ORIEL_CMAKE_DIR})
endif()

# The same for tiers: OpenSSL and liburing are theirs alone.
if(ORIEL_TIER)
  install(TARGETS oriel_tier EXPORT oriel-tier-targets
          ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR} LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
  install(EXPORT oriel-tier-targets NAMESPACE oriel:: DESTINATION ${ORIEL_CMAKE_DIR})
endif()

# Relocatable: the prefix is found from where the .pc file lies.
file(RELATIVE_PATH ORIEL_PC_PREFIX /prefix/${CMAKE_INSTALL_LIBDIR}/pkgconfig /prefix)
configure_file(src/cmake/oriel.pc.in ${PROJECT_BINARY_DIR}/oriel.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/oriel.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
if(ORIEL_CUDA)
  set(ORIEL_PC_CUBLASLT "")
  if(ORIEL_CUBLASLT_TARGET STREQUAL "CUDA::cublasLt")
    set(ORIEL_PC_CUBLASLT " -lcublasLt")
  elseif(ORIEL_CUBLASLT_TARGET STREQUAL "CUDA::cublasLt_static")
    set(ORIEL_PC_CUBLASLT " -lcublasLt_static -lculibos")
  elseif(ORIEL_CUBLASLT_TARGET)
    set(ORIEL_PC_CUBLASLT " ${ORIEL_CUBLASLT_TARGET}")
  endif()
  configure_file(src/cmake/oriel-cuda.pc.in ${PROJECT_BINARY_DIR}/oriel-cuda.pc @ONLY)
  install(FILES ${PROJECT_BINARY_DIR}/oriel-cuda.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
endif()
if(ORIEL_TIER)
  configure_file(src/cmake/oriel-tier.pc.in ${PROJECT_BINARY_DIR}/oriel-tier.pc @ONLY)
  install(FILES ${PROJECT_BINARY_DIR}/oriel-tier.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
endif()

# The laws of the concepts, to be run on models of one's own: #include <oriel/conformance/...>.
install(DIRECTORY tests/conformance/ DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/oriel/conformance
        FILES_MATCHING PATTERN "*.hpp")
install(FILES LICENSE DESTINATION ${CMAKE_INSTALL_DATADIR}/doc/oriel)
if(TARGET oriel_cli)
  install(TARGETS oriel_cli RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
  install(DIRECTORY examples/models/nano/ DESTINATION ${CMAKE_INSTALL_DATADIR}/oriel/models/nano
          FILES_MATCHING PATTERN "*.json" PATTERN "*.safetensors" PATTERN "README.md")
endif()
