# oriel::tier - the tiers below the device pools (include/oriel/tier): host memory, disk, remote.
# The simulated fleet (include/oriel/sim/cluster.hpp) has tiers too, so it is here.
# OpenSSL hashes keys (and encrypts a connection where a server asks); liburing, where it is found,
# carries disk IO, and threads do where it is not.
find_package(OpenSSL REQUIRED)
find_path(ORIEL_LIBURING_INCLUDE_DIR liburing.h DOC "Folder of liburing.h (Debian: liburing-dev)")
find_library(ORIEL_LIBURING_LIBRARY uring DOC "liburing (Debian: liburing-dev)")
mark_as_advanced(ORIEL_LIBURING_INCLUDE_DIR ORIEL_LIBURING_LIBRARY)
if(ORIEL_LIBURING_INCLUDE_DIR AND ORIEL_LIBURING_LIBRARY)
  set(ORIEL_USES_LIBURING ON)
else()
  set(ORIEL_USES_LIBURING OFF)
endif()

file(GLOB oriel_tier_sources CONFIGURE_DEPENDS src/tier/*.cpp src/sim/cluster/*.cpp)
# Units named *_sse42.cpp and *_vpclmul.cpp are entered only after their instructions were seen on
# the CPU.
set(oriel_isa_sse42 -msse4.2)
set(oriel_isa_vpclmul -msse4.2 -mpclmul -mavx512f -mvpclmulqdq)
if(CMAKE_CXX_COMPILER_ID STREQUAL GNU)
  list(APPEND oriel_isa_vpclmul -Wno-maybe-uninitialized)  # As for AVX-512 units: gcc bug 105593.
endif()
foreach(source IN LISTS oriel_tier_sources)
  if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64" AND source MATCHES "_(sse42|vpclmul)\\.cpp$")
    set_source_files_properties(${source} PROPERTIES COMPILE_OPTIONS "${oriel_isa_${CMAKE_MATCH_1}}")
  endif()
endforeach()
set_source_files_properties(${PROJECT_SOURCE_DIR}/src/tier/redis_state_store.cpp
  PROPERTIES SKIP_UNITY_BUILD_INCLUSION ON)  # Its private class has members of an unnamed namespace.
add_library(oriel_tier ${oriel_tier_sources})
add_library(oriel::tier ALIAS oriel_tier)
set_target_properties(oriel_tier PROPERTIES EXPORT_NAME tier CXX_EXTENSIONS OFF
                      POSITION_INDEPENDENT_CODE ON)
target_include_directories(oriel_tier PRIVATE src)
target_include_directories(oriel_tier SYSTEM PRIVATE ${ORIEL_XXHASH_INCLUDE_DIR})
target_link_libraries(oriel_tier PUBLIC oriel::oriel
  PRIVATE OpenSSL::Crypto OpenSSL::SSL Threads::Threads $<BUILD_INTERFACE:oriel_warnings>)
if(ORIEL_USES_LIBURING)
  target_compile_definitions(oriel_tier PRIVATE ORIEL_HAS_LIBURING)
  target_include_directories(oriel_tier SYSTEM PRIVATE ${ORIEL_LIBURING_INCLUDE_DIR})
  target_link_libraries(oriel_tier PRIVATE
    $<BUILD_INTERFACE:${ORIEL_LIBURING_LIBRARY}> $<INSTALL_INTERFACE:oriel::liburing>)
endif()
