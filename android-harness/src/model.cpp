#include "model.h"

#include <cpu.h>
#include <datareader.h>
#include <mobilekit_layers.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <numeric>
#include <set>

namespace mobilekit {

namespace {

using File = std::unique_ptr<FILE, int (*)(FILE*)>;

File open_for_reading(const std::string& path) {
    File file(std::fopen(path.c_str(), "rbe"), &std::fclose);
    if (!file) throw Error(ErrorCode::kFile, "cannot open " + path + ": " + std::strerror(errno));
    return file;
}

constexpr uint32_t kInt8Tag = 0x000D4B38;  // modelbin.cpp

// ncnn takes what is missing for an empty weight, which some layers then read.
class Weights : public ncnn::DataReader {
public:
    Weights(FILE* file, const std::string& path, bool quantised) : file_(file), path_(path), quantised_(quantised) {}
    size_t read(void* data, size_t size) const override {
        if (std::fread(data, 1, size, file_) != size)
            throw Error(ErrorCode::kModel, path_ + " is truncated, or of another .param: a weight of " + std::to_string(size) +
                                               " bytes goes past its end");
        uint32_t tag = 0;
        if (size == sizeof(tag)) std::memcpy(&tag, data, size);
        if (tag == kInt8Tag && !quantised_)
            throw Error(ErrorCode::kModel, path_ + " is of another .param: it holds int8 weights, and no layer their scales");
        return size;
    }

private:
    FILE* file_;
    const std::string& path_;
    bool quantised_;
};

std::string shape_text(const std::vector<uint32_t>& shape) {
    std::string text;
    for (uint32_t axis : shape) text += (text.empty() ? "" : "x") + std::to_string(axis);
    return text;
}

Tensor to_tensor(const std::string& name, const ncnn::Mat& mat) {
    Tensor tensor;
    tensor.name = name;
    if (mat.empty()) {  // ncnn allows a layer to find nothing
        tensor.shape = {0};
        return tensor;
    }
    if (mat.elempack != 1 || mat.elemsize != kElementBytes)
        throw Error(ErrorCode::kInference, "blob '" + name + "' has elements of " + std::to_string(mat.elemsize) + " bytes");
    if (mat.dims >= 3) tensor.shape.push_back(static_cast<uint32_t>(mat.c));
    if (mat.dims == 4) tensor.shape.push_back(static_cast<uint32_t>(mat.d));
    if (mat.dims >= 2) tensor.shape.push_back(static_cast<uint32_t>(mat.h));
    tensor.shape.push_back(static_cast<uint32_t>(mat.w));
    const size_t plane = static_cast<size_t>(mat.w) * static_cast<size_t>(mat.h) * static_cast<size_t>(mat.d) * kElementBytes;
    tensor.data.resize(plane * static_cast<size_t>(mat.c));
    for (int c = 0; c < mat.c; c++)  // channels are padded to cstep
        std::memcpy(tensor.data.data() + plane * static_cast<size_t>(c), mat.channel(c).data, plane);
    return tensor;
}

}  // namespace

Model::Model(const LoadRequest& request) : request_(request), info_(read_param(request.param)) {
    open_for_reading(request.bin);
    if (request_.threads > 256) throw Error(ErrorCode::kRequest, std::to_string(request_.threads) + " threads");
    report_.layers = info_.layers;
    report_.depth = info_.depth;
    report_.stack_bytes = stack_bytes_for_depth(info_.depth);
    report_.flags = request_.flags;
    report_.cluster = request_.cluster;
    worker_ = std::make_unique<Worker>(report_.stack_bytes);
}

Model::~Model() {
    if (worker_) worker_->run([this] {
        guard_.reset();
        net_.reset();
    });
}

void Model::load() {
    // Affinity belongs to this thread and to the OpenMP team under it, so it is set here and before any kernel runs.
    const int chosen = ncnn::set_cpu_powersave(static_cast<int>(request_.cluster));
    report_.cluster_applied = chosen == 0 || request_.cluster == Cluster::kAll;

    if (request_.flags & kVulkan) require_gpu();
    net_ = std::make_unique<ncnn::Net>();
    ncnn::Option& opt = net_->opt;
    auto has = [this](LoadFlag flag) { return (request_.flags & flag) != 0; };
    if (request_.threads > 0) opt.num_threads = static_cast<int>(request_.threads);
    opt.use_fp16_packed = has(kFp16Packed);
    opt.use_fp16_storage = has(kFp16Storage);
    opt.use_fp16_arithmetic = has(kFp16Arithmetic);
    opt.use_bf16_storage = has(kBf16Storage);
    opt.use_bf16_packed = has(kBf16Packed);
    opt.use_int8_inference = has(kInt8Inference);
    opt.use_winograd_convolution = has(kWinograd);
    opt.use_winograd23_convolution = has(kWinograd);
    opt.use_winograd43_convolution = has(kWinograd);
    opt.use_winograd63_convolution = has(kWinograd);
    opt.use_sgemm_convolution = has(kSgemm);
    opt.use_packing_layout = has(kPacking);
    opt.use_vulkan_compute = has(kVulkan);
    report_.threads = opt.num_threads;
    if (mobilekit_register_layers(*net_) != 0) throw Error(ErrorCode::kModel, "ncnn does not take our own layers");

    uint64_t start = monotonic_ns();
    {
        const File file = open_for_reading(request_.param);
        const int code = net_->load_param(file.get());
        if (code != 0)
            throw Error(ErrorCode::kModel, "ncnn cannot read " + request_.param + " (code " + std::to_string(code) + ")");
    }
    report_.param_ns = monotonic_ns() - start;
    check_layers(*net_, info_.params);

    start = monotonic_ns();
    {
        const File file = open_for_reading(request_.bin);
        const int code = net_->load_model(Weights(file.get(), request_.bin, has_scales(info_.params)));
        if (code != 0)
            throw Error(ErrorCode::kModel, "ncnn cannot load the weights " + request_.bin + " (code " +
                                               std::to_string(code) + "): damaged, or of another .param");
        const long position = std::ftell(file.get());
        struct stat status {};
        if (::fstat(::fileno(file.get()), &status) == 0 && position >= 0 && status.st_size > position)
            throw Error(ErrorCode::kModel, std::to_string(status.st_size - position) + " bytes at the end of " +
                                               request_.bin + " belong to no layer: it is of another .param");
    }
    if (request_.flags & kVulkan) report_.gpu = gpu_use(*net_);
    guard_ = std::make_unique<LayerGuard>(*net_, info_.params);
    report_.weights_ns = monotonic_ns() - start;

    for (size_t i = 0; i < net_->blobs().size(); i++) blob_index_[net_->blobs()[i].name] = static_cast<int>(i);
    for (const char* name : net_->input_names()) report_.inputs.emplace_back(name);
    for (const char* name : net_->output_names()) report_.outputs.emplace_back(name);
}

int Model::find_blob(const std::string& name) const {
    const auto found = blob_index_.find(name);
    if (found == blob_index_.end()) throw Error(ErrorCode::kRequest, "the model has no blob '" + name + "'");
    return found->second;
}

std::string Model::layer_of(int blob) const {
    const int producer = net_->blobs()[static_cast<size_t>(blob)].producer;
    if (producer < 0) return "";
    const ncnn::Layer* layer = net_->layers()[static_cast<size_t>(producer)];
    return layer->type + " layer '" + layer->name + "'";
}

ncnn::Mat Model::to_mat(const Tensor& tensor) {
    const std::vector<uint32_t>& s = tensor.shape;
    for (uint32_t axis : s)
        if (axis > INT32_MAX) throw Error(ErrorCode::kRequest, "input '" + tensor.name + "' is too large");
    auto axis = [&](size_t from_end) { return static_cast<int>(s[s.size() - 1 - from_end]); };
    ncnn::Mat mat;
    if (s.size() == 1) mat.create(axis(0), kElementBytes, &blob_allocator_);
    if (s.size() == 2) mat.create(axis(0), axis(1), kElementBytes, &blob_allocator_);
    if (s.size() == 3) mat.create(axis(0), axis(1), axis(2), kElementBytes, &blob_allocator_);
    if (s.size() == 4) mat.create(axis(0), axis(1), axis(2), axis(3), kElementBytes, &blob_allocator_);
    if (mat.empty()) throw Error(ErrorCode::kMemory, "no memory for input '" + tensor.name + "'");
    const size_t plane = tensor.data.size() / static_cast<size_t>(mat.c);
    for (int c = 0; c < mat.c; c++)
        std::memcpy(mat.channel(c).data, tensor.data.data() + plane * static_cast<size_t>(c), plane);
    return mat;
}

std::vector<Model::Feed> Model::feeds(const InferRequest& request) {
    std::vector<Feed> feeds;
    std::set<int> seen;
    for (const Tensor& input : request.inputs) {
        const int blob = find_blob(input.name);
        if (!seen.insert(blob).second) throw Error(ErrorCode::kRequest, "input '" + input.name + "' is given twice");
        const auto written = info_.input_shapes.find(input.name);
        if (written != info_.input_shapes.end() && !(request_.flags & kAnyInputShape)) {
            const std::vector<uint32_t> expected(written->second.begin(), written->second.end());
            if (expected != input.shape)
                throw Error(ErrorCode::kRequest, "input '" + input.name + "' has shape " + shape_text(input.shape) +
                                                     ", the model takes " + shape_text(expected));
        }
        feeds.push_back({blob, to_mat(input)});
    }
    return feeds;
}

// ncnn would run a layer on an input that was never set, and die; so walk back from the outputs first.
void Model::check_reach(const std::vector<Feed>& feeds, const std::vector<int>& outputs) const {
    std::vector<bool> seen(net_->blobs().size());
    for (const Feed& feed : feeds) seen[static_cast<size_t>(feed.blob)] = true;
    std::vector<int> open;
    for (int output : outputs)
        if (!seen[static_cast<size_t>(output)]) open.push_back(output);
    while (!open.empty()) {
        const int blob = open.back();
        open.pop_back();
        if (seen[static_cast<size_t>(blob)]) continue;
        seen[static_cast<size_t>(blob)] = true;
        const int producer = net_->blobs()[static_cast<size_t>(blob)].producer;
        const ncnn::Layer* layer = producer < 0 ? nullptr : net_->layers()[static_cast<size_t>(producer)];
        if (!layer || layer->type == "Input")
            throw Error(ErrorCode::kRequest,
                        "input '" + net_->blobs()[static_cast<size_t>(blob)].name + "' is needed and not given");
        open.insert(open.end(), layer->bottoms.begin(), layer->bottoms.end());
    }
}

uint64_t Model::run_once(const std::vector<Feed>& feeds, const std::vector<int>& outputs,
                         std::vector<ncnn::Mat>& results) {
    ncnn::Extractor extractor = net_->create_extractor();
    extractor.set_blob_allocator(&blob_allocator_);
    extractor.set_workspace_allocator(&workspace_allocator_);
    const uint64_t start = monotonic_ns();
    for (const Feed& feed : feeds)
        if (extractor.input(feed.blob, feed.mat) != 0) throw Error(ErrorCode::kInference, "ncnn refused an input");
    for (size_t i = 0; i < outputs.size(); i++) {
        const int code = extractor.extract(outputs[i], results[i]);
        if (code != 0) {
            const std::string& name = net_->blobs()[static_cast<size_t>(outputs[i])].name;
            const std::string what = code == -100 ? "out of memory on the way to" : "a layer failed on the way to";
            throw Error(code == -100 ? ErrorCode::kMemory : ErrorCode::kInference,
                        what + " blob '" + name + "', made by " + layer_of(outputs[i]) + " (code " + std::to_string(code) + ")");
        }
    }
    return monotonic_ns() - start;
}

InferReport Model::infer(const InferRequest& request) {
    const std::vector<std::string>& names = request.outputs.empty() ? report_.outputs : request.outputs;
    std::vector<int> outputs;
    for (const std::string& name : names) outputs.push_back(find_blob(name));
    if (std::set<int>(outputs.begin(), outputs.end()).size() != outputs.size())
        throw Error(ErrorCode::kRequest, "an output is asked for twice");
    // In the order in which they are computed: ncnn drops a blob once it is read, unless we hold it by then.
    std::sort(outputs.begin(), outputs.end(), [this](int a, int b) {
        return std::make_pair(net_->blobs()[static_cast<size_t>(a)].producer, a) <
               std::make_pair(net_->blobs()[static_cast<size_t>(b)].producer, b);
    });

    total_.reset_peak();
    blob_allocator_.usage().reset_peak();
    workspace_allocator_.usage().reset_peak();
    const std::vector<Feed> fed = feeds(request);
    check_reach(fed, outputs);

    InferReport report;
    std::vector<ncnn::Mat> results(outputs.size());
    for (uint32_t i = 0; i < request.warmup; i++) report.warmup_ns += run_once(fed, outputs, results);

    std::unique_ptr<LayerTimer> timer;
    if (request.flags & kLayerTimes) {
        if (net_->opt.use_vulkan_compute) throw Error(ErrorCode::kRequest, "layer times are measured on the CPU only");
        timer = std::make_unique<LayerTimer>(*net_);
    }
    report.latencies_ns.reserve(request.iterations);
    for (uint32_t i = 0; i < request.iterations; i++) {
        for (ncnn::Mat& result : results) result.release();  // else two iterations' outputs count in the peak
        report.latencies_ns.push_back(run_once(fed, outputs, results));
    }
    if (timer) {
        const std::vector<LayerTime> times = timer->times();
        timer.reset();
        for (size_t i = 0; i < times.size(); i++)
            if (times[i].calls > 0) report.layers.push_back({net_->layers()[i]->name, net_->layers()[i]->type, times[i]});
    }
    report.peak_blob_bytes = blob_allocator_.usage().peak();
    report.peak_workspace_bytes = workspace_allocator_.usage().peak();
    report.peak_total_bytes = total_.peak();
    for (const std::string& name : names) {
        const int blob = find_blob(name);
        const auto at = std::find(outputs.begin(), outputs.end(), blob) - outputs.begin();
        report.outputs.push_back(to_tensor(name, results[static_cast<size_t>(at)]));
    }
    return report;
}

}  // namespace mobilekit
