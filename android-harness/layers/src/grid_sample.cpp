// MkGridSample: images or volumes sampled at computed places, each with places of its own.
#include <limits.h>
#include <math.h>

#include <algorithm>

#include "own_layer.h"

namespace mobilekit_layers {

namespace {

enum Mode { kLinear = 0, kNearest = 1, kCubic = 2 };
enum Padding { kZeros = 0, kBorder = 1, kReflection = 2 };

const int kAxes = 3;
const int kMostTaps = 16;
const int kBlock = 32;          // places whose taps are computed at a time
const float kFar = 16777216.f;  // beyond it, floats are no places between elements

// What one place is made of: elements of a plane with weights.
struct Taps {
    int count;
    int at[kMostTaps];
    float weight[kMostTaps];
};

// What a place is made of along one axis; -1 for what lies outside.
struct Line {
    int count;
    int at[4];
    float weight[4];
};

class GridSample : public OwnLayer {
public:
    int load_param(const ncnn::ParamDict& pd) {
        MK_TRY(OwnLayer::load_param(pd));
        batch_ = pd.get(0, 1);
        channels_ = pd.get(1, 1);
        mode_ = pd.get(3, 0);
        padding_ = pd.get(4, 0);
        corners_ = pd.get(5, 0) != 0;
        if (!read_dims(pd, 10, spatial_) || spatial_.count < 2 || spatial_.count > kAxes)
            return fail("the image's spatial dims (10) are no list of 2 or 3 sizes");
        if (mode_ < kLinear || mode_ > kCubic || padding_ < kZeros || padding_ > kReflection)
            return fail("mode %d, padding mode %d", mode_, padding_);
        if (mode_ == kCubic && spatial_.count > 2) return fail("it does not sample volumes cubically");
        for (int i = 0; i < spatial_.count; i++)
            if (spatial_.size[i] < 1 || spatial_.size[i] > kExactIntegers) return fail("a spatial axis of %d", spatial_.size[i]);
        return 0;
    }

    int forward(const std::vector<ncnn::Mat>& bottoms, std::vector<ncnn::Mat>& tops, const ncnn::Option& opt) const {
        Sequence in[2];
        MK_TRY(read(bottoms, 2, in, opt));
        Dims dims;
        dims.count = 2 + spatial_.count;
        dims.size[0] = batch_;
        dims.size[1] = channels_;
        for (int i = 0; i < spatial_.count; i++) dims.size[2 + i] = spatial_.size[i];
        MK_TRY(resolved(dims, in[0], dims, "the image"));
        Dims grid(dims.size[0], -1, spatial_.count);
        MK_TRY(resolved(grid, in[1], grid, "the grid"));
        const int batch = dims.size[0], channels = dims.size[1], places = grid.size[1], rank = spatial_.count;
        const size_t plane = static_cast<size_t>(dims.product(2, dims.count));
        Output out;
        const double cells = static_cast<double>(batch) * channels * places;
        if (cells > INT_MAX) return fail("the output is too large");
        MK_TRY(open(tops, 0, static_cast<size_t>(cells), out, opt));
        const int blocks = (places - 1) / kBlock + 1;
        const double jobs = static_cast<double>(batch) * blocks;
        if (jobs > INT_MAX) return fail("the grid is too large");
        const int threads = threads_for(static_cast<size_t>(batch) * places * (static_cast<size_t>(channels) * 2 + 8), opt);
        const int job_count = static_cast<int>(jobs);
        MK_PARALLEL_FOR(threads)
        for (int job = 0; job < job_count; job++) {
            const int item = job / blocks, begin = job % blocks * kBlock;
            const int count = std::min(kBlock, places - begin);
            const size_t first = static_cast<size_t>(item) * places + begin;
            Taps taps[kBlock];
            for (int i = 0; i < count; i++) taps_of(in[1].data + (first + i) * rank, taps[i]);
            for (int c = 0; c < channels; c++) {
                const size_t which = static_cast<size_t>(item) * channels + c;
                const float* from = in[0].data + which * plane;
                float* to = out.data + which * places + begin;
                for (int i = 0; i < count; i++) {
                    float sum = 0.f;
                    for (int t = 0; t < taps[i].count; t++) sum += taps[i].weight[t] * from[taps[i].at[t]];
                    to[i] = sum;
                }
            }
        }
        out.finish();
        return 0;
    }

private:
    // `where` is x, y (, z): the innermost axis first.
    void taps_of(const float* where, Taps& taps) const {
        const int rank = spatial_.count;
        Line lines[kAxes];
        lines[0].count = 1;
        lines[0].at[0] = 0;
        lines[0].weight[0] = 1.f;
        for (int i = 0; i < rank; i++) line_of(where[rank - 1 - i], spatial_.size[i], lines[kAxes - rank + i]);
        const Line &zs = lines[0], &ys = lines[1], &xs = lines[2];
        const int height = spatial_.size[rank - 2], width = spatial_.size[rank - 1];
        taps.count = 0;
        for (int z = 0; z < zs.count; z++)
            for (int y = 0; y < ys.count; y++)
                for (int x = 0; x < xs.count; x++) {
                    if (zs.at[z] < 0 || ys.at[y] < 0 || xs.at[x] < 0) continue;
                    taps.at[taps.count] = (zs.at[z] * height + ys.at[y]) * width + xs.at[x];
                    taps.weight[taps.count] = zs.weight[z] * (ys.weight[y] * xs.weight[x]);
                    taps.count++;
                }
    }

    void line_of(float where, int size, Line& line) const {
        const float last = static_cast<float>(size - 1);
        float at = corners_ ? (where + 1.f) * 0.5f * last : ((where + 1.f) * static_cast<float>(size) - 1.f) * 0.5f;
        if (mode_ == kNearest) at = nearbyintf(at);  // halves to the even one
        // Further outside, all that a cubic takes is the border's element; a mirrored place has its mirror's elements.
        const float margin = mode_ == kCubic ? 4.f : 0.f;
        if (padding_ == kBorder) at = std::min(std::max(at, -margin), last + margin);
        if (padding_ == kReflection) at = reflected(at, size);
        // Neither NaN nor what no int holds goes on.
        if (!(at > -kFar && at < kFar)) {
            line.count = 0;
            return;
        }
        const float floor = floorf(at), rest = at - floor;
        const int low = static_cast<int>(floor);
        if (mode_ == kNearest) {
            line.count = 1;
            put(line, 0, low, 1.f, size);
        } else if (mode_ == kLinear) {
            line.count = 2;
            put(line, 0, low, 1.f - rest, size);
            put(line, 1, low + 1, rest, size);
        } else {
            line.count = 4;
            put(line, 0, low - 1, outer(rest + 1.f), size);
            put(line, 1, low, inner(rest), size);
            put(line, 2, low + 1, inner(1.f - rest), size);
            put(line, 3, low + 2, outer(2.f - rest), size);
        }
    }

    // Keys' cubic with a = -0.75, by the distance: up to 1, and from 1 to 2.
    static float inner(float x) { return (1.25f * x - 2.25f) * x * x + 1.f; }
    static float outer(float x) { return ((-0.75f * x + 3.75f) * x - 6.f) * x + 3.f; }

    void put(Line& line, int index, int at, float weight, int size) const {
        if (at < 0 || at >= size) {
            if (padding_ == kZeros) at = -1;
            if (padding_ == kBorder) at = at < 0 ? 0 : size - 1;
            if (padding_ == kReflection) at = std::min(std::max(static_cast<int>(reflected(static_cast<float>(at), size)), 0), size - 1);
        }
        line.at[index] = at;
        line.weight[index] = weight;
    }

    // Back and forth between the outermost elements' centres, or their outer edges.
    float reflected(float at, int size) const {
        const float low = corners_ ? 0.f : -0.5f;
        const float range = static_cast<float>(corners_ ? size - 1 : size);
        if (range <= 0.f) return 0.f;
        float far = fabsf(at - low);
        if (!(far < kFar)) return at;  // of no place: line_of() drops it
        if (at >= low && far <= range) return at;
        const int turns = static_cast<int>(far / range);
        far -= static_cast<float>(turns) * range;
        return low + (turns % 2 ? range - far : far);
    }

    Dims spatial_;
    int batch_, channels_, mode_, padding_;
    bool corners_;
};

}  // namespace

ncnn::Layer* make_grid_sample(void*) { return new GridSample; }

}  // namespace mobilekit_layers
