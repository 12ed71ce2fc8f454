# The toolchain of the presets asan and tsan: clang++ where it and its sanitizers are installed, which compiles the
# tests in half of g++'s time, and sees what g++ does not; else the system's compiler. A compiler that is named
# (CMAKE_CXX_COMPILER, CXX), or that the build folder has already, stays.
get_property(oriel_in_try_compile GLOBAL PROPERTY IN_TRY_COMPILE)
if(CMAKE_CXX_COMPILER OR DEFINED ENV{CXX} OR oriel_in_try_compile)
  return()
endif()
find_program(ORIEL_CLANG clang++)
mark_as_advanced(ORIEL_CLANG)
if(NOT ORIEL_CLANG)
  return()
endif()
set(oriel_probe "${CMAKE_BINARY_DIR}/CMakeFiles/sanitizer_compiler")
file(WRITE "${oriel_probe}.cpp" "#include <vector>\nstatic_assert(__clang_major__ >= 14);\nint main() { return 0; }\n")
foreach(sanitizers IN ITEMS address,undefined thread)
  execute_process(COMMAND "${ORIEL_CLANG}" -std=c++20 -fsanitize=${sanitizers} "${oriel_probe}.cpp" -o "${oriel_probe}"
                  RESULT_VARIABLE oriel_probe_code OUTPUT_QUIET ERROR_QUIET)
  if(NOT oriel_probe_code EQUAL 0)
    message(STATUS "${ORIEL_CLANG} cannot build with -fsanitize=${sanitizers} (Debian: libclang-rt-dev)")
    return()
  endif()
endforeach()
message(STATUS "sanitizers of ${ORIEL_CLANG}; for g++'s: CXX=g++ and a new build folder")
set(CMAKE_CXX_COMPILER "${ORIEL_CLANG}" CACHE FILEPATH "The C++ compiler")
