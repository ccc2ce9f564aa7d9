/* A libcuda.so.1 for machines without one: it lists GPUs and has host memory for GPU memory. It runs no kernels.
 *
 * FAKE_CUDA_INIT: what cuInit answers. FAKE_CUDA_GPUS: how many there are. FAKE_CUDA_BYTES: how much memory one has. */
#include <stdint.h>
#include <stdlib.h>
#include <stdio.h>
#include <string.h>

typedef int CUresult;
typedef unsigned long long CUdeviceptr;

static size_t used;

static long setting(const char *name, long otherwise) {
    const char *text = getenv(name);
    return text ? atol(text) : otherwise;
}

CUresult cuInit(unsigned flags) { (void)flags; return (CUresult)setting("FAKE_CUDA_INIT", 0); }
CUresult cuDriverGetVersion(int *version) { *version = 12060; return 0; }
CUresult cuDeviceGetCount(int *count) { *count = (int)setting("FAKE_CUDA_GPUS", 1); return 0; }
CUresult cuDeviceGet(int *device, int ordinal) { *device = ordinal; return ordinal < setting("FAKE_CUDA_GPUS", 1) ? 0 : 101; }
CUresult cuDeviceGetName(char *name, int length, int device) { snprintf(name, length, "Fake GPU %d", device); return 0; }
CUresult cuDeviceTotalMem_v2(size_t *bytes, int device) { (void)device; *bytes = setting("FAKE_CUDA_BYTES", 1 << 20); return 0; }
CUresult cuDeviceGetAttribute(int *value, int what, int device) {
    (void)device;
    *value = what == 75 ? 8 : what == 76 ? 7 : what == 18;
    return 0;
}
CUresult cuDevicePrimaryCtxRetain(void **context, int device) { (void)device; *context = &used; return 0; }
CUresult cuCtxSetCurrent(void *context) { return context == &used ? 0 : 201; }
CUresult cuGetErrorName(CUresult code, const char **text) {
    *text = code == 100 ? "CUDA_ERROR_NO_DEVICE" : code == 2 ? "CUDA_ERROR_OUT_OF_MEMORY" : NULL;
    return *text ? 0 : 1;
}
CUresult cuGetErrorString(CUresult code, const char **text) {
    *text = code == 100 ? "no CUDA-capable device is detected" : NULL;
    return *text ? 0 : 1;
}
CUresult cuMemAlloc_v2(CUdeviceptr *address, size_t bytes) {
    if (used + bytes > (size_t)setting("FAKE_CUDA_BYTES", 1 << 20)) return 2;
    size_t *block = malloc(sizeof(size_t) + bytes);
    *block = bytes;
    used += bytes;
    *address = (CUdeviceptr)(uintptr_t)(block + 1);
    return 0;
}
CUresult cuMemFree_v2(CUdeviceptr address) {
    size_t *block = (size_t *)(uintptr_t)address - 1;
    used -= *block;
    free(block);
    return 0;
}
CUresult cuMemHostAlloc(void **address, size_t bytes, unsigned flags) { (void)flags; *address = malloc(bytes); return *address ? 0 : 2; }
CUresult cuMemFreeHost(void *address) { free(address); return 0; }
CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void *from, size_t bytes, void *stream) {
    (void)stream;
    memcpy((void *)(uintptr_t)to, from, bytes);
    return 0;
}
CUresult cuMemcpyDtoHAsync_v2(void *to, CUdeviceptr from, size_t bytes, void *stream) {
    (void)stream;
    memcpy(to, (const void *)(uintptr_t)from, bytes);
    return 0;
}
CUresult cuStreamCreate(void **stream, unsigned flags) { *stream = &used; return flags == 1 ? 0 : 1; }
CUresult cuStreamSynchronize(void *stream) { return stream == &used ? 0 : 400; }
