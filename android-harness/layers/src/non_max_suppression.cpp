// MkNonMaxSuppression: per batch and class, boxes by descending score, without those that overlap a better one.
#include <limits.h>
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

// Corners and areas of boxes, each in a row of its own.
struct Boxes {
    float* x1;
    float* y1;
    float* x2;
    float* y2;
    float* area;

    Boxes(float* storage, size_t row)
        : x1(storage), y1(storage + row), x2(storage + 2 * row), y2(storage + 3 * row), area(storage + 4 * row) {}

    // `corners` (y1, x1, y2, x2), any two opposite ones; or (x, y, width, height) with the centre.
    void set(int i, const float* box, bool center) {
        if (center) {
            const float half_width = box[2] / 2, half_height = box[3] / 2;
            x1[i] = box[0] - half_width;
            x2[i] = box[0] + half_width;
            y1[i] = box[1] - half_height;
            y2[i] = box[1] + half_height;
        } else {
            y1[i] = std::min(box[0], box[2]);
            y2[i] = std::max(box[0], box[2]);
            x1[i] = std::min(box[1], box[3]);
            x2[i] = std::max(box[1], box[3]);
        }
        area[i] = (x2[i] - x1[i]) * (y2[i] - y1[i]);
    }

    void copy(int to, const Boxes& boxes, int from) {
        x1[to] = boxes.x1[from];
        y1[to] = boxes.y1[from];
        x2[to] = boxes.x2[from];
        y2[to] = boxes.y2[from];
        area[to] = boxes.area[from];
    }

    // Whether one of the first `count` overlaps `box` of `boxes` by more than `threshold` (intersection over union).
    bool overlap(int count, const Boxes& boxes, int box, float threshold) const {
        const float bx1 = boxes.x1[box], by1 = boxes.y1[box], bx2 = boxes.x2[box], by2 = boxes.y2[box];
        const float barea = boxes.area[box];
        int i = 0;
#if __ARM_NEON && __aarch64__
        const float32x4_t vx1 = vdupq_n_f32(bx1), vy1 = vdupq_n_f32(by1), vx2 = vdupq_n_f32(bx2), vy2 = vdupq_n_f32(by2);
        const float32x4_t varea = vdupq_n_f32(barea), limit = vdupq_n_f32(threshold), zero = vdupq_n_f32(0.f);
        for (; i + 4 <= count; i += 4) {
            const float32x4_t width = vsubq_f32(vminq_f32(vld1q_f32(x2 + i), vx2), vmaxq_f32(vld1q_f32(x1 + i), vx1));
            const float32x4_t height = vsubq_f32(vminq_f32(vld1q_f32(y2 + i), vy2), vmaxq_f32(vld1q_f32(y1 + i), vy1));
            const float32x4_t own = vld1q_f32(area + i);
            const float32x4_t both = vmulq_f32(width, height);
            const float32x4_t all = vsubq_f32(vaddq_f32(own, varea), both);
            uint32x4_t over = vandq_u32(vcgtq_f32(width, zero), vcgtq_f32(height, zero));
            over = vandq_u32(over, vandq_u32(vcgtq_f32(own, zero), vcgtq_f32(varea, zero)));
            over = vandq_u32(over, vandq_u32(vcgtq_f32(all, zero), vcgtq_f32(vdivq_f32(both, all), limit)));
            if (vmaxvq_u32(over) != 0) return true;
        }
#endif
        for (; i < count; i++) {
            const float width = std::min(x2[i], bx2) - std::max(x1[i], bx1);
            const float height = std::min(y2[i], by2) - std::max(y1[i], by1);
            if (!(width > 0 && height > 0 && area[i] > 0 && barea > 0)) continue;
            const float both = width * height;
            const float all = area[i] + barea - both;
            if (all > 0 && both / all > threshold) return true;
        }
        return false;
    }
};

// As in order.cpp: greater keys first, the lower position among equal scores.
uint64_t key_of(float score, int position) {
    uint32_t bits;
    const float plain = score == 0.f ? 0.f : score;
    memcpy(&bits, &plain, sizeof(bits));
    bits = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
    return static_cast<uint64_t>(bits) << 32 | (UINT32_MAX - static_cast<uint32_t>(position));
}

class NonMaxSuppression : public OwnLayer {
public:
    int load_param(const ncnn::ParamDict& pd) {
        MK_TRY(OwnLayer::load_param(pd));
        batch_ = pd.get(0, 1);
        classes_ = pd.get(1, 1);
        boxes_ = pd.get(2, -1);
        per_class_ = pd.get(3, 0);
        iou_threshold_ = pd.get(4, 0.f);
        score_threshold_ = pd.get(5, 0.f);
        has_score_threshold_ = pd.get(6, 0) != 0;
        center_ = pd.get(7, 0) != 0;
        bound_ = pd.get(8, 0);
        if (batch_ < 1 || classes_ < 1) return fail("a batch of %d, %d classes", batch_, classes_);
        if (per_class_ < 1) return fail("at most %d boxes for each class leaves none", per_class_);
        return 0;
    }

    int forward(const std::vector<ncnn::Mat>& bottoms, std::vector<ncnn::Mat>& tops, const ncnn::Option& opt) const {
        Sequence in[2];
        MK_TRY(read(bottoms, 2, in, opt));
        Dims boxes, scores;
        MK_TRY(resolved(Dims(batch_, boxes_, 4), in[0], boxes, "boxes"));
        MK_TRY(resolved(Dims(batch_, classes_, boxes.size[1]), in[1], scores, "scores"));
        const int count = boxes.size[1];
        const int most = std::min(per_class_, count);
        const int64_t possible = static_cast<int64_t>(batch_) * classes_ * most;
        const int64_t bound = bound_ > 0 ? bound_ : possible;
        if (bound > INT_MAX / 3 || count > kExactIntegers) return fail("too many boxes");
        Output rows, found;
        MK_TRY(open(tops, 0, static_cast<size_t>(bound) * 3, rows, opt));
        MK_TRY(open(tops, 1, 1, found, opt));

        ncnn::Mat corners, chosen, chosen_count;
        MK_TRY(scratch(static_cast<size_t>(batch_) * count, 5 * sizeof(float), corners, opt));
        for (int b = 0; b < batch_; b++) {
            Boxes all(static_cast<float*>(corners.data) + static_cast<size_t>(b) * count * 5, static_cast<size_t>(count));
            for (int i = 0; i < count; i++)
                all.set(i, in[0].data + (static_cast<size_t>(b) * count + i) * 4, center_);
        }
        const int jobs = batch_ * classes_;
        MK_TRY(scratch(static_cast<size_t>(possible), sizeof(int), chosen, opt));
        MK_TRY(scratch(static_cast<size_t>(jobs), sizeof(int), chosen_count, opt));
        const int threads = std::min(jobs, threads_for(static_cast<size_t>(in[1].count) * 4, opt));
        ncnn::Mat keys, kept;
        MK_TRY(scratch(static_cast<size_t>(threads) * count, sizeof(uint64_t), keys, opt));
        MK_TRY(scratch(static_cast<size_t>(threads) * most, 5 * sizeof(float), kept, opt));
        MK_PARALLEL_FOR(threads)
        for (int t = 0; t < threads; t++) {
            uint64_t* own_keys = static_cast<uint64_t*>(keys.data) + static_cast<size_t>(t) * count;
            Boxes best(static_cast<float*>(kept.data) + static_cast<size_t>(t) * most * 5, static_cast<size_t>(most));
            const int end = static_cast<int>(static_cast<int64_t>(jobs) * (t + 1) / threads);
            for (int job = static_cast<int>(static_cast<int64_t>(jobs) * t / threads); job < end; job++) {
                const Boxes all(static_cast<float*>(corners.data) + static_cast<size_t>(job / classes_) * count * 5,
                                static_cast<size_t>(count));
                static_cast<int*>(chosen_count.data)[job] =
                    select(in[1].data + static_cast<size_t>(job) * count, count, most, all, own_keys, best,
                           static_cast<int*>(chosen.data) + static_cast<size_t>(job) * most);
            }
        }

        int64_t row = 0;
        for (int job = 0; job < jobs; job++) {
            const int own = static_cast<const int*>(chosen_count.data)[job];
            if (row + own > bound) return fail("more boxes are selected than the bound of %d", static_cast<int>(bound));
            for (int i = 0; i < own; i++, row++) {
                rows.data[row * 3] = static_cast<float>(job / classes_);
                rows.data[row * 3 + 1] = static_cast<float>(job % classes_);
                rows.data[row * 3 + 2] = static_cast<float>(static_cast<const int*>(chosen.data)[static_cast<size_t>(job) * most + i]);
            }
        }
        memset(rows.data + row * 3, 0, static_cast<size_t>(bound - row) * 3 * sizeof(float));
        found.data[0] = static_cast<float>(row);
        rows.finish();
        found.finish();
        return 0;
    }

private:
    int select(const float* scores, int count, int most, const Boxes& all, uint64_t* keys, Boxes& best, int* chosen) const {
        int open = 0;
        for (int i = 0; i < count; i++) {
            const bool takes_part = has_score_threshold_ ? scores[i] > score_threshold_ : scores[i] == scores[i];
            if (takes_part) keys[open++] = key_of(scores[i], i);
        }
        std::make_heap(keys, keys + open);  // a heap: as a rule few of many are taken
        int taken = 0;
        for (; open > 0 && taken < most; open--) {
            std::pop_heap(keys, keys + open);
            const int box = static_cast<int>(UINT32_MAX - static_cast<uint32_t>(keys[open - 1]));
            if (best.overlap(taken, all, box, iou_threshold_)) continue;
            best.copy(taken, all, box);
            chosen[taken++] = box;
        }
        return taken;
    }

    int batch_, classes_, boxes_, per_class_, bound_;
    float iou_threshold_, score_threshold_;
    bool has_score_threshold_, center_;
};

}  // namespace

ncnn::Layer* make_non_max_suppression(void*) { return new NonMaxSuppression; }

}  // namespace mobilekit_layers
