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

include(src/cmake/oriel_cublaslt.cmake)
if(ORIEL_CUBLASLT_TARGET)
  target_compile_definitions(oriel_cuda PRIVATE ORIEL_HAS_CUBLASLT)
  target_include_directories(oriel_cuda SYSTEM PRIVATE ${ORIEL_CUBLASLT_INCLUDE})
  target_link_libraries(oriel_cuda PRIVATE ${ORIEL_CUBLASLT_TARGET})
endif()
