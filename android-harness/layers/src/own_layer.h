// What our layers share: sequences out of Mats and into Mats, lists of dims, positions, messages.
#ifndef MOBILEKIT_OWN_LAYER_H
#define MOBILEKIT_OWN_LAYER_H

#include <layer.h>
#include <net.h>

// The loop that follows runs in so many threads.
#if defined(_OPENMP)
#define MK_PRAGMA(text) _Pragma(#text)
#define MK_PARALLEL_FOR(threads) MK_PRAGMA(omp parallel for num_threads(threads))
#else
#define MK_PRAGMA(text)
#define MK_PARALLEL_FOR(threads) (void)(threads);
#endif

namespace mobilekit_layers {

const int kMaxRank = 8;
const int kMaxOutputs = 5;
const int kExactIntegers = 1 << 24;  // a float holds every integer up to here
const int kOutOfMemory = -100;       // ncnn's code

// A list of sizes, outermost first. `count` 0: it was not given.
struct Dims {
    int count;
    int size[kMaxRank];

    Dims() : count(0) {}
    Dims(int a, int b, int c) : count(3) {
        size[0] = a;
        size[1] = b;
        size[2] = c;
    }
    // The elements of size[begin] .. size[end - 1] together; only after resolve().
    int product(int begin, int end) const;
};

// Puts in what is left of `total` for the one size that may be -1. False where the sizes do not multiply to `total`.
bool resolve(Dims& dims, size_t total);

// A tensor as its elements one after another. `storage` holds the copy where a Mat's channels are padded.
struct Sequence {
    const float* data;
    int count;
    ncnn::Mat storage;

    Sequence() : data(0), count(0) {}
};

// Where a layer writes an output's elements one after another; finish() brings them into the Mat's channels.
struct Output {
    float* data;
    ncnn::Mat* top;
    ncnn::Mat storage;

    Output() : data(0), top(0) {}
    void finish();
};

class OwnLayer : public ncnn::Layer {
public:
    OwnLayer();
    virtual int load_param(const ncnn::ParamDict& pd);

protected:
    // Says what is wrong and which layer says it; returns -1.
    int fail(const char* format, ...) const
#if defined(__GNUC__)
        __attribute__((format(printf, 2, 3)))
#endif
        ;
    // A list of integers of a layer's params; none where the id is not given. False on anything else.
    static bool read_dims(const ncnn::ParamDict& pd, int id, Dims& dims);
    static Dims read_factors(const ncnn::ParamDict& pd);  // outer, axis, inner: ids 0, 1, 2

    // Each returns 0, -1 after a message, or kOutOfMemory.
    int read(const std::vector<ncnn::Mat>& blobs, int count, Sequence* sequences, const ncnn::Option& opt) const;
    int resolved(const Dims& given, const Sequence& sequence, Dims& dims, const char* what) const;
    int open(std::vector<ncnn::Mat>& tops, int index, size_t count, Output& output, const ncnn::Option& opt) const;
    int scratch(size_t count, size_t element_bytes, ncnn::Mat& mat, const ncnn::Option& opt) const;
    // Positions as integers, negative ones counted from the end of `limit`; -1 where one is out of range.
    int positions(const float* from, int count, int limit, int* to, const char* what) const;

private:
    int read(const ncnn::Mat& blob, Sequence& sequence, const ncnn::Option& opt) const;

    Dims output_dims_[kMaxOutputs];
};

// The layers, for the table in mobilekit_layers.cpp.
ncnn::Layer* make_float32(void*);
ncnn::Layer* make_top_k(void*);
ncnn::Layer* make_arg(void*);
ncnn::Layer* make_gather(void*);
ncnn::Layer* make_gather_elements(void*);
ncnn::Layer* make_gather_nd(void*);
ncnn::Layer* make_scatter_elements(void*);
ncnn::Layer* make_scatter_nd(void*);
ncnn::Layer* make_non_max_suppression(void*);
ncnn::Layer* make_non_zero(void*);
ncnn::Layer* make_pow(void*);
ncnn::Layer* make_div(void*);
ncnn::Layer* make_mod(void*);
ncnn::Layer* make_cum_sum(void*);
ncnn::Layer* make_roi_align(void*);
ncnn::Layer* make_roi_align_max(void*);
ncnn::Layer* make_grid_sample(void*);
ncnn::Layer* make_recurrent(void*);
ncnn::Layer* make_max_pool_indices(void*);
ncnn::Layer* make_lp_pool(void*);
ncnn::Layer* make_unique(void*);
ncnn::Layer* make_tf_idf(void*);

// How many threads `steps` elementary steps are worth.
int threads_for(size_t steps, const ncnn::Option& opt);

}  // namespace mobilekit_layers

// Returns the code of a step that failed.
#define MK_TRY(call)                       \
    do {                                   \
        const int mk_code = (call);        \
        if (mk_code != 0) return mk_code;  \
    } while (0)

#endif  // MOBILEKIT_OWN_LAYER_H
