// MkGather, MkGatherElements, MkGatherND, MkScatterElements, MkScatterND: elements and slices by position.
#include <limits.h>
#include <string.h>

#include "own_layer.h"

namespace mobilekit_layers {

namespace {

enum Reduction { kNone = 0, kAdd = 1, kMul = 2, kMax = 3, kMin = 4 };

float combined(float old, float update, int reduction) {
    switch (reduction) {
        case kAdd: return old + update;
        case kMul: return old * update;
        case kMax: return old < update || update != update ? update : old;  // NaN stays, as in numpy
        case kMin: return old > update || update != update ? update : old;
        default: return update;
    }
}

// Rows of elements along the last axis: where each begins in the data, and how the position moves along.
struct Rows {
    int rank;
    int count;          // rows of positions
    int length;         // positions in a row
    int step;           // in the data from one element of a row to the next; 0 where the axis is the last one
    size_t along;       // in the data from one position to the next
    size_t stride[kMaxRank];  // in the data, of each axis but the last; 0 for the axis itself
    int size[kMaxRank];       // of the positions

    Rows() : rank(0), count(0), length(0), step(0), along(0) {}

    size_t begin(int row) const {
        size_t at = 0;
        for (int i = rank - 2; i >= 0; i--) {
            at += static_cast<size_t>(row % size[i]) * stride[i];
            row /= size[i];
        }
        return at;
    }
};

// GatherElements and ScatterElements: data and positions of one rank, at the same place but along the axis.
class Elementwise : public OwnLayer {
public:
    int load_param(const ncnn::ParamDict& pd) {
        MK_TRY(OwnLayer::load_param(pd));
        axis_ = pd.get(12, 0);
        if (!read_dims(pd, 10, data_) || !read_dims(pd, 11, positions_) || data_.count == 0 ||
            data_.count != positions_.count)
            return fail("data and positions need dims (10, 11) of one rank, at most %d", kMaxRank);
        if (axis_ < 0 || axis_ >= data_.count) return fail("axis %d of %d", axis_, data_.count);
        return 0;
    }

protected:
    int rows_of(const Sequence& data, const Sequence& positions, int& limit, Rows& rows) const {
        Dims outer, inner;
        MK_TRY(resolved(data_, data, outer, "data"));
        MK_TRY(resolved(positions_, positions, inner, "positions"));
        for (int i = 0; i < outer.count; i++)
            if (i != axis_ && inner.size[i] > outer.size[i])
                return fail("axis %d of the positions has %d elements, of the data %d", i, inner.size[i], outer.size[i]);
        limit = outer.size[axis_];
        rows.rank = outer.count;
        rows.length = inner.size[rows.rank - 1];
        rows.count = positions.count / rows.length;
        size_t stride = 1;
        for (int i = rows.rank - 1; i >= 0; i--) {
            if (i == axis_) rows.along = stride;
            rows.stride[i] = i == axis_ ? 0 : stride;
            rows.size[i] = inner.size[i];
            stride *= static_cast<size_t>(outer.size[i]);
        }
        rows.step = axis_ == rows.rank - 1 ? 0 : 1;
        return 0;
    }

private:
    Dims data_;
    Dims positions_;
    int axis_;
};

class GatherElements : public Elementwise {
public:
    int forward(const std::vector<ncnn::Mat>& bottoms, std::vector<ncnn::Mat>& tops, const ncnn::Option& opt) const {
        Sequence in[2];
        MK_TRY(read(bottoms, 2, in, opt));
        Rows rows;
        int limit;
        MK_TRY(rows_of(in[0], in[1], limit, rows));
        Output out;
        MK_TRY(open(tops, 0, static_cast<size_t>(in[1].count), out, opt));
        ncnn::Mat where;
        MK_TRY(scratch(static_cast<size_t>(in[1].count), sizeof(int), where, opt));
        MK_TRY(positions(in[1].data, in[1].count, limit, static_cast<int*>(where.data), "positions"));
        const float* data = in[0].data;
        const int threads = threads_for(static_cast<size_t>(in[1].count) * 2, opt);
        MK_PARALLEL_FOR(threads)
        for (int row = 0; row < rows.count; row++) {
            const float* from = data + rows.begin(row);
            const int* position = static_cast<const int*>(where.data) + static_cast<size_t>(row) * rows.length;
            float* to = out.data + static_cast<size_t>(row) * rows.length;
            if (rows.step == 0) {
                for (int i = 0; i < rows.length; i++) to[i] = from[position[i]];
            } else {
                for (int i = 0; i < rows.length; i++) to[i] = from[static_cast<size_t>(position[i]) * rows.along + i];
            }
        }
        out.finish();
        return 0;
    }
};

class ScatterElements : public Elementwise {
public:
    int load_param(const ncnn::ParamDict& pd) {
        MK_TRY(Elementwise::load_param(pd));
        reduction_ = pd.get(3, 0);
        return reduction_ >= kNone && reduction_ <= kMin ? 0 : fail("unknown reduction %d", reduction_);
    }

    int forward(const std::vector<ncnn::Mat>& bottoms, std::vector<ncnn::Mat>& tops, const ncnn::Option& opt) const {
        Sequence in[3];
        MK_TRY(read(bottoms, 3, in, opt));
        if (in[1].count != in[2].count) return fail("%d positions and %d updates", in[1].count, in[2].count);
        Rows rows;
        int limit;
        MK_TRY(rows_of(in[0], in[1], limit, rows));
        Output out;
        MK_TRY(open(tops, 0, static_cast<size_t>(in[0].count), out, opt));
        ncnn::Mat where;
        MK_TRY(scratch(static_cast<size_t>(in[1].count), sizeof(int), where, opt));
        MK_TRY(positions(in[1].data, in[1].count, limit, static_cast<int*>(where.data), "positions"));
        memcpy(out.data, in[0].data, static_cast<size_t>(in[0].count) * sizeof(float));
        // In order, by one thread: where a position comes twice, the later update is the later one.
        const int* position = static_cast<const int*>(where.data);
        const float* update = in[2].data;
        for (int row = 0; row < rows.count; row++) {
            float* to = out.data + rows.begin(row);
            for (int i = 0; i < rows.length; i++, position++, update++) {
                float& element = to[static_cast<size_t>(*position) * rows.along + static_cast<size_t>(i) * rows.step];
                element = combined(element, *update, reduction_);
            }
        }
        out.finish();
        return 0;
    }

private:
    int reduction_;
};

class Gather : public OwnLayer {
public:
    int load_param(const ncnn::ParamDict& pd) {
        MK_TRY(OwnLayer::load_param(pd));
        factors_ = read_factors(pd);
        return 0;
    }

    int forward(const std::vector<ncnn::Mat>& bottoms, std::vector<ncnn::Mat>& tops, const ncnn::Option& opt) const {
        Sequence in[2];
        MK_TRY(read(bottoms, 2, in, opt));
        Dims dims;
        MK_TRY(resolved(factors_, in[0], dims, "data"));
        const int outer = dims.size[0], axis = dims.size[1], count = in[1].count;
        const size_t inner = static_cast<size_t>(dims.size[2]);
        Output out;
        MK_TRY(open(tops, 0, static_cast<size_t>(outer) * count * inner, out, opt));
        ncnn::Mat where;
        MK_TRY(scratch(static_cast<size_t>(count), sizeof(int), where, opt));
        MK_TRY(positions(in[1].data, count, axis, static_cast<int*>(where.data), "positions"));
        const int* position = static_cast<const int*>(where.data);
        const float* data = in[0].data;
        const int slices = outer * count;
        const int threads = threads_for(static_cast<size_t>(slices) * (inner + 1), opt);
        MK_PARALLEL_FOR(threads)
        for (int slice = 0; slice < slices; slice++) {
            const float* from = data + (static_cast<size_t>(slice / count) * axis + position[slice % count]) * inner;
            float* to = out.data + static_cast<size_t>(slice) * inner;
            if (inner == 1)
                *to = *from;
            else
                memcpy(to, from, inner * sizeof(float));
        }
        out.finish();
        return 0;
    }

private:
    Dims factors_;
};

// GatherND and ScatterND: tuples of positions into the first axes, slices of `inner` elements.
class Tuples : public OwnLayer {
public:
    int load_param(const ncnn::ParamDict& pd) {
        MK_TRY(OwnLayer::load_param(pd));
        inner_ = pd.get(2, 1);
        if (!read_dims(pd, 10, axes_) || axes_.count == 0) return fail("needs the dims (10) that positions point into");
        slices_ = 1;
        for (int i = 0; i < axes_.count; i++) {
            if (axes_.size[i] < 1 || axes_.size[i] > INT_MAX / slices_) return fail("an axis of %d elements", axes_.size[i]);
            slices_ *= axes_.size[i];
        }
        return 0;
    }

protected:
    // Checks the data's size against its dims; `inner` becomes the size of one slice.
    int slices(const Sequence& data, int batch, size_t& inner) const {
        Dims dims(batch, slices_, inner_);
        MK_TRY(resolved(dims, data, dims, "data"));
        inner = static_cast<size_t>(dims.size[2]);
        return 0;
    }

    // Tuples as numbers of slices.
    int numbers(const Sequence& tuples, int* to, const ncnn::Option& opt) const {
        const int width = axes_.count, count = tuples.count / width;
        ncnn::Mat column, where;
        MK_TRY(scratch(static_cast<size_t>(count), sizeof(float), column, opt));
        MK_TRY(scratch(static_cast<size_t>(count), sizeof(int), where, opt));
        memset(to, 0, static_cast<size_t>(count) * sizeof(int));
        for (int axis = 0; axis < width; axis++) {
            float* values = column;
            int* found = static_cast<int*>(where.data);
            for (int i = 0; i < count; i++) values[i] = tuples.data[static_cast<size_t>(i) * width + axis];
            MK_TRY(positions(values, count, axes_.size[axis], found, "positions"));
            for (int i = 0; i < count; i++) to[i] = to[i] * axes_.size[axis] + found[i];
        }
        return 0;
    }

    int tuple_count(const Sequence& tuples, int batch, int& count) const {
        count = tuples.count / axes_.count;
        if (tuples.count % axes_.count != 0 || count % batch != 0)
            return fail("%d numbers are no tuples of %d positions", tuples.count, axes_.count);
        return 0;
    }

    int slices_;  // of one batch of the data

private:
    Dims axes_;
    int inner_;
};

class GatherND : public Tuples {
public:
    int load_param(const ncnn::ParamDict& pd) {
        MK_TRY(Tuples::load_param(pd));
        batch_ = pd.get(0, 1);
        return batch_ >= 1 ? 0 : fail("a batch of %d", batch_);
    }

    int forward(const std::vector<ncnn::Mat>& bottoms, std::vector<ncnn::Mat>& tops, const ncnn::Option& opt) const {
        Sequence in[2];
        MK_TRY(read(bottoms, 2, in, opt));
        size_t inner;
        MK_TRY(slices(in[0], batch_, inner));
        int count;
        MK_TRY(tuple_count(in[1], batch_, count));
        Output out;
        MK_TRY(open(tops, 0, static_cast<size_t>(count) * inner, out, opt));
        ncnn::Mat where;
        MK_TRY(scratch(static_cast<size_t>(count), sizeof(int), where, opt));
        int* slice = static_cast<int*>(where.data);
        MK_TRY(numbers(in[1], slice, opt));
        const float* data = in[0].data;
        const int each = count / batch_;
        const int threads = threads_for(static_cast<size_t>(count) * (inner + 1), opt);
        MK_PARALLEL_FOR(threads)
        for (int i = 0; i < count; i++) {
            const float* from = data + (static_cast<size_t>(i / each) * slices_ + slice[i]) * inner;
            memcpy(out.data + static_cast<size_t>(i) * inner, from, inner * sizeof(float));
        }
        out.finish();
        return 0;
    }

private:
    int batch_;
};

class ScatterND : public Tuples {
public:
    int load_param(const ncnn::ParamDict& pd) {
        MK_TRY(Tuples::load_param(pd));
        reduction_ = pd.get(3, 0);
        return reduction_ >= kNone && reduction_ <= kMin ? 0 : fail("unknown reduction %d", reduction_);
    }

    int forward(const std::vector<ncnn::Mat>& bottoms, std::vector<ncnn::Mat>& tops, const ncnn::Option& opt) const {
        Sequence in[3];
        MK_TRY(read(bottoms, 3, in, opt));
        size_t inner;
        MK_TRY(slices(in[0], 1, inner));
        int count;
        MK_TRY(tuple_count(in[1], 1, count));
        if (static_cast<size_t>(in[2].count) != static_cast<size_t>(count) * inner)
            return fail("%d tuples of positions do not fit %d updates", count, in[2].count);
        Output out;
        MK_TRY(open(tops, 0, static_cast<size_t>(in[0].count), out, opt));
        ncnn::Mat where;
        MK_TRY(scratch(static_cast<size_t>(count), sizeof(int), where, opt));
        int* slice = static_cast<int*>(where.data);
        MK_TRY(numbers(in[1], slice, opt));
        memcpy(out.data, in[0].data, static_cast<size_t>(in[0].count) * sizeof(float));
        for (int i = 0; i < count; i++) {
            float* to = out.data + static_cast<size_t>(slice[i]) * inner;
            const float* update = in[2].data + static_cast<size_t>(i) * inner;
            for (size_t j = 0; j < inner; j++) to[j] = combined(to[j], update[j], reduction_);
        }
        out.finish();
        return 0;
    }

private:
    int reduction_;
};

}  // namespace

ncnn::Layer* make_gather(void*) { return new Gather; }
ncnn::Layer* make_gather_elements(void*) { return new GatherElements; }
ncnn::Layer* make_gather_nd(void*) { return new GatherND; }
ncnn::Layer* make_scatter_elements(void*) { return new ScatterElements; }
ncnn::Layer* make_scatter_nd(void*) { return new ScatterND; }

}  // namespace mobilekit_layers
