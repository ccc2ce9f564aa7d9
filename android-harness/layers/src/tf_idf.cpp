// MkTfIdf: ONNX's TfIdfVectorizer over integers.
#include <string.h>

#include "own_layer.h"

namespace mobilekit_layers {

namespace {

enum Mode { kTf = 0, kIdf = 1, kTfIdf = 2 };

class TfIdf : public OwnLayer {
public:
    int load_param(const ncnn::ParamDict& pd) {
        MK_TRY(OwnLayer::load_param(pd));
        rows_ = pd.get(0, 1);
        columns_ = pd.get(1, -1);
        mode_ = pd.get(3, 0);
        shortest_ = pd.get(4, 1);
        longest_ = pd.get(5, 1);
        skips_ = pd.get(6, 0);
        size_ = pd.get(7, 0);
        if (mode_ < kTf || mode_ > kTfIdf || shortest_ < 1 || longest_ < shortest_ || skips_ < 0 || size_ < 1)
            return fail("mode %d, grams of %d to %d, %d skips, %d outputs", mode_, shortest_, longest_, skips_, size_);
        if (!list(pd, 10, false, pool_) || !list(pd, 11, false, begins_) || !list(pd, 12, false, columns_of_) ||
            !list(pd, 13, true, weights_) || pool_.empty() || begins_.empty() || columns_of_.empty())
            return fail("needs a pool (10), ngram_counts (11) and ngram_indexes (12)");
        return check();
    }

    int forward(const std::vector<ncnn::Mat>& bottoms, std::vector<ncnn::Mat>& tops, const ncnn::Option& opt) const {
        Sequence x;
        MK_TRY(read(bottoms, 1, &x, opt));
        Dims dims;
        MK_TRY(resolved(Dims(rows_, columns_, 1), x, dims, "the input"));
        Output out;
        MK_TRY(open(tops, 0, static_cast<size_t>(dims.size[0]) * size_, out, opt));
        memset(out.data, 0, static_cast<size_t>(dims.size[0]) * size_ * sizeof(float));
        const float* data = x.data;
        const int rows = dims.size[0], columns = dims.size[1];
        const int threads = threads_for(static_cast<size_t>(x.count) * pool_.w, opt);
        MK_PARALLEL_FOR(threads)
        for (int row = 0; row < rows; row++) {
            float* to = out.data + static_cast<size_t>(row) * size_;
            count(data + static_cast<size_t>(row) * columns, columns, to);
        }
        out.finish();
        return 0;
    }

private:
    static bool list(const ncnn::ParamDict& pd, int id, bool floats, ncnn::Mat& values) {
        const int kind = pd.type(id);
        if (kind == 0) return true;
        if (kind != 4 && kind != (floats ? 6 : 5)) return false;
        values = pd.get(id, ncnn::Mat());
        return true;
    }

    int integer(const ncnn::Mat& values, int at) const { return static_cast<const int*>(values.data)[at]; }

    // Where the grams of `length` elements end in the pool.
    int end_of(int length) const { return length < begins_.w ? integer(begins_, length) : pool_.w; }

    int check() const {
        int grams = 0, last = 0;
        for (int length = 1; length <= begins_.w; length++) {
            const int begin = integer(begins_, length - 1), end = end_of(length);
            if (begin < last || end < begin || end > pool_.w || (end - begin) % length != 0)
                return fail("ngram_counts do not divide the pool into grams");
            grams += (end - begin) / length;
            last = begin;
        }
        if (integer(begins_, 0) != 0 || columns_of_.w != grams || (!weights_.empty() && weights_.w != grams))
            return fail("the pool has %d grams, ngram_indexes %d", grams, columns_of_.w);
        for (int i = 0; i < grams; i++)
            if (integer(columns_of_, i) < 0 || integer(columns_of_, i) >= size_) return fail("an index of %d", integer(columns_of_, i));
        return 0;
    }

    void count(const float* from, int columns, float* to) const {
        int gram = 0;
        for (int length = 1; length <= begins_.w; length++) {
            const int end = end_of(length);
            for (int at = integer(begins_, length - 1); at < end; at += length, gram++) {
                if (length < shortest_ || length > longest_) continue;
                int found = 0;
                // A gram of one element is the same at any distance.
                for (int step = 1; step <= (length == 1 ? 1 : skips_ + 1); step++)
                    for (long long start = 0; start + static_cast<long long>(length - 1) * step < columns; start++)
                        found += same(from + start, step, at, length);
                if (found == 0) continue;
                float& cell = to[integer(columns_of_, gram)];
                const float weight = mode_ == kTf || weights_.empty() ? 1.f : static_cast<const float*>(weights_.data)[gram];
                if (mode_ == kIdf)
                    cell = weight;
                else
                    cell += weight * static_cast<float>(found);
            }
        }
    }

    int same(const float* from, int step, int at, int length) const {
        for (int i = 0; i < length; i++)
            if (from[static_cast<size_t>(i) * step] != static_cast<float>(integer(pool_, at + i))) return 0;
        return 1;
    }

    int rows_, columns_, mode_, shortest_, longest_, skips_, size_;
    ncnn::Mat pool_, begins_, columns_of_, weights_;
};

}  // namespace

ncnn::Layer* make_tf_idf(void*) { return new TfIdf; }

}  // namespace mobilekit_layers
