# How ncnn is built for the harness: `cmake -C` reads this before ncnn's own CMakeLists.txt.
# Every layer that the ncnn wheel has stays in, so that what runs there runs here.

foreach(_off IN ITEMS
    NCNN_BUILD_BENCHMARK NCNN_BUILD_EXAMPLES NCNN_BUILD_TESTS NCNN_BUILD_TOOLS NCNN_PYTHON
    NCNN_C_API NCNN_PLATFORM_API NCNN_SIMPLEOCV NCNN_SHARED_LIB NCNN_COVERAGE
    NCNN_PIXEL_ROTATE NCNN_PIXEL_AFFINE NCNN_PIXEL_DRAWING
    NCNN_DISABLE_RTTI NCNN_DISABLE_EXCEPTION
    # x86-64 phones and emulators stop at AVX2; each of these would compile every kernel once more.
    NCNN_AVX512 NCNN_AVXVNNI NCNN_AVXNECONVERT NCNN_XOP NCNN_FMA4)
  set(${_off} OFF CACHE BOOL "set by mobilekit" FORCE)
endforeach()

foreach(_on IN ITEMS
    NCNN_INSTALL_SDK NCNN_STDIO NCNN_STRING NCNN_THREADS NCNN_OPENMP
    NCNN_INT8 NCNN_BF16 NCNN_WEIGHT_QUANT NCNN_BATCH NCNN_VALIDATION NCNN_RUNTIME_CPU
    NCNN_PIXEL)  # what apps prepare pictures with, for the request PIXELS
  set(${_on} ON CACHE BOOL "set by mobilekit" FORCE)
endforeach()

set(CMAKE_BUILD_TYPE Release CACHE STRING "set by mobilekit" FORCE)
