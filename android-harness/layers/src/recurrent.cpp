// MkRecurrent: ONNX's RNN, GRU and LSTM as a whole: many sequences at a time, lengths, peepholes, clipping, any activations.
#include <limits.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#include <algorithm>

#include "own_layer.h"

namespace mobilekit_layers {

namespace {

enum Kind { kRnn = 0, kGru = 1, kLstm = 2 };
const int kGates[] = {1, 3, 4};
const int kFunctions[] = {1, 2, 3};  // activations of a cell

enum Extra { kLengths = 1, kStartH = 2, kStartC = 4 };

enum Function {
    kSigmoid,
    kTanh,
    kRelu,
    kAffine,
    kLeakyRelu,
    kThresholdedRelu,
    kScaledTanh,
    kHardSigmoid,
    kElu,
    kSoftsign,
    kSoftplus,
    kFunctionCount
};

const int kWide = 16;      // columns that a product computes at a time
const int kRows = 32;      // rows that a thread takes at a time
const int kProjected = 64; // rows of the input that are multiplied ahead

// e^x for |x| < 87, by Cephes' polynomial: branchless, so that it becomes vector code. NaN stays NaN.
inline float exponential(float x) {
    x = x > 87.f ? 87.f : x;
    x = x < -87.f ? -87.f : x;
    const float kRounder = 12582912.f;  // 3 * 2^22: the sum's last bits are the whole number of turns
    const float sum = x * 1.44269504f + kRounder;
    const float n = sum - kRounder;
    x -= n * 0.693359375f;
    x -= n * -2.12194440e-4f;
    float y = 1.9875691500e-4f;
    y = y * x + 1.3981999507e-3f;
    y = y * x + 8.3334519073e-3f;
    y = y * x + 4.1665795894e-2f;
    y = y * x + 1.6666665459e-1f;
    y = y * x + 5.0000001201e-1f;
    y = y * x * x + x + 1.f;
    uint32_t bits;
    memcpy(&bits, &sum, sizeof(bits));
    bits = (bits + 127u) << 23;
    float power;
    memcpy(&power, &bits, sizeof(power));
    return y * power;
}

inline float sigmoid(float x) { return 1.f / (1.f + exponential(-x)); }

inline float hyperbolic_tangent(float x) {
    const float square = x * x;
    const float large = 1.f - 2.f / (exponential(2.f * x) + 1.f);
    float small = -5.70498872745e-3f;
    small = small * square + 2.06390887954e-2f;
    small = small * square - 5.37397155531e-2f;
    small = small * square + 1.33314422036e-1f;
    small = small * square - 3.33332819422e-1f;
    small = small * square * x + x;
    return square < 0.390625f ? small : large;
}

struct Activation {
    int function;
    float alpha, beta;

    void operator()(float* x, int n) const {
        const float a = alpha, b = beta;
        switch (function) {
            case kSigmoid:
                for (int i = 0; i < n; i++) x[i] = sigmoid(x[i]);
                return;
            case kTanh:
                for (int i = 0; i < n; i++) x[i] = hyperbolic_tangent(x[i]);
                return;
            case kRelu:
                for (int i = 0; i < n; i++) x[i] = x[i] < 0.f ? 0.f : x[i];
                return;
            case kAffine:
                for (int i = 0; i < n; i++) x[i] = a * x[i] + b;
                return;
            case kLeakyRelu:
                for (int i = 0; i < n; i++) x[i] = x[i] < 0.f ? a * x[i] : x[i];
                return;
            case kThresholdedRelu:
                for (int i = 0; i < n; i++) x[i] = x[i] <= a ? 0.f : x[i];
                return;
            case kScaledTanh:
                for (int i = 0; i < n; i++) x[i] = a * hyperbolic_tangent(b * x[i]);
                return;
            case kHardSigmoid:
                for (int i = 0; i < n; i++) {
                    const float y = a * x[i] + b;
                    x[i] = y < 0.f ? 0.f : y > 1.f ? 1.f : y;
                }
                return;
            case kElu:
                for (int i = 0; i < n; i++) x[i] = x[i] < 0.f ? a * expm1f(x[i]) : x[i];
                return;
            case kSoftsign:
                for (int i = 0; i < n; i++) x[i] = x[i] / (1.f + fabsf(x[i]));
                return;
            default:  // softplus
                for (int i = 0; i < n; i++) x[i] = (x[i] > 0.f ? x[i] : 0.f) + log1pf(expf(-fabsf(x[i])));
        }
    }
};

// The rows of a matrix of weights in groups of kWide, transposed: packed[group][depth][kWide].
struct Matrix {
    ncnn::Mat packed;
    int outputs, depth;

    Matrix() : outputs(0), depth(0) {}

    bool pack(const float* from, int rows, int columns) {
        outputs = rows;
        depth = columns;
        const size_t groups = (static_cast<size_t>(rows) + kWide - 1) / kWide;
        const size_t size = groups * columns * kWide;
        if (size > INT_MAX) return false;
        packed.create(static_cast<int>(size), sizeof(float));
        if (packed.empty()) return false;
        float* to = packed;
        for (size_t group = 0; group < groups; group++)
            for (int k = 0; k < columns; k++)
                for (int j = 0; j < kWide; j++) {
                    const size_t row = group * kWide + j;
                    *to++ = row < static_cast<size_t>(rows) ? from[row * columns + k] : 0.f;
                }
        return true;
    }
};

// sums[r] += rows[r] * packed
template <int R>
inline void multiply(const float* const* rows, int depth, const float* packed, float (*sums)[kWide]) {
    float local[R][kWide];
    memcpy(local, sums, sizeof(local));
    for (int k = 0; k < depth; k++) {
        const float* weights = packed + static_cast<size_t>(k) * kWide;
        for (int r = 0; r < R; r++) {
            const float x = rows[r][k];
            for (int j = 0; j < kWide; j++) local[r][j] += x * weights[j];
        }
    }
    memcpy(sums, local, sizeof(local));
}

// to[r] = from[r] + rows[r] * matrix; `from` is `to`, or the bias of every row.
void product(const float* const* rows, int count, const Matrix& matrix, const float* bias, float* to, int stride, const ncnn::Option& opt) {
    const int groups = (matrix.outputs + kWide - 1) / kWide;
    const int chunks = (count + kRows - 1) / kRows;
    const int threads = threads_for(static_cast<size_t>(count) * matrix.outputs * (matrix.depth / 8 + 1), opt);
    MK_PARALLEL_FOR(threads)
    for (int job = 0; job < groups * chunks; job++) {
        const int group = job / chunks, begin = job % chunks * kRows;
        const int end = std::min(count, begin + kRows);
        const int column = group * kWide, columns = std::min(kWide, matrix.outputs - column);
        const float* packed = static_cast<const float*>(matrix.packed.data) + static_cast<size_t>(group) * matrix.depth * kWide;
        for (int r = begin; r < end; r += 2) {
            const int here = std::min(2, end - r);
            float sums[2][kWide] = {};
            for (int i = 0; i < here; i++)
                memcpy(sums[i], (bias ? bias : to + static_cast<size_t>(r + i) * stride) + column, columns * sizeof(float));
            if (here == 2)
                multiply<2>(rows + r, matrix.depth, packed, sums);
            else
                multiply<1>(rows + r, matrix.depth, packed, sums);
            for (int i = 0; i < here; i++)
                memcpy(to + static_cast<size_t>(r + i) * stride + column, sums[i], columns * sizeof(float));
        }
    }
}

class Recurrent : public OwnLayer {
public:
    int load_param(const ncnn::ParamDict& pd) {
        MK_TRY(OwnLayer::load_param(pd));
        kind_ = pd.get(0, 0);
        hidden_ = pd.get(1, 0);
        direction_ = pd.get(2, 0);
        batch_ = pd.get(3, 1);
        inputs_ = pd.get(4, 0);
        batch_first_ = pd.get(5, 0) != 0;
        reset_after_ = pd.get(6, 0) != 0;
        input_forget_ = pd.get(7, 0) != 0;
        clip_ = pd.get(8, 0.f);
        peepholes_ = pd.get(9, 0) != 0;
        extra_ = pd.get(13, 0);
        if (kind_ < kRnn || kind_ > kLstm || direction_ < 0 || direction_ > 2) return fail("kind %d, direction %d", kind_, direction_);
        if (hidden_ < 1 || inputs_ < 1 || batch_ < 1) return fail("%d sequences of %d into %d", batch_, inputs_, hidden_);
        const double rows = static_cast<double>(directions()) * kGates[kind_] * hidden_;
        // With what packing adds.
        if ((rows + 3 * kWide) * std::max(std::max(inputs_, hidden_), kWide) > INT_MAX) return fail("its weights are too many");
        if (!(clip_ >= 0.f)) return fail("it clips at %g", static_cast<double>(clip_));
        if (extra_ < 0 || extra_ > (kLengths | kStartH | kStartC) || ((extra_ & kStartC) && kind_ != kLstm) || (peepholes_ && kind_ != kLstm))
            return fail("inputs %d", extra_);
        return load_activations(pd);
    }

    int load_model(const ncnn::ModelBin& mb) {
        const int ways = directions(), gates = kGates[kind_];
        const int rows = gates * hidden_;
        ncnn::Mat weights, biases, recurrences;
        MK_TRY(load(mb, ways * rows * inputs_, weights));
        MK_TRY(load(mb, ways * rows * 2, biases));
        MK_TRY(load(mb, ways * rows * hidden_, recurrences));
        if (peepholes_) MK_TRY(load(mb, ways * 3 * hidden_, peephole_weights_));
        bias_.create(ways * rows, sizeof(float));
        inner_bias_.create(ways * hidden_, sizeof(float));
        if (bias_.empty() || inner_bias_.empty()) return kOutOfMemory;
        for (int d = 0; d < ways; d++) {
            const float* w = static_cast<const float*>(weights.data) + static_cast<size_t>(d) * rows * inputs_;
            const float* r = static_cast<const float*>(recurrences.data) + static_cast<size_t>(d) * rows * hidden_;
            const float* b = static_cast<const float*>(biases.data) + static_cast<size_t>(d) * rows * 2;
            // A GRU's last gate has a product of its own: what it multiplies is known later.
            const int together = kind_ == kGru ? 2 * hidden_ : rows;
            const size_t apart = static_cast<size_t>(together) * hidden_;
            if (!input_[d].pack(w, rows, inputs_) || !state_[d].pack(r, together, hidden_)) return kOutOfMemory;
            if (kind_ == kGru && !fresh_[d].pack(r + apart, hidden_, hidden_)) return kOutOfMemory;
            float* sum = static_cast<float*>(bias_.data) + static_cast<size_t>(d) * rows;
            for (int i = 0; i < rows; i++) sum[i] = b[i] + (inside_reset(i) ? 0.f : b[rows + i]);
            float* inner = static_cast<float*>(inner_bias_.data) + static_cast<size_t>(d) * hidden_;
            for (int i = 0; i < hidden_; i++) inner[i] = kind_ == kGru ? b[rows + 2 * hidden_ + i] : 0.f;
        }
        return 0;
    }

    int forward(const std::vector<ncnn::Mat>& bottoms, std::vector<ncnn::Mat>& tops, const ncnn::Option& opt) const {
        const int extras = ((extra_ & kLengths) != 0) + ((extra_ & kStartH) != 0) + ((extra_ & kStartC) != 0);
        Sequence in[4];
        MK_TRY(read(bottoms, 1 + extras, in, opt));
        Dims dims;
        MK_TRY(resolved(Dims(batch_, -1, inputs_), in[0], dims, "the input"));
        const int steps = dims.size[1], ways = directions();
        const double cells = static_cast<double>(steps) * batch_ * ways * hidden_;
        if (cells > INT_MAX) return fail("the output is too large");
        const size_t states = static_cast<size_t>(ways) * batch_ * hidden_;
        Run run;
        run.x = in[0].data;
        run.steps = steps;
        int next = 1;
        ncnn::Mat lengths;
        MK_TRY(read_lengths(extra_ & kLengths ? &in[next++] : 0, steps, lengths, opt));
        run.lengths = static_cast<const int*>(lengths.data);
        run.start_h = extra_ & kStartH ? in[next++].data : 0;
        run.start_c = extra_ & kStartC ? in[next++].data : 0;
        for (int i = 1 + ((extra_ & kLengths) != 0); i < next; i++)
            if (static_cast<size_t>(in[i].count) != states) return fail("a state of %d elements", in[i].count);
        Output outputs[3];
        const int made = kind_ == kLstm ? 3 : 2;
        if (tops.size() > static_cast<size_t>(made)) return fail("it has %d outputs and gives %d", static_cast<int>(tops.size()), made);
        MK_TRY(open(tops, 0, static_cast<size_t>(cells), outputs[0], opt));
        for (int i = 1; i < made; i++) MK_TRY(open(tops, i, states, outputs[i], opt));
        if (extra_ & kLengths) memset(outputs[0].data, 0, static_cast<size_t>(cells) * sizeof(float));
        run.y = outputs[0].data;
        run.last_h = outputs[1].data;
        run.last_c = outputs[2].data;
        for (int d = 0; d < ways; d++) MK_TRY(one_direction(run, d, opt));
        for (int i = 0; i < made; i++) outputs[i].finish();
        return 0;
    }

private:
    struct Run {
        const float *x, *start_h, *start_c;
        const int* lengths;
        float *y, *last_h, *last_c;
        int steps;
    };

    int directions() const { return direction_ == 2 ? 2 : 1; }
    bool inside_reset(int row) const { return kind_ == kGru && reset_after_ && row >= 2 * hidden_; }

    int load_activations(const ncnn::ParamDict& pd) {
        const int each = kFunctions[kind_], count = each * directions();
        Dims functions;
        if (!read_dims(pd, 10, functions) || (functions.count != 0 && functions.count != count))
            return fail("its activations (10) are no list of %d", count);
        const ncnn::Mat alphas = pd.get(11, ncnn::Mat()), betas = pd.get(12, ncnn::Mat());
        for (int id = 11; id <= 12; id++) {
            const int type = pd.type(id);
            const int size = (id == 11 ? alphas : betas).w;
            if (type == 0) continue;
            if ((type != 4 && type != 6) || size != count) return fail("param %d is no list of %d numbers", id, count);
        }
        for (int i = 0; i < count; i++) {
            Activation& activation = activations_[i];
            activation.function = functions.count ? functions.size[i] : i % each == 0 && kind_ != kRnn ? kSigmoid : kTanh;
            activation.alpha = pd.type(11) ? static_cast<const float*>(alphas.data)[i] : 1.f;
            activation.beta = pd.type(12) ? static_cast<const float*>(betas.data)[i] : 0.f;
            if (activation.function < 0 || activation.function >= kFunctionCount) return fail("activation %d", activation.function);
        }
        return 0;
    }

    int load(const ncnn::ModelBin& mb, int size, ncnn::Mat& mat) const {
        mat = mb.load(size, 0);
        if (mat.empty()) return kOutOfMemory;
        if (mat.elemsize != sizeof(float) || mat.elempack != 1 || mat.w != size) return fail("its weights are no floats");
        return 0;
    }

    int read_lengths(const Sequence* given, int steps, ncnn::Mat& lengths, const ncnn::Option& opt) const {
        MK_TRY(scratch(static_cast<size_t>(batch_), sizeof(int), lengths, opt));
        int* to = static_cast<int*>(lengths.data);
        if (given == 0) {
            std::fill(to, to + batch_, steps);
            return 0;
        }
        if (given->count != batch_) return fail("%d lengths of %d sequences", given->count, batch_);
        for (int i = 0; i < batch_; i++) {
            const float length = given->data[i];
            if (!(length >= 0.f && length <= static_cast<float>(steps)) || static_cast<float>(static_cast<int>(length)) != length)
                return fail("a sequence of length %g, of %d steps", static_cast<double>(length), steps);
            to[i] = static_cast<int>(length);
        }
        return 0;
    }

    // Of sample n's state in one direction: [directions, batch, hidden], or the batch first.
    size_t state_at(int d, int n) const {
        return (batch_first_ ? static_cast<size_t>(n) * directions() + d : static_cast<size_t>(d) * batch_ + n) * hidden_;
    }

    int one_direction(const Run& run, int d, const ncnn::Option& opt) const {
        const bool backwards = direction_ == 1 || d == 1;
        const int rows = kGates[kind_] * hidden_;
        const int ahead = std::max(1, std::min(run.steps, kProjected / batch_));
        const size_t lines = static_cast<size_t>(ahead) * batch_;
        ncnn::Mat gates, pointers, states;
        MK_TRY(scratch(lines * rows, sizeof(float), gates, opt));
        MK_TRY(scratch(lines + batch_, sizeof(const float*), pointers, opt));
        // h, c, and what a GRU multiplies or adds in its last gate, of every sample
        const size_t size = static_cast<size_t>(batch_) * hidden_;
        MK_TRY(scratch(size * 4, sizeof(float), states, opt));
        float* h = static_cast<float*>(states.data);
        float *c = h + size, *inner = c + size, *work = inner + size;
        const float** inputs = reinterpret_cast<const float**>(pointers.data);
        const float** hs = inputs + lines;
        for (int n = 0; n < batch_; n++) {
            copy(run.start_h, state_at(d, n), h + static_cast<size_t>(n) * hidden_);
            copy(run.start_c, state_at(d, n), c + static_cast<size_t>(n) * hidden_);
        }
        for (int begin = 0; begin < run.steps; begin += ahead) {
            const int end = std::min(run.steps, begin + ahead);
            for (int s = begin; s < end; s++)
                for (int n = 0; n < batch_; n++) {
                    const int at = place(run, s, n, backwards);
                    const size_t row = batch_first_ ? static_cast<size_t>(n) * run.steps + at : static_cast<size_t>(at) * batch_ + n;
                    inputs[static_cast<size_t>(s - begin) * batch_ + n] = run.x + row * inputs_;
                }
            product(inputs, (end - begin) * batch_, input_[d], bias(d), gates, rows, opt);
            for (int s = begin; s < end; s++) {
                float* here = static_cast<float*>(gates.data) + static_cast<size_t>(s - begin) * batch_ * rows;
                for (int n = 0; n < batch_; n++) hs[n] = h + static_cast<size_t>(n) * hidden_;
                product(hs, batch_, state_[d], 0, here, rows, opt);
                if (kind_ == kGru) reset(d, hs, here, inner, h, opt);
                const int threads = threads_for(size * 16, opt);
                MK_PARALLEL_FOR(threads)
                for (int n = 0; n < batch_; n++) {
                    if (s >= run.lengths[n]) continue;
                    const size_t at = static_cast<size_t>(n) * hidden_;
                    cell(d, here + static_cast<size_t>(n) * rows, inner + at, h + at, c + at, work + at);
                    const int t = place(run, s, n, backwards);
                    const size_t row = batch_first_ ? (static_cast<size_t>(n) * run.steps + t) * directions() + d
                                                    : (static_cast<size_t>(t) * directions() + d) * batch_ + n;
                    memcpy(run.y + row * hidden_, h + at, static_cast<size_t>(hidden_) * sizeof(float));
                }
            }
        }
        for (int n = 0; n < batch_; n++) {
            const size_t at = static_cast<size_t>(n) * hidden_;
            // An empty sequence has no last state: ONNX Runtime says zero, whatever it began with.
            const bool any = run.lengths[n] > 0;
            copy(any ? h : 0, at, run.last_h + state_at(d, n));
            if (run.last_c) copy(any ? c : 0, at, run.last_c + state_at(d, n));
        }
        return 0;
    }

    const float* bias(int d) const { return static_cast<const float*>(bias_.data) + static_cast<size_t>(d) * kGates[kind_] * hidden_; }

    void copy(const float* from, size_t at, float* to) const {
        if (from)
            memcpy(to, from + at, static_cast<size_t>(hidden_) * sizeof(float));
        else
            memset(to, 0, static_cast<size_t>(hidden_) * sizeof(float));
    }

    // Which step of the input sample n takes as its s-th; past its end, one that nobody uses.
    static int place(const Run& run, int s, int n, bool backwards) {
        return backwards && s < run.lengths[n] ? run.lengths[n] - 1 - s : s;
    }

    // What the last gate of a GRU gets from the state, of all samples; z and r become what they are.
    void reset(int d, const float** hs, float* gates, float* inner, const float* h, const ncnn::Option& opt) const {
        const int rows = 3 * hidden_;
        const Activation& f = activations_[d * 2];
        for (int n = 0; n < batch_; n++) {
            float* mine = gates + static_cast<size_t>(n) * rows;
            clip(mine, 2 * hidden_);
            f(mine, 2 * hidden_);
        }
        if (reset_after_) {
            product(hs, batch_, fresh_[d], static_cast<const float*>(inner_bias_.data) + static_cast<size_t>(d) * hidden_, inner, hidden_, opt);
            return;
        }
        for (int n = 0; n < batch_; n++) {
            const float* r = gates + static_cast<size_t>(n) * rows + hidden_;
            float* to = inner + static_cast<size_t>(n) * hidden_;
            for (int i = 0; i < hidden_; i++) to[i] = r[i] * h[static_cast<size_t>(n) * hidden_ + i];
            hs[n] = to;
        }
        product(hs, batch_, fresh_[d], 0, gates + 2 * hidden_, rows, opt);
    }

    void clip(float* x, int count) const {
        if (clip_ == 0.f) return;
        for (int i = 0; i < count; i++) x[i] = x[i] > clip_ ? clip_ : x[i] < -clip_ ? -clip_ : x[i];
    }

    void gate(const Activation& f, float* x) const {
        clip(x, hidden_);
        f(x, hidden_);
    }

    // One step of one sample: gates after the products, h and c before and after.
    void cell(int d, float* gates, const float* inner, float* h, float* c, float* work) const {
        const Activation* f = activations_ + d * kFunctions[kind_];
        if (kind_ == kRnn) {
            gate(f[0], gates);
            memcpy(h, gates, static_cast<size_t>(hidden_) * sizeof(float));
            return;
        }
        if (kind_ == kGru) {
            const float *z = gates, *r = gates + hidden_;
            float* fresh = gates + 2 * hidden_;
            if (reset_after_)
                for (int i = 0; i < hidden_; i++) fresh[i] += r[i] * inner[i];
            gate(f[1], fresh);
            for (int i = 0; i < hidden_; i++) h[i] = (1.f - z[i]) * fresh[i] + z[i] * h[i];
            return;
        }
        float *input = gates, *output = gates + hidden_, *forget = gates + 2 * hidden_, *fresh = gates + 3 * hidden_;
        const float* p = peepholes_ ? static_cast<const float*>(peephole_weights_.data) + static_cast<size_t>(d) * 3 * hidden_ : 0;
        peep(input, p, 0, c);
        gate(f[0], input);
        if (input_forget_) {
            for (int i = 0; i < hidden_; i++) forget[i] = 1.f - input[i];
        } else {
            peep(forget, p, 2, c);
            gate(f[0], forget);
        }
        gate(f[1], fresh);
        for (int i = 0; i < hidden_; i++) c[i] = forget[i] * c[i] + input[i] * fresh[i];
        peep(output, p, 1, c);
        gate(f[0], output);
        memcpy(work, c, static_cast<size_t>(hidden_) * sizeof(float));
        f[2](work, hidden_);
        for (int i = 0; i < hidden_; i++) h[i] = output[i] * work[i];
    }

    void peep(float* gate, const float* weights, int which, const float* c) const {
        if (weights == 0) return;
        for (int i = 0; i < hidden_; i++) gate[i] += weights[static_cast<size_t>(which) * hidden_ + i] * c[i];
    }

    int kind_, hidden_, direction_, batch_, inputs_, extra_;
    bool batch_first_, reset_after_, input_forget_, peepholes_;
    float clip_;
    Activation activations_[6];
    Matrix input_[2], state_[2], fresh_[2];
    ncnn::Mat bias_, inner_bias_, peephole_weights_;
};

}  // namespace

ncnn::Layer* make_recurrent(void*) { return new Recurrent; }

}  // namespace mobilekit_layers
