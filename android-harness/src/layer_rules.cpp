#include "layer_rules.h"

#include <algorithm>
#include <climits>
#include <cstdlib>
#include <limits>

#include "error.h"
#include "proxy_layer.h"

namespace mobilekit {

namespace {

constexpr size_t kMany = std::numeric_limits<size_t>::max();

struct Counts {
    size_t least_in, most_in, least_out, most_out;
};

// An integer as ParamDict::get gives it: what is written otherwise counts as not written.
int integer(const LayerParams& params, int id, int fallback = 0) {
    const auto found = params.find(id);
    if (found == params.end()) return fallback;
    char* end = nullptr;
    const long value = std::strtol(found->second.c_str(), &end, 10);
    if (end == found->second.c_str() || *end != '\0' || value < INT_MIN || value > INT_MAX) return fallback;
    return static_cast<int>(value);
}

// Elements of an array parameter, written "a,b".
std::vector<std::string> array(const LayerParams& params, int id) {
    std::vector<std::string> items;
    const auto found = params.find(id);
    if (found == params.end() || found->second.empty()) return items;
    size_t start = 0;
    for (size_t comma = 0; comma != std::string::npos; start = comma + 1) {
        comma = found->second.find(',', start);
        items.push_back(found->second.substr(start, comma == std::string::npos ? comma : comma - start));
    }
    return items;
}

// From the forward() of each src/layer/*.cpp; a layer that works on one blob says so itself (one_blob_only).
const std::map<std::string, Counts>& table() {
    static const std::map<std::string, Counts> counts = {
        {"BinaryOp", {2, 2, 1, 1}},
        {"Concat", {1, kMany, 1, 1}},
        {"CopyTo", {2, 2, 1, 1}},
        {"Crop", {2, kMany, 1, 1}},
        {"DeformableConv2D", {2, 3, 1, 1}},
        {"DetectionOutput", {3, 3, 1, 1}},
        {"Einsum", {1, kMany, 1, 1}},
        {"Eltwise", {2, kMany, 1, 1}},
        {"Gemm", {0, 3, 1, 1}},
        {"GridSample", {2, 2, 1, 1}},
        {"GRU", {1, 2, 1, 2}},
        {"Interp", {2, kMany, 1, 1}},
        {"LSTM", {1, 3, 1, 3}},
        {"MatMul", {2, 2, 1, 1}},
        {"MemoryData", {0, 0, 1, 1}},
        {"MultiHeadAttention", {1, 6, 1, 3}},
        {"PriorBox", {1, 2, 1, 1}},
        {"Proposal", {3, 3, 1, 2}},
        {"PSROIPooling", {2, 2, 1, 1}},
        {"Reshape", {2, kMany, 1, 1}},
        {"RNN", {1, 2, 1, 2}},
        {"ROIAlign", {2, 2, 1, 1}},
        {"ROIPooling", {2, 2, 1, 1}},
        {"RotaryEmbed", {3, 3, 1, 1}},
        {"Scale", {2, 2, 1, 1}},
        {"SDPA", {3, 6, 1, 3}},
        {"Slice", {1, 1, 1, kMany}},
        {"Split", {1, 1, 1, kMany}},
        {"Yolov3DetectionOutput", {1, kMany, 1, 1}},
        {"YoloDetectionOutput", {1, kMany, 1, 1}},
    };
    return counts;
}

bool is_convolution(const std::string& type) {
    return type.rfind("Convolution", 0) == 0 || type.rfind("Deconvolution", 0) == 0;
}

// The counts of a layer that is none of one blob; all of them are allowed where nothing is known of it.
Counts counts_of(const ncnn::Layer& layer, const LayerParams& params) {
    if (is_convolution(layer.type)) {  // its weights are inputs
        const size_t inputs = integer(params, 5) != 0 ? 3 : 2;
        return {inputs, inputs, 1, 1};
    }
    const auto found = table().find(layer.type);
    Counts counts = found == table().end() ? Counts{0, kMany, 0, kMany} : found->second;
    if (layer.type == "Gemm") {
        counts.least_in = static_cast<size_t>(integer(params, 4) == 0) + static_cast<size_t>(integer(params, 5) == 0);
        counts.most_in = counts.least_in + static_cast<size_t>(integer(params, 6) == 0);
    }
    if (layer.type == "SDPA" || layer.type == "MultiHeadAttention") {
        const bool cached = integer(params, 7) != 0;
        const size_t more = (integer(params, 5) != 0 ? 1u : 0u) + (cached ? 2u : 0u);
        counts.least_in = (layer.type == "SDPA" ? 3 : 1) + more;
        counts.most_in = 3 + more;
        counts.least_out = counts.most_out = cached ? 3 : 1;
    }
    if (layer.type == "Einsum") {
        const std::vector<std::string> letters = array(params, 0);
        const std::string comma = std::to_string(static_cast<int>(','));
        counts.least_in = counts.most_in = 1 + static_cast<size_t>(std::count(letters.begin(), letters.end(), comma));
    }
    return counts;
}

std::string range(size_t least, size_t most) {
    if (most == kMany) return std::to_string(least) + " or more";
    return least == most ? std::to_string(least) : std::to_string(least) + " to " + std::to_string(most);
}

void check_layer(const ncnn::Layer& layer, const LayerParams& params) {
    const auto bad = [&](const std::string& what) {
        throw Error(ErrorCode::kModel, layer.type + " layer '" + layer.name + "' " + what);
    };
    const size_t in = layer.bottoms.size(), out = layer.tops.size();
    Counts counts{1, 1, 1, 1};
    if (layer.type == "Input") {
        counts = {0, 0, 1, 1};
    } else if (!layer.one_blob_only) {
        counts = counts_of(layer, params);
    }
    if (in < counts.least_in || in > counts.most_in)
        bad("has " + std::to_string(in) + " inputs and takes " + range(counts.least_in, counts.most_in));
    if (out < counts.least_out || out > counts.most_out)
        bad("has " + std::to_string(out) + " outputs and makes " + range(counts.least_out, counts.most_out));
    if (layer.type == "Slice") {
        const size_t sizes = array(params, 0).size(), places = array(params, 2).size();
        if (sizes != out && (places == 0 || places + 1 != out)) bad("does not say for each output where to cut");
    }
    if (layer.type == "Gemm") {
        for (const int id : {2, 3, 4, 5, 6})
            if (integer(params, id) < 0 || integer(params, id) > 1) bad("has a flag that is neither 0 nor 1");
    }
}

int64_t elements(const ncnn::Mat& mat) { return int64_t{mat.w} * mat.h * mat.d * mat.c * mat.elempack; }

// Along the outermost axis, as unpacked.
int64_t outermost(const ncnn::Mat& mat) {
    return int64_t{mat.dims == 1 ? mat.w : mat.dims == 2 ? mat.h : mat.c} * mat.elempack;
}

bool reshape_fits(const ncnn::Mat& in, const LayerParams& params) {
    if (params.count(6) + params.count(12) + params.count(13) > 0) return true;  // computed sizes, batches
    constexpr int kAbsent = -233;
    int64_t own[4] = {in.w, in.h, in.d, in.c};
    own[in.dims == 1 ? 0 : in.dims == 2 ? 1 : 3] *= in.elempack;
    const int ids[4] = {0, 1, 11, 2};
    int64_t product = 1;
    bool open = false;
    for (size_t i = 0; i < 4; i++) {
        const int size = integer(params, ids[i], kAbsent);
        if (size == kAbsent) continue;
        if (size < -1 || (size == -1 && open)) return false;
        open = open || size == -1;
        if (size == -1) continue;
        product *= size == 0 ? own[i] : size;
        if (product > elements(in)) return false;
    }
    return open ? product > 0 && elements(in) % product == 0 : product == elements(in);
}

bool inner_product_fits(const ncnn::Mat& in, const LayerParams& params) {
    const int64_t made = integer(params, 0), weights = integer(params, 2);
    if (made <= 0) return false;
    return elements(in) == weights / made || (in.dims == 2 && in.w == weights / made);  // a row each
}

// Channels, of which there are as many as the size of the weights says.
bool convolution_fits(const ncnn::Mat& in, const std::string& type, const LayerParams& params) {
    const bool one = type.find("1D") != std::string::npos, three = type.find("3D") != std::string::npos;
    const int64_t w = integer(params, 1), h = one ? 1 : integer(params, 11, static_cast<int>(w));
    const int64_t d = three ? integer(params, 21, static_cast<int>(w)) : 1;
    const int64_t each = integer(params, 0) * w * h * d;
    const int64_t groups = type.find("DepthWise") != std::string::npos ? integer(params, 7, 1) : 1;
    if (each <= 0 || groups <= 0) return false;
    const int dims = three ? 4 : one ? 2 : 3;
    const int64_t channels = in.dims == dims || in.dims == 1 ? outermost(in) : 1;
    return channels == integer(params, 6) / each * groups;
}

bool is_guarded(const ncnn::Layer& layer) {
    return layer.one_blob_only && (layer.type == "Reshape" || layer.type == "InnerProduct" || is_convolution(layer.type));
}

class GuardedLayer : public ProxyLayer {
public:
    GuardedLayer(const ncnn::Layer& inner, const LayerParams& params) : ProxyLayer(inner), params_(params) {}
    int forward(const ncnn::Mat& in, ncnn::Mat& out, const ncnn::Option& opt) const override {
        return fits(in) ? inner_.forward(in, out, opt) : -1;
    }

private:
    bool fits(const ncnn::Mat& in) const {
        if (in.n > 1) return true;
        if (type == "Reshape") return reshape_fits(in, params_);
        return type == "InnerProduct" ? inner_product_fits(in, params_) : convolution_fits(in, type, params_);
    }

    const LayerParams& params_;
};

}  // namespace

void check_layers(const ncnn::Net& net, const std::vector<LayerParams>& params) {
    for (size_t i = 0; i < net.layers().size(); i++) check_layer(*net.layers()[i], params.at(i));
}

bool has_scales(const std::vector<LayerParams>& params) {
    return std::any_of(params.begin(), params.end(), [](const LayerParams& each) { return integer(each, 8) != 0 || integer(each, 18) != 0; });
}

LayerGuard::LayerGuard(ncnn::Net& net, const std::vector<LayerParams>& params) : net_(net), originals_(net.layers()) {
    for (size_t i = 0; i < originals_.size(); i++) {
        if (net.opt.use_vulkan_compute || !is_guarded(*originals_[i])) continue;
        proxies_.push_back(std::make_unique<GuardedLayer>(*originals_[i], params.at(i)));
        net_.mutable_layers()[i] = proxies_.back().get();
    }
}

LayerGuard::~LayerGuard() {
    for (size_t i = 0; i < originals_.size(); i++) net_.mutable_layers()[i] = originals_[i];
}

}  // namespace mobilekit
