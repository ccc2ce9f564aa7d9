/* A libcuda.so.1 for machines without one: it lists GPUs, has host memory for GPU memory, and keeps books of what is
 * made and given back. It runs no kernels: what a stream does is to copy, at once or, where that is recorded, later.
 *
 * FAKE_CUDA_INIT: what cuInit answers. FAKE_CUDA_GPUS: how many there are. FAKE_CUDA_BYTES: how much memory one has.
 * FAKE_CUDA_FAIL: "cuEventCreate:3:2", the third call of that function answers 2 and does nothing.
 * fakeCudaAlive tells how many objects there are; what is given back twice, or never was there, is error 400. */
#include <stdint.h>
#include <stdlib.h>
#include <stdio.h>
#include <string.h>

typedef int CUresult;
typedef unsigned long long CUdeviceptr;
enum { OK = 0, INVALID = 1, MEMORY = 2, HANDLE = 400, NOT_READY = 600, UNSUPPORTED = 900, INVALIDATED = 901 };
enum { DEVICE, HOST, STREAM, EVENT, GRAPH, EXEC };

static size_t used;
static int context;

static long setting(const char *name, long otherwise) {
    const char *text = getenv(name);
    return text ? atol(text) : otherwise;
}

/* Whether it is this call that is to fail. */
static int fails(const char *function) {
    static char name[64];
    static int nth, code, known, calls;
    if (!known) {
        const char *text = getenv("FAKE_CUDA_FAIL");
        known = 1;
        if (!text || sscanf(text, "%63[^:]:%d:%d", name, &nth, &code) != 3) name[0] = 0;
    }
    if (strcmp(name, function) != 0) return 0;
    return ++calls == nth ? code : 0;
}
#define MAY_FAIL do { int code_ = fails(__func__); if (code_) return code_; } while (0)

typedef struct Copy { void *to; const void *from; size_t bytes; struct Copy *next; } Copy;

/* All that is alive, of every kind. */
typedef struct Thing {
    int kind;
    size_t bytes;
    void *memory;
    int recorded, capturing, invalidated; /* of events, of streams */
    Copy *copies;                         /* of graphs, and of streams that record one */
    struct Thing *next;
} Thing;

static Thing *things;

static Thing *make(int kind, size_t bytes) {
    Thing *made = calloc(1, sizeof *made);
    made->kind = kind;
    made->bytes = bytes;
    made->memory = bytes ? malloc(bytes) : made;
    made->next = things;
    return things = made;
}

static Thing *find(int kind, const void *memory) {
    for (Thing *each = things; each; each = each->next)
        if (each->kind == kind && each->memory == memory) return each;
    return NULL;
}

static CUresult forget(int kind, const void *memory) {
    for (Thing **each = &things; *each; each = &(*each)->next) {
        if ((*each)->kind != kind || (*each)->memory != memory) continue;
        Thing *gone = *each;
        *each = gone->next;
        if (kind == DEVICE) used -= gone->bytes;
        for (Copy *copy = gone->copies; copy;) { Copy *next = copy->next; free(copy); copy = next; }
        if (gone->memory != gone) free(gone->memory);
        free(gone);
        return OK;
    }
    return HANDLE;
}

static void put(Thing *in, void *to, const void *from, size_t bytes) {
    Copy **last = &in->copies;
    while (*last) last = &(*last)->next;
    *last = malloc(sizeof **last);
    **last = (Copy){to, from, bytes, NULL};
}

/* Work that must not be recorded ends the recording of every stream. */
static int recording(void) {
    int found = 0;
    for (Thing *each = things; each; each = each->next)
        if (each->kind == STREAM && each->capturing) found = each->invalidated = 1;
    return found;
}

int fakeCudaAlive(void) {
    int count = 0;
    for (Thing *each = things; each; each = each->next) count++;
    return count;
}

CUresult cuInit(unsigned flags) { (void)flags; return (CUresult)setting("FAKE_CUDA_INIT", 0); }
CUresult cuDriverGetVersion(int *version) { *version = 12060; return OK; }
CUresult cuDeviceGetCount(int *count) { *count = (int)setting("FAKE_CUDA_GPUS", 1); return OK; }
CUresult cuDeviceGet(int *device, int ordinal) { *device = ordinal; return ordinal < setting("FAKE_CUDA_GPUS", 1) ? OK : 101; }
CUresult cuDeviceGetName(char *name, int length, int device) { snprintf(name, length, "Fake GPU %d", device); return OK; }
CUresult cuDeviceTotalMem_v2(size_t *bytes, int device) { (void)device; *bytes = setting("FAKE_CUDA_BYTES", 1 << 20); return OK; }
CUresult cuDeviceGetAttribute(int *value, int what, int device) {
    (void)device;
    *value = what == 75 ? 8 : what == 76 ? 7 : what == 18;
    return OK;
}
CUresult cuDevicePrimaryCtxRetain(void **made, int device) { (void)device; *made = &context; return OK; }
CUresult cuCtxSetCurrent(void *wanted) { return wanted == &context ? OK : 201; }
CUresult cuGetErrorName(CUresult code, const char **text) {
    *text = code == 100 ? "CUDA_ERROR_NO_DEVICE" : code == MEMORY ? "CUDA_ERROR_OUT_OF_MEMORY" : NULL;
    return *text ? OK : INVALID;
}
CUresult cuGetErrorString(CUresult code, const char **text) {
    *text = code == 100 ? "no CUDA-capable device is detected" : NULL;
    return *text ? OK : INVALID;
}

CUresult cuMemAlloc_v2(CUdeviceptr *address, size_t bytes) {
    MAY_FAIL;
    if (recording()) return UNSUPPORTED;
    if (used + bytes > (size_t)setting("FAKE_CUDA_BYTES", 1 << 20)) return MEMORY;
    used += bytes;
    *address = (CUdeviceptr)(uintptr_t)make(DEVICE, bytes)->memory;
    return OK;
}
CUresult cuMemFree_v2(CUdeviceptr address) { MAY_FAIL; return forget(DEVICE, (void *)(uintptr_t)address); }
CUresult cuMemHostAlloc(void **address, size_t bytes, unsigned flags) {
    (void)flags;
    MAY_FAIL;
    *address = make(HOST, bytes)->memory;
    return OK;
}
CUresult cuMemFreeHost(void *address) { MAY_FAIL; return forget(HOST, address); }

static CUresult copy(void *to, const void *from, size_t bytes, void *stream, int device, const void *there, int host,
                     const void *here) {
    Thing *on = find(STREAM, stream), *far = find(device, there), *near = find(host, here);
    if (!on || !far || !near || bytes > far->bytes || bytes > near->bytes) return HANDLE;
    if (on->capturing) put(on, to, from, bytes);
    else memcpy(to, from, bytes);
    return OK;
}
CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void *from, size_t bytes, void *stream) {
    MAY_FAIL;
    void *there = (void *)(uintptr_t)to;
    return copy(there, from, bytes, stream, DEVICE, there, HOST, from);
}
CUresult cuMemcpyDtoHAsync_v2(void *to, CUdeviceptr from, size_t bytes, void *stream) {
    MAY_FAIL;
    const void *there = (const void *)(uintptr_t)from;
    return copy(to, there, bytes, stream, DEVICE, there, HOST, to);
}

CUresult cuStreamCreate(void **stream, unsigned flags) {
    MAY_FAIL;
    if (flags != 1) return INVALID;
    *stream = make(STREAM, 0);
    return OK;
}
CUresult cuStreamDestroy_v2(void *stream) { MAY_FAIL; return forget(STREAM, stream); }
CUresult cuStreamSynchronize(void *stream) {
    MAY_FAIL;
    Thing *on = find(STREAM, stream);
    if (!on) return HANDLE;
    if (on->capturing) on->invalidated = 1;
    return on->capturing ? UNSUPPORTED : OK;
}

static int ticks;

CUresult cuEventCreate(void **event, unsigned flags) {
    MAY_FAIL;
    if (flags != 0) return INVALID; /* 2: an event that tells no time */
    *event = make(EVENT, 0);
    return OK;
}
CUresult cuEventDestroy_v2(void *event) { MAY_FAIL; return forget(EVENT, event); }
CUresult cuEventRecord(void *event, void *stream) {
    MAY_FAIL;
    Thing *mark = find(EVENT, event);
    if (!mark || !find(STREAM, stream)) return HANDLE;
    mark->recorded = ++ticks;
    return OK;
}
CUresult cuEventElapsedTime(float *milliseconds, void *first, void *last) {
    MAY_FAIL;
    Thing *from = find(EVENT, first), *to = find(EVENT, last);
    if (!from || !to || !from->recorded || !to->recorded) return HANDLE;
    *milliseconds = (float)(to->recorded - from->recorded);
    return OK;
}

CUresult cuStreamBeginCapture_v2(void *stream, int mode) {
    MAY_FAIL;
    Thing *on = find(STREAM, stream);
    if (!on || on->capturing || mode != 1) return HANDLE;
    on->capturing = 1;
    on->invalidated = 0;
    return OK;
}
CUresult cuStreamEndCapture(void *stream, void **graph) {
    Thing *on = find(STREAM, stream);
    if (!on || !on->capturing) return HANDLE;
    on->capturing = 0;
    Copy *copies = on->copies;
    on->copies = NULL;
    Thing *made = make(GRAPH, 0);
    made->copies = copies;
    int code = fails(__func__);
    if (on->invalidated && !code) code = INVALIDATED;
    if (code) {
        forget(GRAPH, made);
        *graph = NULL;
        return code;
    }
    *graph = made;
    return OK;
}
CUresult cuGraphInstantiateWithFlags(void **exec, void *graph, unsigned long long flags) {
    MAY_FAIL;
    Thing *from = find(GRAPH, graph);
    if (!from || flags) return HANDLE;
    Thing *made = make(EXEC, 0);
    for (Copy *each = from->copies; each; each = each->next) put(made, each->to, each->from, each->bytes);
    *exec = made;
    return OK;
}
CUresult cuGraphLaunch(void *exec, void *stream) {
    MAY_FAIL;
    Thing *what = find(EXEC, exec);
    if (!what || !find(STREAM, stream)) return HANDLE;
    for (Copy *each = what->copies; each; each = each->next) memcpy(each->to, each->from, each->bytes);
    return OK;
}
CUresult cuGraphDestroy(void *graph) { MAY_FAIL; return forget(GRAPH, graph); }
CUresult cuGraphExecDestroy(void *exec) { MAY_FAIL; return forget(EXEC, exec); }
