// Networks run for real: depth, requests that do not fit, memory, layer times.
#include <net.h>

#include <algorithm>
#include <cstdio>
#include <cstring>

#include "check.h"
#include "model.h"
#include "temporary.h"

using namespace mobilekit;

namespace {

std::string chain(size_t layers) {
    std::string text = "7767517\n" + std::to_string(layers + 1) + " " + std::to_string(layers + 1) + "\nInput in 0 1 b0 0=4\n";
    for (size_t i = 0; i < layers; i++)
        text += "ReLU r" + std::to_string(i) + " 1 1 b" + std::to_string(i) + " b" + std::to_string(i + 1) + "\n";
    return text;
}

struct Loaded {
    explicit Loaded(const std::string& param, uint32_t flags = kDefaultLoadFlags) {
        request.param = folder.write("m.param", param);
        request.bin = folder.write("m.bin", "");
        request.threads = 1;
        request.flags = flags;
        model = std::make_unique<Model>(request);
        model->worker().run([this] { model->load(); });
    }
    InferReport infer(const InferRequest& request) {
        InferReport report;
        model->worker().run([&] { report = model->infer(request); });
        return report;
    }
    Temporary folder;
    LoadRequest request;
    std::unique_ptr<Model> model;
};

Tensor vector_of(const std::string& name, const std::vector<float>& values) {
    Tensor tensor;
    tensor.name = name;
    tensor.shape = {static_cast<uint32_t>(values.size())};
    tensor.data.resize(values.size() * 4);
    std::memcpy(tensor.data.data(), values.data(), tensor.data.size());
    return tensor;
}

InferRequest four(const std::string& output) {
    InferRequest request;
    request.inputs.push_back(vector_of("b0", {-1.f, 0.f, 2.f, 3.f}));
    request.outputs = {output};
    return request;
}

float first(const Tensor& tensor, size_t index) {
    float value = 0;
    std::memcpy(&value, tensor.data.data() + index * 4, 4);
    return value;
}

// Records where its stack frame is.
uintptr_t deepest, shallowest;

class StackProbe : public ncnn::Layer {
public:
    explicit StackProbe(bool one) { one_blob_only = one; }
    int forward(const ncnn::Mat& in, ncnn::Mat& out, const ncnn::Option&) const override {
        mark();
        out = in;
        return 0;
    }
    int forward(const std::vector<ncnn::Mat>& in, std::vector<ncnn::Mat>& out, const ncnn::Option&) const override {
        mark();
        out[0] = in[0];
        return 0;
    }

private:
    void mark() const {
        volatile char here = 0;
        const auto address = reinterpret_cast<uintptr_t>(&here);
        deepest = std::min(deepest, address);
        shallowest = std::max(shallowest, address);
    }
};

size_t frame_bytes(bool one_blob_only) {
    constexpr size_t kLayers = 1000;
    ncnn::Net net;
    net.register_custom_layer(
        "StackProbe", [](void* one) -> ncnn::Layer* { return new StackProbe(one != nullptr); }, nullptr,
        one_blob_only ? reinterpret_cast<void*>(1) : nullptr);
    std::string text = chain(kLayers);
    for (size_t at = 0; (at = text.find("ReLU", at)) != std::string::npos;) text.replace(at, 4, "StackProbe");
    CHECK_EQ(net.load_param_mem(text.c_str()), 0);
    deepest = UINTPTR_MAX;
    shallowest = 0;
    Worker worker(stack_bytes_for_depth(kLayers));
    worker.run([&] {
        ncnn::Extractor extractor = net.create_extractor();
        ncnn::Mat in(4), out;
        in.fill(1.f);
        CHECK_EQ(extractor.input("b0", in), 0);
        CHECK_EQ(extractor.extract(("b" + std::to_string(kLayers)).c_str(), out), 0);
    });
    return (shallowest - deepest) / (kLayers - 1);
}

}  // namespace

TEST(stack_frames_fit_with_a_margin) {
    for (const bool one : {true, false}) {
        const size_t bytes = frame_bytes(one);
        std::printf("stack per layer, %s: %zu bytes\n", one ? "one blob" : "several blobs", bytes);
        CHECK(bytes > 0);
        CHECK(bytes * 2 <= kStackBytesPerLayer);
    }
}

TEST(a_chain_of_20000_layers_runs) {
    Loaded chain_of(chain(20000));
    CHECK_EQ(chain_of.model->report().depth, size_t{20001});
    const InferReport report = chain_of.infer(four("b20000"));
    CHECK_EQ(first(report.outputs[0], 0), 0.f);
    CHECK_EQ(first(report.outputs[0], 3), 3.f);
}

TEST(intermediate_outputs_do_not_disturb_the_rest) {
    Loaded net("7767517\n3 3\nInput in 0 1 b0 0=4\nUnaryOp neg 1 1 b0 b1 0=1\nReLU r 1 1 b1 b2\n");
    InferRequest request = four("b2");
    request.outputs = {"b2", "b0", "b1"};  // asked for against the order of computation
    request.iterations = 3;
    const InferReport report = net.infer(request);
    CHECK_EQ(report.outputs[0].name, std::string("b2"));
    CHECK_EQ(first(report.outputs[0], 0), 1.f);
    CHECK_EQ(first(report.outputs[0], 3), 0.f);
    CHECK_EQ(first(report.outputs[1], 3), 3.f);
    CHECK_EQ(first(report.outputs[2], 3), -3.f);
    CHECK_EQ(report.latencies_ns.size(), size_t{3});
}

TEST(a_blob_in_the_middle_can_be_fed) {
    Loaded net("7767517\n3 3\nInput in 0 1 b0 0=4\nUnaryOp neg 1 1 b0 b1 0=1\nReLU r 1 1 b1 b2\n");
    InferRequest request = four("b2");
    request.inputs = {vector_of("b1", {5.f, -5.f})};
    CHECK_EQ(first(net.infer(request).outputs[0], 0), 5.f);
}

TEST(requests_that_do_not_fit) {
    Loaded net(chain(2));
    CHECK_THROWS(kRequest, net.infer(four("nowhere")));
    InferRequest request = four("b2");
    request.inputs.clear();
    CHECK_THROWS(kRequest, net.infer(request));
    request = four("b2");
    request.inputs[0].name = "other";
    CHECK_THROWS(kRequest, net.infer(request));
    request = four("b2");
    request.inputs[0] = vector_of("b0", {1.f, 2.f});
    CHECK_THROWS(kRequest, net.infer(request));
    request = four("b2");
    request.inputs.push_back(request.inputs[0]);
    CHECK_THROWS(kRequest, net.infer(request));
    request = four("b2");
    request.outputs.push_back("b2");
    CHECK_THROWS(kRequest, net.infer(request));
    CHECK_EQ(net.infer(four("b2")).outputs.size(), size_t{1});  // and it still works
}

TEST(any_shape_goes_where_it_is_allowed) {
    Loaded net(chain(2), kDefaultLoadFlags | kAnyInputShape);
    InferRequest request = four("b2");
    request.inputs[0] = vector_of("b0", {1.f, 2.f});
    CHECK_EQ(net.infer(request).outputs[0].shape[0], 2u);
}

TEST(peak_memory_is_what_the_blobs_take) {
    Loaded net(chain(3));
    const InferReport report = net.infer(four("b3"));
    // Two vectors of 16 bytes, the input and the copy that is worked on in place; ncnn pads to 16 and adds its
    // 4-byte reference count, and asks for sizes in multiples of 4.
    CHECK(report.peak_blob_bytes >= 2 * 16);
    CHECK(report.peak_blob_bytes <= 2 * 32);
    CHECK_EQ(report.peak_total_bytes, report.peak_blob_bytes + report.peak_workspace_bytes);
    CHECK_EQ(net.infer(four("b3")).peak_blob_bytes, report.peak_blob_bytes);
}

TEST(layer_times_cover_each_layer_and_leave_no_trace) {
    Loaded net(chain(3));
    InferRequest request = four("b3");
    request.iterations = 4;
    request.flags = kLayerTimes;
    const InferReport timed = net.infer(request);
    CHECK_EQ(timed.layers.size(), size_t{3});
    CHECK_EQ(timed.layers[2].name, std::string("r2"));
    for (const NamedLayerTime& layer : timed.layers) CHECK_EQ(layer.time.calls, uint64_t{4});
    CHECK(net.infer(four("b3")).layers.empty());
}

TEST(models_that_do_not_load) {
    const Temporary folder;
    LoadRequest request;
    request.param = folder.write("m.param", chain(1));
    request.bin = folder.path() + "/absent.bin";
    CHECK_THROWS(kFile, Model model(request));
    request.bin = folder.write("m.bin", "four more bytes");
    Model model(request);
    CHECK_THROWS(kModel, model.worker().run([&] { model.load(); }));
    request.param = folder.write(
        "c.param", "7767517\n2 2\nInput in 0 1 in\nConvolution c 1 1 in out 0=1 1=1 5=0 6=64\n");
    Model truncated(request);
    CHECK_THROWS(kModel, truncated.worker().run([&] { truncated.load(); }));
    request.flags |= kVulkan;
#if !NCNN_VULKAN
    Model gpu(request);
    CHECK_THROWS(kGpu, gpu.worker().run([&] { gpu.load(); }));
#endif
}

TEST(a_worker_passes_errors_on_and_goes_on) {
    Worker worker(1 << 20);
    CHECK_THROWS(kModel, worker.run([] { throw Error(ErrorCode::kModel, "x"); }));
    int value = 0;
    worker.run([&] { value = 5; });
    CHECK_EQ(value, 5);
    CHECK_THROWS(kMemory, Worker impossible(size_t{1} << 60));
}
