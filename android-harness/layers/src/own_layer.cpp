#include "own_layer.h"

#include <limits.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

namespace mobilekit_layers {

namespace {

const int kFirstOutputDims = 20;  // the param id of output 0's dims
const size_t kStepsWorthAThread = 1 << 15;

size_t plane_of(const ncnn::Mat& mat) { return static_cast<size_t>(mat.w) * mat.h * mat.d; }

// Branchless, so that it becomes vector code; `to` gets something for numbers that are no positions.
bool all_good(const float* from, int count, int limit, int* to) {
    int bad = 0;
    for (int i = 0; i < count; i++) {
        const float value = from[i];
        const bool small = value >= -static_cast<float>(kExactIntegers) && value <= static_cast<float>(kExactIntegers);
        const int whole = static_cast<int>(small ? value : 0.5f);
        const int wrapped = whole < 0 ? whole + limit : whole;
        bad |= (static_cast<float>(whole) != value) | (wrapped < 0) | (wrapped >= limit);
        to[i] = wrapped;
    }
    return bad == 0;
}

// The first number that is no position, or -1.
int first_bad(const float* from, int count, int limit, int* to) {
    const int kBlock = 1024;
    for (int begin = 0; begin < count; begin += kBlock) {
        const int size = count - begin < kBlock ? count - begin : kBlock;
        if (all_good(from + begin, size, limit, to + begin)) continue;
        int at = begin;
        while (all_good(from + at, 1, limit, to + at)) at++;
        return at;
    }
    return -1;
}

}  // namespace

int Dims::product(int begin, int end) const {
    int all = 1;
    for (int i = begin; i < end; i++) all *= size[i];
    return all;
}

bool resolve(Dims& dims, size_t total) {
    uint64_t known = 1;
    int open = -1;
    for (int i = 0; i < dims.count; i++) {
        if (dims.size[i] == -1) {
            if (open >= 0) return false;
            open = i;
        } else {
            if (dims.size[i] <= 0) return false;
            known *= static_cast<uint64_t>(dims.size[i]);
            if (known > total) return false;
        }
    }
    if (open < 0) return known == total;
    if (total == 0 || total % known != 0) return false;
    dims.size[open] = static_cast<int>(total / known);
    return true;
}

void Output::finish() {
    if (storage.empty() || top->data == storage.data) return;
    const size_t plane = plane_of(*top);
    for (int c = 0; c < top->c; c++)
        memcpy(top->channel(c).data, data + plane * static_cast<size_t>(c), plane * sizeof(float));
}

int threads_for(size_t steps, const ncnn::Option& opt) {
    const size_t worth = steps / kStepsWorthAThread;
    if (worth < 2 || opt.num_threads < 2) return 1;
    return worth < static_cast<size_t>(opt.num_threads) ? static_cast<int>(worth) : opt.num_threads;
}

// The flags say that we take plain float32 and nothing else: ncnn converts before it calls.
OwnLayer::OwnLayer() {
    one_blob_only = false;
    support_inplace = false;
    support_packing = false;
    support_fp16_storage = false;
    support_bf16_storage = false;
    support_int8_storage = false;
    support_vulkan = false;
}

int OwnLayer::load_param(const ncnn::ParamDict& pd) {
    for (int i = 0; i < kMaxOutputs; i++) {
        if (!read_dims(pd, kFirstOutputDims + i, output_dims_[i]) || output_dims_[i].count > 4)
            return fail("the dims of output %d are no list of 1 to 4 sizes", i);
    }
    return 0;
}

int OwnLayer::fail(const char* format, ...) const {
    char text[256];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof(text), format, arguments);
    va_end(arguments);
#if NCNN_STRING
    NCNN_LOGE("%s layer '%s': %s", type.c_str(), name.c_str(), text);
#else
    NCNN_LOGE("a mobilekit layer: %s", text);
#endif
    return -1;
}

bool OwnLayer::read_dims(const ncnn::ParamDict& pd, int id, Dims& dims) {
    dims.count = 0;
    const int kind = pd.type(id);
    if (kind == 0) return true;
    if (kind != 4 && kind != 5) return false;  // an array, of the binary format's or of integers (paramdict.cpp)
    const ncnn::Mat list = pd.get(id, ncnn::Mat());
    if (list.w < 1 || list.w > kMaxRank) return false;
    dims.count = list.w;
    memcpy(dims.size, list.data, static_cast<size_t>(list.w) * sizeof(int));
    return true;
}

Dims OwnLayer::read_factors(const ncnn::ParamDict& pd) { return Dims(pd.get(0, 1), pd.get(1, 1), pd.get(2, 1)); }

int OwnLayer::read(const ncnn::Mat& blob, Sequence& sequence, const ncnn::Option& opt) const {
    if (blob.empty()) return fail("an input is empty");
    if (blob.elempack != 1 || blob.elemsize != sizeof(float))
        return fail("an input is no plain float32: is this layer's feature mask set? It must not be");
    const size_t plane = plane_of(blob);
    const size_t count = plane * static_cast<size_t>(blob.c);
    if (count > INT_MAX) return fail("an input of %llu elements is too large", static_cast<unsigned long long>(count));
    sequence.count = static_cast<int>(count);
    if (blob.c == 1 || blob.cstep == plane) {
        sequence.data = blob;
        return 0;
    }
    MK_TRY(scratch(count, sizeof(float), sequence.storage, opt));
    float* to = sequence.storage;
    for (int c = 0; c < blob.c; c++)
        memcpy(to + plane * static_cast<size_t>(c), blob.channel(c).data, plane * sizeof(float));
    sequence.data = to;
    return 0;
}

int OwnLayer::read(const std::vector<ncnn::Mat>& blobs, int count, Sequence* sequences, const ncnn::Option& opt) const {
    if (blobs.size() != static_cast<size_t>(count))
        return fail("it has %d inputs and takes %d", static_cast<int>(blobs.size()), count);
    for (int i = 0; i < count; i++) MK_TRY(read(blobs[static_cast<size_t>(i)], sequences[i], opt));
    return 0;
}

int OwnLayer::resolved(const Dims& given, const Sequence& sequence, Dims& dims, const char* what) const {
    dims = given;
    if (resolve(dims, static_cast<size_t>(sequence.count))) return 0;
    return fail("%s has %d elements, which its dims do not make", what, sequence.count);
}

int OwnLayer::open(std::vector<ncnn::Mat>& tops, int index, size_t count, Output& output, const ncnn::Option& opt) const {
    Dims dims = output_dims_[index];
    if (count == 0 || count > INT_MAX)
        return fail("output %d would have %llu elements", index, static_cast<unsigned long long>(count));
    if (dims.count == 0) {
        dims.count = 1;
        dims.size[0] = -1;
    }
    if (!resolve(dims, count))
        return fail("output %d has %llu elements, which its dims do not make", index, static_cast<unsigned long long>(count));
    // A layer may be asked for fewer outputs than it has: what it writes then goes to nobody.
    if (index >= static_cast<int>(tops.size())) {
        MK_TRY(scratch(count, sizeof(float), output.storage, opt));
        output.data = output.storage;
        output.top = &output.storage;
        return 0;
    }
    ncnn::Mat& top = tops[static_cast<size_t>(index)];
    const int* s = dims.size;
    if (dims.count == 1) top.create(s[0], sizeof(float), opt.blob_allocator);
    if (dims.count == 2) top.create(s[1], s[0], sizeof(float), opt.blob_allocator);
    if (dims.count == 3) top.create(s[2], s[1], s[0], sizeof(float), opt.blob_allocator);
    if (dims.count == 4) top.create(s[3], s[2], s[1], s[0], sizeof(float), opt.blob_allocator);
    if (top.empty()) return kOutOfMemory;
    output.top = &top;
    if (top.c == 1 || top.cstep == plane_of(top)) {
        output.data = top;
        return 0;
    }
    MK_TRY(scratch(count, sizeof(float), output.storage, opt));
    output.data = output.storage;
    return 0;
}

int OwnLayer::scratch(size_t count, size_t element_bytes, ncnn::Mat& mat, const ncnn::Option& opt) const {
    if (count > INT_MAX) return kOutOfMemory;
    mat.create(static_cast<int>(count), element_bytes, opt.workspace_allocator);
    return mat.empty() ? kOutOfMemory : 0;
}

int OwnLayer::positions(const float* from, int count, int limit, int* to, const char* what) const {
    const int bad = first_bad(from, count, limit, to);
    if (bad < 0) return 0;
    return fail("%s: number %d is %g, no whole number from %d to %d", what, bad, static_cast<double>(from[bad]), -limit,
                limit - 1);
}

}  // namespace mobilekit_layers
