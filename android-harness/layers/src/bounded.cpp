// MkNonZero, MkUnique: outputs whose size depends on the data, padded to the largest that can be.
#include <string.h>

#include <algorithm>

#include "own_layer.h"

namespace mobilekit_layers {

namespace {

class NonZero : public OwnLayer {
public:
    int load_param(const ncnn::ParamDict& pd) {
        MK_TRY(OwnLayer::load_param(pd));
        if (!read_dims(pd, 10, dims_)) return fail("the input's dims (10) are no list of at most %d", kMaxRank);
        if (dims_.count == 0) {
            dims_.count = 1;
            dims_.size[0] = -1;
        }
        bound_ = pd.get(3, 0);
        return 0;
    }

    int forward(const std::vector<ncnn::Mat>& bottoms, std::vector<ncnn::Mat>& tops, const ncnn::Option& opt) const {
        Sequence x;
        MK_TRY(read(bottoms, 1, &x, opt));
        Dims dims;
        MK_TRY(resolved(dims_, x, dims, "the input"));
        const int rank = dims.count, bound = bound_ > 0 ? bound_ : x.count;
        if (x.count > kExactIntegers) return fail("an input of %d elements is too large", x.count);
        Output positions, found;
        MK_TRY(open(tops, 0, static_cast<size_t>(rank) * bound, positions, opt));
        MK_TRY(open(tops, 1, 1, found, opt));
        memset(positions.data, 0, static_cast<size_t>(rank) * bound * sizeof(float));
        int count = 0;
        for (int i = 0; i < x.count; i++) {
            if (x.data[i] == 0.f) continue;
            if (count == bound) return fail("more elements than the bound of %d are not zero", bound);
            int rest = i;
            for (int axis = rank - 1; axis >= 0; axis--) {
                positions.data[static_cast<size_t>(axis) * bound + count] = static_cast<float>(rest % dims.size[axis]);
                rest /= dims.size[axis];
            }
            count++;
        }
        found.data[0] = static_cast<float>(count);
        positions.finish();
        found.finish();
        return 0;
    }

private:
    Dims dims_;
    int bound_;
};

// Slices along the axis, in lexicographic order; NaN equals NaN and comes last.
struct Slices {
    const float* data;
    int outer, axis, inner;

    int compare(int a, int b) const {
        for (int o = 0; o < outer; o++) {
            const float* left = data + (static_cast<size_t>(o) * axis + a) * inner;
            const float* right = data + (static_cast<size_t>(o) * axis + b) * inner;
            for (int i = 0; i < inner; i++) {
                if (left[i] < right[i]) return -1;
                if (left[i] > right[i]) return 1;
                const bool left_nan = left[i] != left[i], right_nan = right[i] != right[i];
                if (left_nan != right_nan) return left_nan ? 1 : -1;
            }
        }
        return 0;
    }
    // The lower position first among equals, so that each group begins with its first one.
    bool operator()(int a, int b) const {
        const int order = compare(a, b);
        return order != 0 ? order < 0 : a < b;
    }
};

struct ByFirst {
    const int* order;
    bool operator()(int a, int b) const { return order[a] < order[b]; }
};

class Unique : public OwnLayer {
public:
    int load_param(const ncnn::ParamDict& pd) {
        MK_TRY(OwnLayer::load_param(pd));
        factors_ = read_factors(pd);
        sorted_ = pd.get(3, 1) != 0;
        return 0;
    }

    int forward(const std::vector<ncnn::Mat>& bottoms, std::vector<ncnn::Mat>& tops, const ncnn::Option& opt) const {
        Sequence x;
        MK_TRY(read(bottoms, 1, &x, opt));
        Dims dims;
        MK_TRY(resolved(factors_, x, dims, "the input"));
        const Slices slices = {x.data, dims.size[0], dims.size[1], dims.size[2]};
        const int axis = slices.axis;
        if (axis > kExactIntegers) return fail("an axis of %d elements is too long", axis);
        Output values, first, inverse, counts, found;
        MK_TRY(open(tops, 0, static_cast<size_t>(x.count), values, opt));
        MK_TRY(open(tops, 1, static_cast<size_t>(axis), first, opt));
        MK_TRY(open(tops, 2, static_cast<size_t>(axis), inverse, opt));
        MK_TRY(open(tops, 3, static_cast<size_t>(axis), counts, opt));
        MK_TRY(open(tops, 4, 1, found, opt));
        ncnn::Mat ordered, begins, groups;
        MK_TRY(scratch(static_cast<size_t>(axis), sizeof(int), ordered, opt));
        MK_TRY(scratch(static_cast<size_t>(axis) + 1, sizeof(int), begins, opt));
        MK_TRY(scratch(static_cast<size_t>(axis), sizeof(int), groups, opt));
        int* order = static_cast<int*>(ordered.data);
        int* begin = static_cast<int*>(begins.data);  // where in `order` a group of equal slices begins
        int* group = static_cast<int*>(groups.data);  // groups in the order in which they are given
        for (int a = 0; a < axis; a++) order[a] = a;
        std::sort(order, order + axis, slices);
        int count = 0;
        for (int a = 0; a < axis; a++)
            if (a == 0 || slices.compare(order[a - 1], order[a]) != 0) begin[count++] = a;
        begin[count] = axis;
        for (int g = 0; g < count; g++) group[g] = g;
        if (!sorted_) {
            // By the position of each group's first slice.
            ncnn::Mat keys;
            MK_TRY(scratch(static_cast<size_t>(count), sizeof(int), keys, opt));
            for (int g = 0; g < count; g++) static_cast<int*>(keys.data)[g] = order[begin[g]];
            const ByFirst by_first = {static_cast<const int*>(keys.data)};
            std::sort(group, group + count, by_first);
        }
        memset(values.data, 0, static_cast<size_t>(x.count) * sizeof(float));
        memset(first.data, 0, static_cast<size_t>(axis) * sizeof(float));
        memset(counts.data, 0, static_cast<size_t>(axis) * sizeof(float));
        for (int g = 0; g < count; g++) {
            const int from = begin[group[g]], end = begin[group[g] + 1];
            first.data[g] = static_cast<float>(order[from]);
            counts.data[g] = static_cast<float>(end - from);
            for (int a = from; a < end; a++) inverse.data[order[a]] = static_cast<float>(g);
            for (int o = 0; o < slices.outer; o++)
                memcpy(values.data + (static_cast<size_t>(o) * axis + g) * slices.inner,
                       x.data + (static_cast<size_t>(o) * axis + order[from]) * slices.inner,
                       static_cast<size_t>(slices.inner) * sizeof(float));
        }
        found.data[0] = static_cast<float>(count);
        values.finish();
        first.finish();
        inverse.finish();
        counts.finish();
        found.finish();
        return 0;
    }

private:
    Dims factors_;
    bool sorted_;
};

}  // namespace

ncnn::Layer* make_non_zero(void*) { return new NonZero; }
ncnn::Layer* make_unique(void*) { return new Unique; }

}  // namespace mobilekit_layers
