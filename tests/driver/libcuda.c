/* A driver that is none: it has the functions that the library's table asks for, keeps device memory on the heap, runs no
   kernel, and prints what it is told. Every call that needs a context fails without one, as the real driver's does.
   FAKE_DEVICE chooses what it finds: hopper, ampere, turing, ultra (sm_103), spark (sm_121), none; or refuses: a device whose
   memory is gone. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef void *handle;
enum { CC_MAJOR = 75, CC_MINOR = 76, MULTIPROCESSORS = 16, SHARED_MULTIPROCESSOR = 81, SHARED_BLOCK = 97, CLUSTER = 4 };
#define PRIMARY ((handle)0x1000)
#ifdef SILENT /* For benches/host.rs: what printing takes is not the library's. */
static int nothing(const char *format, ...) { (void)format; return 0; }
#define printf nothing
#define SAY(...) ((void)nothing(__VA_ARGS__))
#else
#define SAY(...) (printf(__VA_ARGS__), putchar('\n'), fflush(stdout))
#endif
#define IN_CONTEXT if (current != PRIMARY && current != (handle)0x3000) return 201

/* What the program had current before the library came. */
static handle current = (handle)0x2000;
static handle below[8];
static int depth, capturing;

static int device_is(const char *name) { const char *d = getenv("FAKE_DEVICE"); return d && !strcmp(d, name); }

int cuInit(unsigned flags) { return device_is("none") ? 100 : (int)flags; }
int cuDriverGetVersion(int *version) { *version = 13000; return 0; }
int cuGetErrorName(int code, const char **name) { *name = "CUDA_ERROR_OF_THE_TEST"; return code == 98765; }
int cuGetErrorString(int code, const char **text) { *text = "words of the test"; return code == 98765; }
int cuDeviceGetCount(int *count) { *count = 1; return 0; }
int cuDeviceGet(int *device, int ordinal) { *device = ordinal; return 0; }
int cuDeviceGetName(char *name, int bytes, int device) { snprintf(name, bytes, "Fake %d", device); return 0; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    (void)device;
    switch (attribute) {
        case CC_MAJOR:
            *value = device_is("turing") ? 7 : device_is("ampere") ? 8 : device_is("ultra") ? 10 : device_is("spark") ? 12 : 9;
            return 0;
        case CC_MINOR: *value = device_is("turing") ? 5 : device_is("ultra") ? 3 : device_is("spark") ? 1 : 0; return 0;
        case MULTIPROCESSORS: *value = 132; return 0;
        case SHARED_MULTIPROCESSOR: *value = device_is("spark") ? 102400 : 233472; return 0;
        case SHARED_BLOCK: *value = device_is("spark") ? 101376 : 232448; return 0;
    }
    return 1;
}
int cuDevicePrimaryCtxRetain(handle *context, int device) { (void)device; *context = PRIMARY; SAY("retain"); return 0; }
int cuDevicePrimaryCtxRelease_v2(int device) { (void)device; SAY("release"); return 0; }
int cuCtxGetCurrent(handle *context) { *context = current; return 0; }
int cuCtxPushCurrent_v2(handle context) {
    if (depth == 8) return 1;
    below[depth++] = current;
    current = context;
    return 0;
}
int cuCtxPopCurrent_v2(handle *context) {
    if (!depth) return 201;
    *context = current;
    current = below[--depth];
    return 0;
}
int cuCtxGetDevice(int *device) { IN_CONTEXT; *device = 0; return 0; }
int cuModuleLoadDataEx(handle *module, const char *image, unsigned count, int *options, handle *values) {
    IN_CONTEXT;
    (void)options, (void)values;
    int binary = !memcmp(image, "\177ELF", 4);
    SAY("load %s into %p", binary ? "cubin" : "ptx", current);
    if (!binary) SAY("of %.16s", strstr(image, ".target") ? strstr(image, ".target") : "no target");
#ifdef BEFORE_HOPPER
    if (binary) return 209;
    if (!strstr(image, ".target sm_80\n")) return 222;
#endif
#ifdef BEFORE_13
    if (binary) return 209;
#endif
    *module = malloc(1);
    return count;
}
int cuModuleUnload(handle module) { IN_CONTEXT; free(module); SAY("unload"); return 0; }
int cuModuleGetFunction(handle *f, handle module, const char *name) { IN_CONTEXT; (void)module; *f = strdup(name); return 0; }
int cuFuncSetAttribute(handle f, int attribute, int value) { IN_CONTEXT; SAY("%s: attribute %d = %d", (char *)f, attribute, value); return 0; }
int cuLaunchKernel(handle f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared,
                   handle stream, handle *arguments, handle *extra) {
    IN_CONTEXT;
    (void)stream, (void)arguments;
    SAY("launch %s <<<%u, %u, %u>>>", (char *)f, gx, bx, shared);
    return gy != 1 || gz != 1 || by != 1 || bz != 1 || extra;
}
#ifndef BEFORE_11_8
struct config { unsigned grid[3], block[3], shared; handle stream; uint32_t *attributes; unsigned count; };
int cuLaunchKernelEx(const struct config *c, handle f, handle *arguments, handle *extra) {
    IN_CONTEXT;
    (void)arguments;
    printf("launch %s <<<%u, %u, %u>>>", (char *)f, c->grid[0], c->block[0], c->shared);
    int bad = !c->count || extra || c->grid[1] != 1 || c->grid[2] != 1 || c->block[1] != 1 || c->block[2] != 1;
    for (unsigned i = 0; i < c->count; ++i) {
        const uint32_t *attribute = c->attributes + 18 * i, *value = attribute + 2;
        printf(" with attribute %u = %u", attribute[0], value[0]);
        if (attribute[0] == CLUSTER) bad |= value[1] != 1 || value[2] != 1 || c->grid[0] % value[0];
    }
    SAY("%s", "");
    return bad;
}
/* The "ultra" has no room for clusters of 16. */
int cuOccupancyMaxActiveClusters(int *clusters, handle f, const struct config *c) {
    IN_CONTEXT;
    if (c->count != 1 || c->attributes[0] != CLUSTER || c->grid[0] % c->attributes[2]) return 1;
    *clusters = device_is("ultra") && c->attributes[2] > 8 ? 0 : 120 / c->attributes[2];
    SAY("%s: room for clusters of %u with %u: %d", (char *)f, c->attributes[2], c->shared, *clusters);
    return 0;
}
#endif
#ifndef BEFORE_12
int cuTensorMapEncodeTiled(uint64_t *map, int type, unsigned rank, uint64_t address, const uint64_t *sizes, const uint64_t *strides,
                           const uint32_t *box, const uint32_t *steps, int interleave, int swizzle, int promotion, int fill) {
    IN_CONTEXT;
    int bad = (uintptr_t)map % 64 || !address || address % 16 || interleave || promotion != 3 || fill;
    printf("map of type %d, swizzle %d:", type, swizzle);
    for (unsigned i = 0; i < rank; ++i) {
        printf(" %u of %llu", box[i], (unsigned long long)sizes[i]);
        if (i) printf(" by %llu", (unsigned long long)strides[i - 1]);
        bad |= steps[i] != 1;
    }
    SAY("%s", "");
    memset(map, 0x5a, 128);
    return bad;
}
#endif
int cuMemAlloc_v2(uint64_t *address, size_t bytes) {
    IN_CONTEXT;
    if (device_is("refuses")) return bytes == 7 ? 98765 : 2;
    *address = (uint64_t)aligned_alloc(256, (bytes + 255) / 256 * 256);
    return 0;
}
int cuMemFree_v2(uint64_t address) { IN_CONTEXT; free((handle)address); return 0; }
int cuMemHostAlloc(handle *address, size_t bytes, unsigned flags) { IN_CONTEXT; *address = malloc(bytes); SAY("pin"); return flags != 1; }
int cuMemFreeHost(handle address) { IN_CONTEXT; free(address); SAY("unpin"); return 0; }
int cuMemcpyHtoD_v2(uint64_t to, const void *from, size_t bytes) { IN_CONTEXT; memcpy((handle)to, from, bytes); return 0; }
int cuMemcpyDtoH_v2(void *to, uint64_t from, size_t bytes) { IN_CONTEXT; memcpy(to, (handle)from, bytes); return 0; }
int cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t bytes, handle stream) {
    IN_CONTEXT;
    (void)stream;
    memcpy((handle)to, from, bytes);
    SAY("copy");
    return 0;
}
int cuStreamCreate(handle *stream, unsigned flags) { IN_CONTEXT; *stream = malloc(1); return flags; }
int cuStreamDestroy_v2(handle stream) { IN_CONTEXT; free(stream); return 0; }
int cuStreamSynchronize(handle stream) { IN_CONTEXT; (void)stream; return 0; }
int cuStreamIsCapturing(handle stream, int *status) { IN_CONTEXT; (void)stream; *status = capturing; return 0; }
int cuStreamBeginCapture_v2(handle stream, int mode) { IN_CONTEXT; (void)stream; capturing = 1; SAY("begin"); return mode != 1; }
int cuStreamEndCapture(handle stream, handle *graph) { IN_CONTEXT; (void)stream; capturing = 0; *graph = malloc(1); SAY("end"); return 0; }
int cuGraphInstantiateWithFlags(handle *executable, handle graph, uint64_t flags) { IN_CONTEXT; (void)graph; *executable = malloc(1); return (int)flags; }
int cuGraphLaunch(handle executable, handle stream) { IN_CONTEXT; (void)executable, (void)stream; SAY("replay"); return 0; }
int cuGraphExecDestroy(handle executable) { IN_CONTEXT; free(executable); return 0; }
int cuGraphDestroy(handle graph) { IN_CONTEXT; free(graph); return 0; }
int cuEventCreate(handle *event, unsigned flags) { IN_CONTEXT; (void)flags; *event = malloc(1); return 0; }
int cuEventDestroy_v2(handle event) { IN_CONTEXT; free(event); return 0; }
int cuEventRecord(handle event, handle stream) { IN_CONTEXT; (void)event, (void)stream; return 0; }
int cuEventSynchronize(handle event) { IN_CONTEXT; (void)event; return 0; }
#ifndef BEFORE_11_4
int cuEventElapsedTime(float *ms, handle from, handle to) { IN_CONTEXT; (void)from, (void)to; *ms = 1.5f; return 0; }
#endif
__attribute__((destructor)) static void at_exit(void) { SAY("at exit %p is current, %d below", current, depth); }
