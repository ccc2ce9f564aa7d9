// MkPow, MkDiv, MkMod (broadcast as in numpy), MkCumSum.
#include <math.h>

#include "own_layer.h"

namespace mobilekit_layers {

namespace {

// Two operands seen in the result's dims: a stride of 0 repeats an axis.
struct Broadcast {
    int rank;
    int size[kMaxRank];
    size_t stride[2][kMaxRank];
    int rows;  // all axes but the last

    Broadcast() : rank(0), rows(0) {}

    size_t begin(int operand, int row) const {
        size_t at = 0;
        for (int i = rank - 2; i >= 0; i--) {
            at += static_cast<size_t>(row % size[i]) * stride[operand][i];
            row /= size[i];
        }
        return at;
    }
};

// The axis that is `from_end` axes before the last one; 1 where there is none.
int size_at(const Dims& dims, int from_end) { return from_end < dims.count ? dims.size[dims.count - 1 - from_end] : 1; }

class Binary : public OwnLayer {
public:
    int load_param(const ncnn::ParamDict& pd) {
        MK_TRY(OwnLayer::load_param(pd));
        if (!read_dims(pd, 10, dims_[0]) || !read_dims(pd, 11, dims_[1]) || (dims_[0].count == 0) != (dims_[1].count == 0))
            return fail("needs the dims of both operands (10, 11), or of none");
        return 0;
    }

    int forward(const std::vector<ncnn::Mat>& bottoms, std::vector<ncnn::Mat>& tops, const ncnn::Option& opt) const {
        Sequence in[2];
        MK_TRY(read(bottoms, 2, in, opt));
        MK_TRY(check(in[1]));
        Broadcast plan;
        MK_TRY(arrange(in, plan));
        const int length = plan.size[plan.rank - 1];
        Output out;
        MK_TRY(open(tops, 0, static_cast<size_t>(plan.rows) * length, out, opt));
        const int steps[2] = {plan.stride[0][plan.rank - 1] != 0, plan.stride[1][plan.rank - 1] != 0};
        const int threads = threads_for(static_cast<size_t>(plan.rows) * length * 16, opt);
        const Sequence& a = in[0];
        const Sequence& b = in[1];
        if (plan.rows >= threads) {
            MK_PARALLEL_FOR(threads)
            for (int row = 0; row < plan.rows; row++)
                compute(a.data + plan.begin(0, row), steps[0], b.data + plan.begin(1, row), steps[1], length,
                        out.data + static_cast<size_t>(row) * length);
        } else {  // few long rows: each in parts
            for (int row = 0; row < plan.rows; row++) {
                const float* left = a.data + plan.begin(0, row);
                const float* right = b.data + plan.begin(1, row);
                float* to = out.data + static_cast<size_t>(row) * length;
                MK_PARALLEL_FOR(threads)
                for (int t = 0; t < threads; t++) {
                    const int from = static_cast<int>(static_cast<long long>(length) * t / threads);
                    const int end = static_cast<int>(static_cast<long long>(length) * (t + 1) / threads);
                    compute(left + static_cast<size_t>(from) * steps[0], steps[0],
                            right + static_cast<size_t>(from) * steps[1], steps[1], end - from, to + from);
                }
            }
        }
        out.finish();
        return 0;
    }

protected:
    // Steps are 0 or 1.
    virtual void compute(const float* a, int a_step, const float* b, int b_step, int count, float* to) const = 0;
    virtual int check(const Sequence&) const { return 0; }  // of the second operand

private:
    int arrange(const Sequence* in, Broadcast& plan) const {
        Dims dims[2] = {dims_[0], dims_[1]};
        for (int i = 0; i < 2; i++) {
            if (dims[i].count == 0) {
                dims[i].count = 1;
                dims[i].size[0] = -1;
            }
            MK_TRY(resolved(dims[i], in[i], dims[i], i == 0 ? "the first operand" : "the second operand"));
        }
        plan.rank = dims[0].count > dims[1].count ? dims[0].count : dims[1].count;
        size_t total = 1;
        size_t strides[2] = {1, 1};
        for (int from_end = 0; from_end < plan.rank; from_end++) {
            const int at = plan.rank - 1 - from_end;
            const int left = size_at(dims[0], from_end), right = size_at(dims[1], from_end);
            if (left != right && left != 1 && right != 1) return fail("axes of %d and %d elements do not broadcast", left, right);
            plan.size[at] = left == 1 ? right : left;
            plan.stride[0][at] = left == 1 ? 0 : strides[0];
            plan.stride[1][at] = right == 1 ? 0 : strides[1];
            strides[0] *= static_cast<size_t>(left);
            strides[1] *= static_cast<size_t>(right);
            total *= static_cast<size_t>(plan.size[at]);
            if (total > 0x7fffffff) return fail("the result is too large");
        }
        plan.rows = static_cast<int>(total / static_cast<size_t>(plan.size[plan.rank - 1]));
        return 0;
    }

    Dims dims_[2];
};

class Pow : public Binary {
protected:
    void compute(const float* a, int a_step, const float* b, int b_step, int count, float* to) const {
        for (int i = 0; i < count; i++, a += a_step, b += b_step) to[i] = powf(*a, *b);
    }
};

class Div : public Binary {
public:
    int load_param(const ncnn::ParamDict& pd) {
        MK_TRY(Binary::load_param(pd));
        truncate_ = pd.get(3, 0) != 0;
        return 0;
    }

protected:
    void compute(const float* a, int a_step, const float* b, int b_step, int count, float* to) const {
        if (!truncate_) {
            for (int i = 0; i < count; i++, a += a_step, b += b_step) to[i] = *a / *b;
            return;
        }
        // The float quotient of integers below 2^24 may round up to a whole number; that of doubles does not.
        for (int i = 0; i < count; i++, a += a_step, b += b_step)
            to[i] = static_cast<float>(trunc(static_cast<double>(*a) / static_cast<double>(*b)));
    }

    int check(const Sequence& b) const {
        for (int i = 0; truncate_ && i < b.count; i++)
            if (b.data[i] == 0.f) return fail("an integer is divided by zero");
        return 0;
    }

private:
    bool truncate_;
};

class Mod : public Binary {
public:
    int load_param(const ncnn::ParamDict& pd) {
        MK_TRY(Binary::load_param(pd));
        fmod_ = pd.get(3, 0) != 0;
        return 0;
    }

protected:
    void compute(const float* a, int a_step, const float* b, int b_step, int count, float* to) const {
        for (int i = 0; i < count; i++, a += a_step, b += b_step) {
            float rest = fmodf(*a, *b);
            if (!fmod_) {
                if (rest == 0.f)
                    rest = copysignf(0.f, *b);
                else if ((rest < 0.f) != (*b < 0.f))
                    rest += *b;
            }
            to[i] = rest;
        }
    }

private:
    bool fmod_;
};

class CumSum : public OwnLayer {
public:
    int load_param(const ncnn::ParamDict& pd) {
        MK_TRY(OwnLayer::load_param(pd));
        factors_ = read_factors(pd);
        exclusive_ = pd.get(3, 0) != 0;
        reverse_ = pd.get(4, 0) != 0;
        product_ = pd.get(5, 0) != 0;
        return 0;
    }

    int forward(const std::vector<ncnn::Mat>& bottoms, std::vector<ncnn::Mat>& tops, const ncnn::Option& opt) const {
        Sequence x;
        MK_TRY(read(bottoms, 1, &x, opt));
        Dims dims;
        MK_TRY(resolved(factors_, x, dims, "the input"));
        const int outer = dims.size[0], axis = dims.size[1], inner = dims.size[2];
        Output out;
        MK_TRY(open(tops, 0, static_cast<size_t>(x.count), out, opt));
        const int threads = threads_for(static_cast<size_t>(x.count), opt);
        const float* data = x.data;
        MK_PARALLEL_FOR(threads)
        for (int o = 0; o < outer; o++) {
            const size_t begin = static_cast<size_t>(o) * axis * inner;
            for (int step = 0; step < axis; step++) {
                const size_t at = begin + static_cast<size_t>(reverse_ ? axis - 1 - step : step) * inner;
                float* to = out.data + at;
                if (step == 0) {
                    for (int i = 0; i < inner; i++) to[i] = exclusive_ ? (product_ ? 1.f : 0.f) : data[at + i];
                    continue;
                }
                const size_t before = reverse_ ? at + inner : at - inner;
                const float* sum = out.data + before;
                const float* from = data + (exclusive_ ? before : at);
                if (product_) {
                    for (int i = 0; i < inner; i++) to[i] = sum[i] * from[i];
                } else {
                    for (int i = 0; i < inner; i++) to[i] = sum[i] + from[i];
                }
            }
        }
        out.finish();
        return 0;
    }

private:
    Dims factors_;
    bool exclusive_, reverse_, product_;
};

}  // namespace

ncnn::Layer* make_pow(void*) { return new Pow; }
ncnn::Layer* make_div(void*) { return new Div; }
ncnn::Layer* make_mod(void*) { return new Mod; }
ncnn::Layer* make_cum_sum(void*) { return new CumSum; }

}  // namespace mobilekit_layers
