// MkTopK, MkArg: which elements along an axis come first.
#include <stdint.h>
#include <string.h>

#include <algorithm>
#include <functional>

#include "own_layer.h"

#if __ARM_NEON
#include <arm_neon.h>
#endif

namespace mobilekit_layers {

namespace {

// The value's order in the high half (NaN above all, both zeros equal), the position's in the low one, so that one
// comparison decides: a greater key comes first, and among equals the lower position.
uint64_t key_of(float value, int position, bool largest) {
    uint32_t bits;
    if (value != value) {
        bits = UINT32_MAX;
    } else {
        const float plain = value == 0.f ? 0.f : value;
        memcpy(&bits, &plain, sizeof(bits));
        bits = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
    }
    if (!largest) bits = ~bits;
    return static_cast<uint64_t>(bits) << 32 | (UINT32_MAX - static_cast<uint32_t>(position));
}

int position_of(uint64_t key) { return static_cast<int>(UINT32_MAX - static_cast<uint32_t>(key)); }

// The next position from `begin` on whose value may come before `least`; a NaN on either side may.
int next_candidate(const float* row, int begin, int count, float least, bool largest) {
    int i = begin;
#if __ARM_NEON
    const float32x4_t bound = vdupq_n_f32(least);
    for (; i + 4 <= count; i += 4) {
        const float32x4_t value = vld1q_f32(row + i);
        const uint32x4_t behind = largest ? vcleq_f32(value, bound) : vcgeq_f32(value, bound);
        const uint32x2_t both = vand_u32(vget_low_u32(behind), vget_high_u32(behind));
        if ((vget_lane_u32(both, 0) & vget_lane_u32(both, 1)) != UINT32_MAX) break;
    }
#endif
    for (; i < count; i++)
        if (!(largest ? row[i] <= least : row[i] >= least)) break;
    return i;
}

// The k first of a row into keys[0..k), in order. `keys` has room for `count`.
void select(const float* row, int count, int k, bool largest, uint64_t* keys) {
    const std::greater<uint64_t> before;
    if (k > count / 8) {  // then most elements would enter the heap
        for (int i = 0; i < count; i++) keys[i] = key_of(row[i], i, largest);
        if (k < count) std::nth_element(keys, keys + k, keys + count, before);
        std::sort(keys, keys + k, before);
        return;
    }
    for (int i = 0; i < k; i++) keys[i] = key_of(row[i], i, largest);
    std::make_heap(keys, keys + k, before);  // the last of the k is on top
    for (int i = k; i < count; i++) {
        i = next_candidate(row, i, count, row[position_of(keys[0])], largest);
        if (i == count) break;
        const uint64_t key = key_of(row[i], i, largest);
        if (key < keys[0]) continue;
        std::pop_heap(keys, keys + k, before);
        keys[k - 1] = key;
        std::push_heap(keys, keys + k, before);
    }
    std::sort(keys, keys + k, before);
}

class TopK : public OwnLayer {
public:
    int load_param(const ncnn::ParamDict& pd) {
        MK_TRY(OwnLayer::load_param(pd));
        factors_ = read_factors(pd);
        k_ = pd.get(3, 1);
        largest_ = pd.get(4, 1) != 0;
        return k_ >= 1 ? 0 : fail("k is %d", k_);
    }

    int forward(const std::vector<ncnn::Mat>& bottoms, std::vector<ncnn::Mat>& tops, const ncnn::Option& opt) const {
        Sequence x;
        MK_TRY(read(bottoms, 1, &x, opt));
        Dims dims;
        MK_TRY(resolved(factors_, x, dims, "the input"));
        const int outer = dims.size[0], axis = dims.size[1], inner = dims.size[2], k = k_;
        if (k > axis) return fail("k is %d, the axis has %d elements", k, axis);
        if (axis > kExactIntegers) return fail("an axis of %d elements is too long", axis);
        Output values, positions;
        const size_t count = static_cast<size_t>(outer) * k * inner;
        MK_TRY(open(tops, 0, count, values, opt));
        MK_TRY(open(tops, 1, count, positions, opt));

        const int rows = outer * inner;
        const int threads = std::min(rows, threads_for(static_cast<size_t>(x.count) * 2, opt));
        ncnn::Mat keys, copies;
        MK_TRY(scratch(static_cast<size_t>(threads) * axis, sizeof(uint64_t), keys, opt));
        if (inner > 1) MK_TRY(scratch(static_cast<size_t>(threads) * axis, sizeof(float), copies, opt));
        MK_PARALLEL_FOR(threads)
        for (int t = 0; t < threads; t++) {
            uint64_t* own_keys = static_cast<uint64_t*>(keys.data) + static_cast<size_t>(t) * axis;
            const int end = static_cast<int>(static_cast<int64_t>(rows) * (t + 1) / threads);
            for (int row = static_cast<int>(static_cast<int64_t>(rows) * t / threads); row < end; row++) {
                const int o = row / inner, i = row % inner;
                const float* from = x.data + static_cast<size_t>(o) * axis * inner + i;
                if (inner > 1) {
                    float* copy = static_cast<float*>(copies.data) + static_cast<size_t>(t) * axis;
                    for (int a = 0; a < axis; a++) copy[a] = from[static_cast<size_t>(a) * inner];
                    from = copy;
                }
                select(from, axis, k, largest_, own_keys);
                const size_t to = static_cast<size_t>(o) * k * inner + static_cast<size_t>(i);
                for (int a = 0; a < k; a++) {
                    const int position = position_of(own_keys[a]);
                    values.data[to + static_cast<size_t>(a) * inner] = from[position];
                    positions.data[to + static_cast<size_t>(a) * inner] = static_cast<float>(position);
                }
            }
        }
        values.finish();
        positions.finish();
        return 0;
    }

private:
    Dims factors_;
    int k_;
    bool largest_;
};

class Arg : public OwnLayer {
public:
    int load_param(const ncnn::ParamDict& pd) {
        MK_TRY(OwnLayer::load_param(pd));
        factors_ = read_factors(pd);
        largest_ = pd.get(3, 1) != 0;
        last_ = pd.get(4, 0) != 0;
        return 0;
    }

    int forward(const std::vector<ncnn::Mat>& bottoms, std::vector<ncnn::Mat>& tops, const ncnn::Option& opt) const {
        Sequence x;
        MK_TRY(read(bottoms, 1, &x, opt));
        Dims dims;
        MK_TRY(resolved(factors_, x, dims, "the input"));
        const int outer = dims.size[0], axis = dims.size[1], inner = dims.size[2];
        if (axis > kExactIntegers) return fail("an axis of %d elements is too long", axis);
        Output positions;
        MK_TRY(open(tops, 0, static_cast<size_t>(outer) * inner, positions, opt));
        ncnn::Mat found;
        MK_TRY(scratch(static_cast<size_t>(outer) * inner, sizeof(float), found, opt));
        const int threads = threads_for(static_cast<size_t>(x.count), opt);
        // Row by row, all columns at once: one pass over the input in the order in which it lies.
        MK_PARALLEL_FOR(threads)
        for (int o = 0; o < outer; o++) {
            const float* from = x.data + static_cast<size_t>(o) * axis * inner;
            float* best = static_cast<float*>(found.data) + static_cast<size_t>(o) * inner;
            float* position = positions.data + static_cast<size_t>(o) * inner;
            for (int i = 0; i < inner; i++) {
                best[i] = from[i];
                position[i] = 0.f;
            }
            for (int a = 1; a < axis; a++) {
                from += inner;
                if (largest_ && last_) keep<std::greater_equal<float> >(from, a, inner, best, position);
                if (largest_ && !last_) keep<std::greater<float> >(from, a, inner, best, position);
                if (!largest_ && last_) keep<std::less_equal<float> >(from, a, inner, best, position);
                if (!largest_ && !last_) keep<std::less<float> >(from, a, inner, best, position);
            }
        }
        positions.finish();
        return 0;
    }

private:
    // Branchless, so that it becomes vector code.
    template <typename Before>
    static void keep(const float* from, int a, int count, float* best, float* position) {
        const Before before = Before();
        for (int i = 0; i < count; i++) {
            const bool better = before(from[i], best[i]);
            best[i] = better ? from[i] : best[i];
            position[i] = better ? static_cast<float>(a) : position[i];
        }
    }

    Dims factors_;
    bool largest_;
    bool last_;
};

}  // namespace

ncnn::Layer* make_top_k(void*) { return new TopK; }
ncnn::Layer* make_arg(void*) { return new Arg; }

}  // namespace mobilekit_layers
