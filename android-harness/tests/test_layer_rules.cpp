// Models that would make ncnn read or write what is not there are refused, those beside them are not.
#include <memory>
#include <sstream>

#include "check.h"
#include "model.h"
#include "temporary.h"

using namespace mobilekit;

namespace {

struct Attempt {
    explicit Attempt(const std::string& layers, const std::string& weights = "") {
        size_t lines = 0, blobs = 0;
        std::istringstream text(layers);
        for (std::string line; std::getline(text, line); lines++) {
            std::istringstream words(line);
            std::string word;
            size_t in = 0, out = 0;
            words >> word >> word >> in >> out;
            blobs += out;
        }
        request.param =
            folder.write("m.param", "7767517\n" + std::to_string(lines) + " " + std::to_string(blobs) + "\n" + layers);
        request.bin = folder.write("m.bin", weights);
        request.threads = 1;
    }
    void load() {
        model = std::make_unique<Model>(request);
        model->worker().run([this] { model->load(); });
    }
    InferReport infer(size_t elements) {
        InferRequest asked;
        Tensor tensor;
        tensor.name = "in";
        tensor.shape = {static_cast<uint32_t>(elements)};
        tensor.data.resize(elements * 4);
        asked.inputs.push_back(tensor);
        asked.outputs = {"out"};
        InferReport report;
        model->worker().run([&] { report = model->infer(asked); });
        return report;
    }
    Temporary folder;
    LoadRequest request;
    std::unique_ptr<Model> model;
};

constexpr const char* kInput = "Input in 0 1 in 0=12\n";

void refused(const std::string& layers) {
    Attempt attempt(kInput + layers);
    CHECK_THROWS(kModel, attempt.load());
}

void taken(const std::string& layers) {
    Attempt attempt(kInput + layers);
    attempt.load();
    attempt.infer(12);
}

}  // namespace

TEST(numbers_of_blobs_that_layers_do_not_take) {
    refused("ReLU r 0 1 out\n");
    refused("Split s 1 2 in a b\nReLU r 2 1 a b out\n");
    refused("ReLU r 1 2 in out more\n");
    refused("BinaryOp b 1 1 in out 0=0\n");
    refused("BinaryOp b 1 1 in out 0=0 1=inf 2=1.0\n");
    refused("Crop c 1 1 in out 0=-233\n");
    refused("Eltwise e 1 1 in out 0=1\n");
    refused("MatMul m 1 1 in out\n");
    refused("SDPA a 1 1 in out\n");
    refused("Split s 1 4 in a b c d\nSDPA a 3 1 a b c out 5=1\nNoop n 1 0 d\n");
    refused("Split s 1 2 in a b\nEinsum e 2 1 a b out -23300=4,105,45,62,105\n");
    refused("Split s 0 1 out\n");
    taken("Split s 1 2 in a b\nBinaryOp b 2 1 a b out 0=0\n");
    taken("BinaryOp b 1 1 in out 0=0 1=1 2=1.0\n");
    taken("Concat c 1 1 in out\n");
}

TEST(cuts_that_are_not_said) {
    refused("Slice s 1 2 in out b\n");
    refused("Slice s 1 2 in out b -23300=1,4\n");
    taken("Slice s 1 2 in out b -23300=2,4,-233\nNoop n 1 0 b\n");
    taken("Slice s 1 2 in out b -23302=1,4\nNoop n 1 0 b\n");
}

TEST(flags_of_a_gemm) {
    refused("Gemm g 1 1 in out 3=1 5=-233 6=1 8=1 9=12 10=-1\n");
    refused("Gemm g 1 1 in out 3=1 4=0 5=0\n");
}

TEST(a_reshape_to_another_number_of_elements) {
    for (const char* sizes : {"0=4 1=4", "0=12 1=65536", "0=5 1=-1", "0=-1 1=-1", "0=-7 1=2", "0=0 1=2 2=1"}) {
        Attempt attempt(kInput + ("Reshape r 1 1 in out " + std::string(sizes) + "\n"));
        attempt.load();
        CHECK_THROWS(kInference, attempt.infer(12));
    }
    for (const char* sizes : {"0=4 1=3", "0=-1 1=3", "0=0 1=1", "0=3 1=2 2=2", "0=3 1=2 11=-1 2=1", "0=-1"})
        taken("Reshape r 1 1 in out " + std::string(sizes) + "\n");
}

TEST(inputs_of_another_size_than_the_weights) {
    const std::string zeros(4096, '\0');
    const auto model = [](const std::string& shape, const std::string& layer) {
        return std::string(kInput) + "Reshape r 1 1 in shaped " + shape + "\n" + layer;
    };
    const struct {
        const char *shape, *layer;
        size_t bytes;
        bool fits;
    } cases[] = {
        {"0=12", "InnerProduct i 1 1 shaped out 0=4 1=0 2=48\n", 4 + 192, true},
        {"0=3 1=2 2=2", "InnerProduct i 1 1 shaped out 0=4 1=0 2=48\n", 4 + 192, true},
        {"0=4 1=3", "InnerProduct i 1 1 shaped out 0=4 1=0 2=16\n", 4 + 64, true},
        {"0=12", "InnerProduct i 1 1 shaped out 0=4 1=0 2=96\n", 4 + 384, false},
        {"0=2 1=2 2=3", "Convolution c 1 1 shaped out 0=4 1=1 5=0 6=12\n", 4 + 48, true},
        {"0=2 1=2 2=3", "Convolution c 1 1 shaped out 0=4 1=1 5=0 6=48\n", 4 + 192, false},
        {"0=12", "Convolution c 1 1 shaped out 0=4 1=1 5=0 6=48\n", 4 + 192, true},
        {"0=2 1=2 2=3", "ConvolutionDepthWise c 1 1 shaped out 0=3 1=1 5=0 6=3 7=3\n", 4 + 12, true},
        {"0=2 1=2 2=3", "ConvolutionDepthWise c 1 1 shaped out 0=6 1=1 5=0 6=6 7=6\n", 4 + 24, false},
        {"0=4 1=3", "Convolution1D c 1 1 shaped out 0=2 1=3 5=0 6=18\n", 4 + 72, true},
        {"0=4 1=3", "Convolution1D c 1 1 shaped out 0=2 1=3 5=0 6=36\n", 4 + 144, false},
        {"0=2 1=2 2=3", "Deconvolution c 1 1 shaped out 0=2 1=2 5=0 6=24\n", 4 + 96, true},
        {"0=2 1=2 11=1 2=3", "Convolution3D c 1 1 shaped out 0=2 1=1 5=0 6=6\n", 4 + 24, true},
    };
    for (const auto& one : cases) {
        Attempt attempt(model(one.shape, one.layer), zeros.substr(0, one.bytes));
        attempt.load();
        if (one.fits) {
            attempt.infer(12);
        } else {
            CHECK_THROWS(kInference, attempt.infer(12));
        }
    }
}

TEST(int8_weights_without_scales) {
    std::string weights("\x38\x4B\x0D\x00", 4);
    weights += std::string(48, '\1');
    Attempt attempt(std::string(kInput) + "InnerProduct i 1 1 in out 0=4 1=0 2=48\n", weights);
    CHECK_THROWS(kModel, attempt.load());
}

TEST(weights_that_end_early) {
    for (const char* layer :
         {"Gemm g 1 1 in out 3=1 5=1 6=1 8=1 9=12 10=-1 18=1\n", "InnerProduct i 1 1 in out 0=4 1=0 2=48\n",
          "MemoryData d 0 1 m 0=2147483647\nBinaryOp b 2 1 in m out\n", "Embed e 1 1 in out 0=4 1=99999 3=399996\n"}) {
        Attempt attempt(kInput + std::string(layer), std::string(40, '\0'));
        CHECK_THROWS(kModel, attempt.load());
    }
}

TEST(names_longer_than_ncnn_reads) {
    const std::string name(256, 'x');
    refused("ReLU " + name + " 1 1 in out\n");
    refused("ReLU r 1 1 in " + name + "\nReLU s 1 1 " + name + " out\n");
    taken("ReLU " + name.substr(1) + " 1 1 in out\n");
}
