// MkMaxPoolIndices, MkLpPool: pooling over one to three spatial axes; MkRoiAlign, MkRoiAlignMax.
#include <float.h>
#include <limits.h>
#include <math.h>

#include <algorithm>

#include "own_layer.h"

namespace mobilekit_layers {

namespace {

const int kSpatial = 3;

// One spatial axis of a window. Axes that the input has not have size 1 and a kernel of 1.
struct Axis {
    int size, kernel, stride, pad, out, dilation;
};

class Pool : public OwnLayer {
public:
    int load_param(const ncnn::ParamDict& pd) {
        MK_TRY(OwnLayer::load_param(pd));
        planes_ = pd.get(0, -1);
        Dims lists[6];
        for (int i = 0; i < 6; i++)
            if (!read_dims(pd, 10 + i, lists[i]) || lists[i].count > kSpatial) return fail("param %d is no list of sizes", 10 + i);
        const int rank = lists[0].count;
        for (int i = 0; i < 6; i++)
            if (rank == 0 || (lists[i].count != 0 && lists[i].count != rank))
                return fail("needs lists of one length for its spatial axes");
        for (int i = 0; i < kSpatial; i++) {
            const Axis one = {1, 1, 1, 0, 1, 1};
            axes_[i] = one;
        }
        for (int i = 0; i < rank; i++) {
            Axis& axis = axes_[kSpatial - rank + i];
            axis.size = at(lists[0], i, 0);
            axis.kernel = at(lists[1], i, 0);
            axis.stride = at(lists[2], i, 1);
            axis.pad = at(lists[3], i, 0);
            axis.out = at(lists[4], i, 0);
            axis.dilation = at(lists[5], i, 1);
            if (axis.size < 1 || axis.kernel < 1 || axis.stride < 1 || axis.pad < 0 || axis.out < 1 || axis.dilation < 1)
                return fail("a window of %d, stride %d, dilation %d, pad %d over %d elements into %d", axis.kernel, axis.stride,
                            axis.dilation, axis.pad, axis.size, axis.out);
            // Then no place inside a window is beyond what an int holds.
            const double reach = static_cast<double>(axis.out) * axis.stride + static_cast<double>(axis.kernel) * axis.dilation + axis.pad;
            if (reach > INT_MAX) return fail("a window reaches too far");
        }
        return 0;
    }

    int forward(const std::vector<ncnn::Mat>& bottoms, std::vector<ncnn::Mat>& tops, const ncnn::Option& opt) const {
        Sequence x;
        MK_TRY(read(bottoms, 1, &x, opt));
        Dims dims;
        dims.count = 1 + kSpatial;
        dims.size[0] = planes_;
        double outs = 1;
        for (int i = 0; i < kSpatial; i++) {
            dims.size[1 + i] = axes_[i].size;
            outs *= axes_[i].out;
        }
        MK_TRY(resolved(dims, x, dims, "the input"));
        const int planes = dims.size[0];
        if (outs * planes > INT_MAX) return fail("the output is too large");
        const int each = static_cast<int>(outs);
        const int plane = x.count / planes;
        Output first, second;
        MK_TRY(open(tops, 0, static_cast<size_t>(planes) * each, first, opt));
        if (positions_too()) MK_TRY(open(tops, 1, static_cast<size_t>(planes) * each, second, opt));
        if (positions_too() && x.count > kExactIntegers) return fail("an input of %d elements is too large", x.count);
        const size_t window = static_cast<size_t>(axes_[0].kernel) * axes_[1].kernel * axes_[2].kernel;
        const int threads = threads_for(static_cast<size_t>(planes) * each * window, opt);
        MK_PARALLEL_FOR(threads)
        for (int p = 0; p < planes; p++) {
            const size_t to = static_cast<size_t>(p) * each;
            pool(x.data + static_cast<size_t>(p) * plane, p * plane, first.data + to, second.data ? second.data + to : 0);
        }
        first.finish();
        if (positions_too()) second.finish();
        return 0;
    }

protected:
    virtual bool positions_too() const = 0;
    virtual void pool(const float* plane, int offset, float* to, float* positions) const = 0;

    // The places of a window that lie inside the input: begin, begin + dilation, ... below end.
    struct Range {
        int begin, end;
    };
    static Range inside(const Axis& axis, int out) {
        Range range;
        const int start = out * axis.stride - axis.pad;
        const int skipped = start < 0 ? (-start + axis.dilation - 1) / axis.dilation : 0;
        range.begin = start + skipped * axis.dilation;
        range.end = std::min(start + axis.kernel * axis.dilation, axis.size);
        return range;
    }

    Axis axes_[kSpatial];

private:
    static int at(const Dims& list, int index, int otherwise) { return list.count == 0 ? otherwise : list.size[index]; }

    int planes_;
};

class MaxPoolIndices : public Pool {
public:
    int load_param(const ncnn::ParamDict& pd) {
        MK_TRY(Pool::load_param(pd));
        column_major_ = pd.get(3, 0) != 0;
        return 0;
    }

protected:
    bool positions_too() const { return true; }

    void pool(const float* plane, int offset, float* to, float* positions) const {
        const Axis &d = axes_[0], &h = axes_[1], &w = axes_[2];
        for (int i = 0; i < d.out; i++) {
            for (int j = 0; j < h.out; j++) {
                for (int k = 0; k < w.out; k++) {
                    const Range ds = inside(d, i), hs = inside(h, j), ws = inside(w, k);
                    float best = -FLT_MAX;
                    int z0 = ds.begin, y0 = hs.begin, x0 = ws.begin;
                    bool none = true;
                    for (int z = ds.begin; z < ds.end; z += d.dilation)
                        for (int y = hs.begin; y < hs.end; y += h.dilation)
                            for (int x = ws.begin; x < ws.end; x += w.dilation) {
                                const float value = plane[(static_cast<size_t>(z) * h.size + y) * w.size + x];
                                if (!(value > best)) continue;
                                best = value;
                                z0 = z, y0 = y, x0 = x;
                                none = false;
                            }
                    *to++ = best;
                    if (none) {  // nothing above -FLT_MAX, or a window outside
                        *positions++ = 0.f;
                        continue;
                    }
                    // Column-major: the first of the input's own axes changes fastest.
                    const int at = column_major_ ? z0 + d.size * (y0 + h.size * x0) : (z0 * h.size + y0) * w.size + x0;
                    *positions++ = static_cast<float>(offset + at);
                }
            }
        }
    }

private:
    bool column_major_;
};

class LpPool : public Pool {
public:
    int load_param(const ncnn::ParamDict& pd) {
        MK_TRY(Pool::load_param(pd));
        p_ = pd.get(3, 2);
        return p_ >= 1 ? 0 : fail("p is %d", p_);
    }

protected:
    bool positions_too() const { return false; }

    void pool(const float* plane, int, float* to, float*) const {
        const Axis &d = axes_[0], &h = axes_[1], &w = axes_[2];
        const float p = static_cast<float>(p_);
        for (int i = 0; i < d.out; i++)
            for (int j = 0; j < h.out; j++)
                for (int k = 0; k < w.out; k++) {
                    const Range ds = inside(d, i), hs = inside(h, j), ws = inside(w, k);
                    float sum = 0.f;
                    for (int z = ds.begin; z < ds.end; z += d.dilation)
                        for (int y = hs.begin; y < hs.end; y += h.dilation)
                            for (int x = ws.begin; x < ws.end; x += w.dilation) {
                                const float value = fabsf(plane[(static_cast<size_t>(z) * h.size + y) * w.size + x]);
                                sum += p_ == 1 ? value : p_ == 2 ? value * value : powf(value, p);
                            }
                    *to++ = p_ == 1 ? sum : p_ == 2 ? sqrtf(sum) : powf(sum, 1.f / p);
                }
    }

private:
    int p_;
};

// The two places between which a sample lies along one axis, and how far it is from the first.
struct Sample {
    int low, high;
    float rest;
    bool outside;

    Sample(float at, int size) : low(0), high(0), rest(0.f), outside(!(at >= -1.f && at <= static_cast<float>(size))) {
        if (outside) return;
        if (at < 0.f) at = 0.f;
        low = static_cast<int>(at);
        if (low >= size - 1) {
            low = high = size - 1;
        } else {
            high = low + 1;
            rest = at - static_cast<float>(low);
        }
    }
};

class RoiAlign : public OwnLayer {
public:
    explicit RoiAlign(bool largest) : largest_(largest) {}

    int load_param(const ncnn::ParamDict& pd) {
        MK_TRY(OwnLayer::load_param(pd));
        dims_.count = 4;
        dims_.size[0] = pd.get(0, 1);
        for (int i = 1; i < 4; i++) dims_.size[i] = pd.get(i, 1);
        out_h_ = pd.get(4, 1);
        out_w_ = pd.get(5, 1);
        sampling_ratio_ = pd.get(6, 0);
        scale_ = pd.get(7, 1.f);
        half_pixel_ = pd.get(8, 1) != 0;
        if (out_h_ < 1 || out_w_ < 1 || sampling_ratio_ < 0 || sampling_ratio_ > 4096)
            return fail("an output of %d x %d, sampling ratio %d", out_h_, out_w_, sampling_ratio_);
        return 0;
    }

    int forward(const std::vector<ncnn::Mat>& bottoms, std::vector<ncnn::Mat>& tops, const ncnn::Option& opt) const {
        Sequence in[3];
        MK_TRY(read(bottoms, 3, in, opt));
        Dims dims;
        MK_TRY(resolved(dims_, in[0], dims, "the input"));
        const int channels = dims.size[1], rois = in[2].count;
        if (static_cast<size_t>(in[1].count) != static_cast<size_t>(rois) * 4)
            return fail("%d numbers are no %d regions", in[1].count, rois);
        const double cells = static_cast<double>(channels) * rois * out_h_ * out_w_;
        if (cells > INT_MAX) return fail("the output is too large");
        Output out;
        MK_TRY(open(tops, 0, static_cast<size_t>(cells), out, opt));
        ncnn::Mat where;
        MK_TRY(scratch(static_cast<size_t>(rois), sizeof(int), where, opt));
        MK_TRY(positions(in[2].data, rois, dims.size[0], static_cast<int*>(where.data), "batch positions"));
        for (int r = 0; r < rois; r++) {
            Region region;
            MK_TRY(region_of(in[1].data + static_cast<size_t>(r) * 4, region));
            const size_t plane = static_cast<size_t>(dims.size[2]) * dims.size[3];
            const float* image = in[0].data + static_cast<size_t>(static_cast<const int*>(where.data)[r]) * channels * plane;
            float* to = out.data + static_cast<size_t>(r) * channels * out_h_ * out_w_;
            const int threads = threads_for(static_cast<size_t>(channels) * out_h_ * out_w_ * region.grid_h * region.grid_w * 8, opt);
            MK_PARALLEL_FOR(threads)
            for (int c = 0; c < channels; c++)
                align(image + static_cast<size_t>(c) * plane, dims.size[2], dims.size[3], region,
                      to + static_cast<size_t>(c) * out_h_ * out_w_);
        }
        out.finish();
        return 0;
    }

private:
    struct Region {
        float x, y, cell_w, cell_h;
        int grid_w, grid_h;

        Region() : x(0.f), y(0.f), cell_w(0.f), cell_h(0.f), grid_w(0), grid_h(0) {}
    };

    int region_of(const float* roi, Region& region) const {
        const float offset = half_pixel_ ? 0.5f : 0.f;
        region.x = roi[0] * scale_ - offset;
        region.y = roi[1] * scale_ - offset;
        float width = roi[2] * scale_ - offset - region.x;
        float height = roi[3] * scale_ - offset - region.y;
        if (!half_pixel_) {
            width = std::max(width, 1.f);
            height = std::max(height, 1.f);
        }
        region.cell_w = width / static_cast<float>(out_w_);
        region.cell_h = height / static_cast<float>(out_h_);
        const float grid_w = ceilf(region.cell_w), grid_h = ceilf(region.cell_h);
        // Without a ratio a cell has a sample for each pixel: a region from nowhere would never end.
        if (sampling_ratio_ == 0 && !(grid_w < 4096.f && grid_h < 4096.f))
            return fail("a region of %g x %g is too large", static_cast<double>(width), static_cast<double>(height));
        region.grid_w = sampling_ratio_ > 0 ? sampling_ratio_ : std::max(0, static_cast<int>(grid_w));
        region.grid_h = sampling_ratio_ > 0 ? sampling_ratio_ : std::max(0, static_cast<int>(grid_h));
        return 0;
    }

    // The mean of a cell's samples, or the largest: there ONNX Runtime takes the largest of the four weighted corners of
    // each sample, not of the interpolated samples.
    void align(const float* image, int height, int width, const Region& region, float* to) const {
        for (int i = 0; i < out_h_; i++)
            for (int j = 0; j < out_w_; j++) {
                float best = 0.f, sum = 0.f;
                bool any = false;
                for (int y = 0; y < region.grid_h; y++) {
                    const float at_y = region.y + static_cast<float>(i) * region.cell_h +
                                       (static_cast<float>(y) + 0.5f) * region.cell_h / static_cast<float>(region.grid_h);
                    const Sample row(at_y, height);
                    for (int x = 0; x < region.grid_w; x++) {
                        const float at_x = region.x + static_cast<float>(j) * region.cell_w +
                                           (static_cast<float>(x) + 0.5f) * region.cell_w / static_cast<float>(region.grid_w);
                        const Sample column(at_x, width);
                        float value = 0.f;
                        if (!row.outside && !column.outside) {
                            const float* low = image + static_cast<size_t>(row.low) * width;
                            const float* high = image + static_cast<size_t>(row.high) * width;
                            const float up = 1.f - row.rest, left = 1.f - column.rest;
                            const float a = up * left * low[column.low], b = up * column.rest * low[column.high];
                            const float c = row.rest * left * high[column.low], d = row.rest * column.rest * high[column.high];
                            value = largest_ ? std::max(std::max(a, b), std::max(c, d)) : a + b + c + d;
                        }
                        sum += value;
                        best = any ? std::max(best, value) : value;
                        any = true;
                    }
                }
                *to++ = largest_ ? best : any ? sum / (static_cast<float>(region.grid_h) * static_cast<float>(region.grid_w)) : 0.f;
            }
    }

    const bool largest_;
    Dims dims_;
    int out_h_, out_w_, sampling_ratio_;
    float scale_;
    bool half_pixel_;
};

}  // namespace

ncnn::Layer* make_max_pool_indices(void*) { return new MaxPoolIndices; }
ncnn::Layer* make_lp_pool(void*) { return new LpPool; }
ncnn::Layer* make_roi_align(void*) { return new RoiAlign(false); }
ncnn::Layer* make_roi_align_max(void*) { return new RoiAlign(true); }

}  // namespace mobilekit_layers
