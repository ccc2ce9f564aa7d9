// Frames and their bodies (PROTOCOL.md). Pure: bytes in, values out; nothing here touches a socket.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "error.h"
#include "tensor.h"

namespace mobilekit {

inline constexpr uint8_t kMagic[4] = {'M', 'K', 'H', 'P'};
inline constexpr uint16_t kProtocolVersion = 2;
inline constexpr size_t kHeaderBytes = 16;
inline constexpr uint64_t kDefaultMaxFrame = uint64_t{512} << 20;
inline constexpr uint32_t kMaxString = 64 << 10;
inline constexpr uint32_t kMaxItems = 65536;
inline constexpr uint32_t kMaxIterations = 1000000;

enum class MessageType : uint16_t {
    kHello = 0x01,
    kInfo = 0x02,
    kLoad = 0x03,
    kInfer = 0x04,
    kBye = 0x05,
    kGpus = 0x06,
    kPixels = 0x07,
    kHelloOk = 0x81,
    kInfoOk = 0x82,
    kLoadOk = 0x83,
    kInferOk = 0x84,
    kByeOk = 0x85,
    kGpusOk = 0x86,
    kPixelsOk = 0x87,
    kError = 0xff,
};

struct Header {
    uint16_t version = kProtocolVersion;
    uint16_t type = 0;
    uint64_t length = 0;  // of the body, in bytes
};

// Throws Error(kFrame) on a wrong magic or a length above max_frame, Error(kVersion) on another version.
Header decode_header(const uint8_t (&bytes)[kHeaderBytes], uint64_t max_frame);
std::vector<uint8_t> encode_frame(MessageType type, const std::vector<uint8_t>& body);

class Writer {
public:
    void u8(uint8_t value) { bytes_.push_back(value); }
    void u32(uint32_t value);
    void u64(uint64_t value);
    void f32(float value);
    void bytes(const std::vector<uint8_t>& value) { bytes_.insert(bytes_.end(), value.begin(), value.end()); }
    void text(const std::string& value);
    void tensor(const Tensor& value);
    std::vector<uint8_t> take() { return std::move(bytes_); }

private:
    std::vector<uint8_t> bytes_;
};

// Every read is checked against what is left; sizes are checked before anything is allocated.
class Reader {
public:
    Reader(const uint8_t* data, size_t size) : data_(data), left_(size) {}
    explicit Reader(const std::vector<uint8_t>& body) : Reader(body.data(), body.size()) {}
    uint8_t u8();
    uint32_t u32();
    uint64_t u64();
    float f32();
    std::string text();
    Tensor tensor();
    std::vector<uint8_t> bytes(uint64_t size);
    uint32_t count();  // a number of items, at most kMaxItems and at most what is left could hold
    void end() const;  // throws where bytes are left over

private:
    const uint8_t* take(uint64_t size);
    const uint8_t* data_;
    size_t left_;
};

struct HelloRequest {
    std::string token;
    std::string client;
};

// Bits of LoadRequest::flags.
enum LoadFlag : uint32_t {
    kFp16Packed = 1u << 0,
    kFp16Storage = 1u << 1,
    kFp16Arithmetic = 1u << 2,
    kBf16Storage = 1u << 3,
    kBf16Packed = 1u << 4,
    kInt8Inference = 1u << 5,
    kWinograd = 1u << 6,
    kSgemm = 1u << 7,
    kPacking = 1u << 8,
    kVulkan = 1u << 9,
    kAnyInputShape = 1u << 10,  // do not hold inputs against the shapes written in the .param
    kAllLoadFlags = (1u << 11) - 1,
};
inline constexpr uint32_t kDefaultLoadFlags = kInt8Inference | kWinograd | kSgemm | kPacking;

enum class Cluster : uint32_t { kAll = 0, kLittle = 1, kBig = 2 };  // ncnn's powersave numbers

struct LoadRequest {
    std::string param;
    std::string bin;
    uint32_t threads = 0;  // 0: as ncnn chooses
    Cluster cluster = Cluster::kAll;
    uint32_t flags = kDefaultLoadFlags;
};

enum InferFlag : uint32_t { kLayerTimes = 1u << 0, kAllInferFlags = 1 };

struct InferRequest {
    uint32_t warmup = 0;
    uint32_t iterations = 1;
    uint32_t flags = 0;
    std::vector<Tensor> inputs;
    std::vector<std::string> outputs;  // empty: the network's own
};

HelloRequest decode_hello(const std::vector<uint8_t>& body);
LoadRequest decode_load(const std::vector<uint8_t>& body);
InferRequest decode_infer(const std::vector<uint8_t>& body);
std::vector<uint8_t> encode_hello(const HelloRequest& request);
std::vector<uint8_t> encode_load(const LoadRequest& request);
std::vector<uint8_t> encode_infer(const InferRequest& request);
std::vector<uint8_t> encode_hello_ok(const std::string& harness, const std::string& ncnn, const std::string& abi,
                                     uint64_t max_frame, const std::vector<std::string>& own_layers);
std::vector<uint8_t> encode_json(const std::string& json);
std::vector<uint8_t> encode_infer_ok(const std::string& json, const std::vector<Tensor>& outputs);
std::vector<uint8_t> encode_error(ErrorCode code, const std::string& message);

}  // namespace mobilekit
