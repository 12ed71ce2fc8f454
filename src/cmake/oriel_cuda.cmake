# oriel::cuda - what include/oriel/kernels declares in namespace oriel::cuda, for sm_90a by default.
# CMake's own search sees nvcc on PATH or in CUDACXX; the toolkit's usual folder is looked into here.
if(NOT CMAKE_CUDA_COMPILER AND NOT DEFINED ENV{CUDACXX})
  find_program(ORIEL_NVCC nvcc HINTS ENV CUDA_PATH ENV CUDA_HOME PATHS /usr/local/cuda PATH_SUFFIXES bin)
  mark_as_advanced(ORIEL_NVCC)
  if(NOT ORIEL_NVCC)
    message(FATAL_ERROR "ORIEL_CUDA=ON needs the CUDA toolkit, and there is no nvcc on PATH, in "
                        "CUDA_PATH, CUDA_HOME or /usr/local/cuda/bin. Install it, or set CUDACXX.")
  endif()
  set(CMAKE_CUDA_COMPILER ${ORIEL_NVCC})
endif()
if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
  set(CMAKE_CUDA_ARCHITECTURES 90a)
endif()
enable_language(CUDA)
# CMake before 3.26 does not know that nvcc takes C++20.
foreach(kind STANDARD EXTENSION)
  if(NOT CMAKE_CUDA20_${kind}_COMPILE_OPTION)
    set(CMAKE_CUDA20_${kind}_COMPILE_OPTION -std=c++20)
  endif()
endforeach()
find_package(CUDAToolkit REQUIRED)

file(GLOB oriel_cuda_sources CONFIGURE_DEPENDS kernels/cuda/*.cu)
add_library(oriel_cuda ${oriel_cuda_sources})
add_library(oriel::cuda ALIAS oriel_cuda)
set_target_properties(oriel_cuda PROPERTIES EXPORT_NAME cuda CXX_EXTENSIONS OFF CUDA_EXTENSIONS OFF
                      CUDA_STANDARD 20 CUDA_STANDARD_REQUIRED ON POSITION_INDEPENDENT_CODE ON)
target_include_directories(oriel_cuda PRIVATE kernels)
# Device code calls the library's constexpr functions. -fmad=false: as on the host, a fused
# multiply-add is written, never guessed.
target_compile_options(oriel_cuda PRIVATE
  $<$<COMPILE_LANGUAGE:CUDA>:--expt-relaxed-constexpr -fmad=false -lineinfo>)
target_link_libraries(oriel_cuda PUBLIC oriel::oriel CUDA::cudart)

# Dense products are cuBLASLt's (device_gemm.hpp). It belongs to the toolkit, but may be left out of an
# installation: then it is taken from ORIEL_CUBLASLT_DIR, which Python's packages have as well. Without it
# gemm_library::create() says so, and grouped_gemm.hpp multiplies all the same.
set(ORIEL_CUBLASLT AUTO CACHE STRING "Use cuBLASLt for dense products: OFF, ON, or AUTO (where found)")
set_property(CACHE ORIEL_CUBLASLT PROPERTY STRINGS OFF ON AUTO)
set(ORIEL_CUBLASLT_DIR "" CACHE PATH "Folder of cuBLASLt's include and lib, where the toolkit has none")
find_file(ORIEL_CUBLASLT_HEADER cublasLt.h HINTS ${CUDAToolkit_INCLUDE_DIRS} NO_DEFAULT_PATH)
mark_as_advanced(ORIEL_CUBLASLT_HEADER)
set(ORIEL_CUBLASLT_TARGET "")
set(ORIEL_CUBLASLT_INCLUDE "")  # The toolkit's is known.
if(ORIEL_CUBLASLT AND ORIEL_CUBLASLT_HEADER)
  foreach(target CUDA::cublasLt CUDA::cublasLt_static)
    if(NOT ORIEL_CUBLASLT_TARGET AND TARGET ${target})
      set(ORIEL_CUBLASLT_TARGET ${target})
    endif()
  endforeach()
endif()
if(ORIEL_CUBLASLT AND NOT ORIEL_CUBLASLT_TARGET AND ORIEL_CUBLASLT_DIR)
  find_path(cublaslt_include cublasLt.h HINTS ${ORIEL_CUBLASLT_DIR} PATH_SUFFIXES include NO_DEFAULT_PATH NO_CACHE)
  find_library(cublaslt_library NAMES cublasLt libcublasLt.so.${CUDAToolkit_VERSION_MAJOR} NAMES_PER_DIR
               HINTS ${ORIEL_CUBLASLT_DIR} PATH_SUFFIXES lib lib64 NO_DEFAULT_PATH NO_CACHE)
  if(cublaslt_include AND cublaslt_library)
    # Alone: beside it there may be headers of another toolkit.
    set(ORIEL_CUBLASLT_INCLUDE ${PROJECT_BINARY_DIR}/cublaslt)
    file(COPY ${cublaslt_include}/cublasLt.h ${cublaslt_include}/cublas_api.h DESTINATION ${ORIEL_CUBLASLT_INCLUDE})
    set(ORIEL_CUBLASLT_TARGET ${cublaslt_library})
    message(STATUS "oriel::cuda with ${cublaslt_library}, by whose path an installed package finds it, too")
  endif()
endif()
if(ORIEL_CUBLASLT_TARGET)
  target_compile_definitions(oriel_cuda PRIVATE ORIEL_HAS_CUBLASLT)
  target_include_directories(oriel_cuda SYSTEM PRIVATE ${ORIEL_CUBLASLT_INCLUDE})
  target_link_libraries(oriel_cuda PRIVATE ${ORIEL_CUBLASLT_TARGET})
elseif(ORIEL_CUBLASLT AND NOT ORIEL_CUBLASLT STREQUAL "AUTO")
  message(FATAL_ERROR "ORIEL_CUBLASLT=ON, and neither the toolkit in ${CUDAToolkit_LIBRARY_DIR} nor "
                      "ORIEL_CUBLASLT_DIR has cuBLASLt")
else()
  message(STATUS "oriel::cuda without cuBLASLt: gemm_library::create() will refuse")
endif()
