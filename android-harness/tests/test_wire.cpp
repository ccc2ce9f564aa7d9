#include <cstring>
#include <fstream>

#include "check.h"
#include "wire.h"

using namespace mobilekit;

namespace {

std::vector<uint8_t> vector_file(const std::string& stem) {
    std::ifstream file(std::string(MOBILEKIT_VECTORS) + "/" + stem + ".hex");
    CHECK(file.is_open());
    std::vector<uint8_t> bytes;
    std::string line;
    while (std::getline(file, line))
        for (size_t i = 0; i + 1 < line.size(); i += 2)
            bytes.push_back(static_cast<uint8_t>(std::stoi(line.substr(i, 2), nullptr, 16)));
    return bytes;
}

std::vector<uint8_t> body_of(const std::vector<uint8_t>& frame, MessageType type) {
    uint8_t bytes[kHeaderBytes];
    CHECK(frame.size() >= kHeaderBytes);
    std::memcpy(bytes, frame.data(), kHeaderBytes);
    const Header header = decode_header(bytes, kDefaultMaxFrame);
    CHECK_EQ(header.type, static_cast<uint16_t>(type));
    CHECK_EQ(header.length, frame.size() - kHeaderBytes);
    return std::vector<uint8_t>(frame.begin() + kHeaderBytes, frame.end());
}

void check_frame(const std::string& stem, MessageType type, const std::vector<uint8_t>& body) {
    CHECK(encode_frame(type, body) == vector_file(stem));
}

template <typename T>
std::vector<uint8_t> bytes_of(const std::vector<T>& values) {
    const auto* start = reinterpret_cast<const uint8_t*>(values.data());
    return std::vector<uint8_t>(start, start + values.size() * sizeof(T));
}

}  // namespace

TEST(vector_hello) {
    const HelloRequest hello = decode_hello(body_of(vector_file("hello"), MessageType::kHello));
    CHECK_EQ(hello.token, std::string("0123456789abcdef0123456789abcdef"));
    CHECK_EQ(hello.client, std::string("mobilekit 0.1.0"));
    check_frame("hello", MessageType::kHello, encode_hello(hello));
}

TEST(vector_replies) {
    check_frame("hello_ok", MessageType::kHelloOk, encode_hello_ok("0.1.0", "1.0.20261020", "arm64-v8a", uint64_t{1} << 29, {"MkTopK", "MkNonZero"}));
    check_frame("info", MessageType::kInfo, {});
    check_frame("error", MessageType::kError, encode_error(ErrorCode::kRequest, "the model has no blob 'x'"));
    Tensor output;
    output.name = "logits";
    output.shape = {1, 2};
    output.data = bytes_of<float>({0.25f, -8.f});
    check_frame("infer_ok", MessageType::kInferOk, encode_infer_ok("{\"latencies_ns\":[1,2]}", {output}));
}

TEST(vector_load) {
    const LoadRequest load = decode_load(body_of(vector_file("load"), MessageType::kLoad));
    CHECK_EQ(load.param, std::string("/data/local/tmp/m.param"));
    CHECK_EQ(load.bin, std::string("/data/local/tmp/m.bin"));
    CHECK_EQ(load.threads, 4u);
    CHECK(load.cluster == Cluster::kBig);
    CHECK_EQ(load.flags, kFp16Packed | kFp16Storage | kFp16Arithmetic | kDefaultLoadFlags);
    check_frame("load", MessageType::kLoad, encode_load(load));
}

TEST(vector_infer) {
    const InferRequest infer = decode_infer(body_of(vector_file("infer"), MessageType::kInfer));
    CHECK_EQ(infer.warmup, 2u);
    CHECK_EQ(infer.iterations, 5u);
    CHECK_EQ(infer.flags, static_cast<uint32_t>(kLayerTimes));
    CHECK_EQ(infer.inputs.size(), size_t{2});
    CHECK_EQ(infer.inputs[0].name, std::string("serving_default_input:0"));
    CHECK((infer.inputs[0].shape == std::vector<uint32_t>{1, 2, 3}));
    CHECK(infer.inputs[0].data == bytes_of<float>({-0.5f, -0.25f, 0.f, 0.25f, 0.5f, 0.75f}));
    CHECK(infer.inputs[1].dtype == DType::kInt32);
    CHECK(infer.inputs[1].data == bytes_of<int32_t>({1, -2, 3}));
    CHECK_EQ(infer.outputs[1], std::string("gr\xc3\xb6\xc3\x9f" "e/0:0"));
    check_frame("infer", MessageType::kInfer, encode_infer(infer));
}

TEST(header_is_checked) {
    uint8_t bytes[kHeaderBytes];
    const auto reset = [&] { std::memcpy(bytes, encode_frame(MessageType::kInfo, {}).data(), kHeaderBytes); };
    reset();
    bytes[0] = 'X';
    CHECK_THROWS(kFrame, decode_header(bytes, 100));
    reset();
    bytes[4] = kProtocolVersion + 1;
    CHECK_THROWS(kVersion, decode_header(bytes, 100));
    reset();
    bytes[8] = 101;
    CHECK_THROWS(kFrame, decode_header(bytes, 100));
    bytes[8] = 100;
    CHECK_EQ(decode_header(bytes, 100).length, uint64_t{100});
    bytes[15] = 0xff;
    CHECK_THROWS(kFrame, decode_header(bytes, UINT64_MAX / 2));
}

TEST(every_truncation_is_refused) {
    for (const char* stem : {"hello", "load", "infer"}) {
        const std::vector<uint8_t> frame = vector_file(stem);
        const std::vector<uint8_t> body(frame.begin() + kHeaderBytes, frame.end());
        const auto decode = [&](const std::vector<uint8_t>& bytes) {
            if (stem[0] == 'h') decode_hello(bytes);
            if (stem[0] == 'l') decode_load(bytes);
            if (stem[0] == 'i') decode_infer(bytes);
        };
        decode(body);
        for (size_t cut = 0; cut < body.size(); cut++)
            CHECK_THROWS(kFrame, decode(std::vector<uint8_t>(body.begin(), body.begin() + static_cast<long>(cut))));
        std::vector<uint8_t> longer = body;
        longer.push_back(0);
        CHECK_THROWS(kFrame, decode(longer));
    }
}

// Every byte of a valid body set to every third value: it decodes or it throws Error, nothing else.
TEST(every_corruption_is_refused_or_read) {
    const std::vector<uint8_t> frame = vector_file("infer");
    const std::vector<uint8_t> body(frame.begin() + kHeaderBytes, frame.end());
    size_t refused = 0;
    for (size_t at = 0; at < body.size(); at++)
        for (int value = 0; value < 256; value += 3) {
            std::vector<uint8_t> bad = body;
            bad[at] = static_cast<uint8_t>(value);
            try {
                decode_infer(bad);
            } catch (const Error& error) {
                CHECK(error.code() == ErrorCode::kFrame);
                refused++;
            }
        }
    CHECK(refused > 0);
}

TEST(tensor_sizes_cannot_wrap) {
    Writer writer;
    writer.text("x");
    writer.u8(1);
    writer.u8(4);
    for (int i = 0; i < 4; i++) writer.u32(1u << 16);  // 2^64 elements
    writer.u64(0);
    const std::vector<uint8_t> body = writer.take();
    CHECK_THROWS(kFrame, Reader(body).tensor());
}
