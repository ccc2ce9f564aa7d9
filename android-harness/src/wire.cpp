#include "wire.h"

#include <cstring>

namespace mobilekit {

namespace {

template <typename T>
void put(std::vector<uint8_t>& bytes, T value) {
    for (size_t i = 0; i < sizeof(T); i++) bytes.push_back(static_cast<uint8_t>(value >> (8 * i)));
}

template <typename T>
T get(const uint8_t* bytes) {
    T value = 0;
    for (size_t i = 0; i < sizeof(T); i++) value = static_cast<T>(value | (static_cast<T>(bytes[i]) << (8 * i)));
    return value;
}

[[noreturn]] void bad(const std::string& what) { throw Error(ErrorCode::kFrame, what); }

}  // namespace

Header decode_header(const uint8_t (&bytes)[kHeaderBytes], uint64_t max_frame) {
    if (std::memcmp(bytes, kMagic, sizeof(kMagic)) != 0) bad("not a mobilekit frame: wrong magic");
    Header header;
    header.version = get<uint16_t>(bytes + 4);
    header.type = get<uint16_t>(bytes + 6);
    header.length = get<uint64_t>(bytes + 8);
    if (header.version != kProtocolVersion)
        throw Error(ErrorCode::kVersion, "protocol version " + std::to_string(header.version) + ", this harness speaks " +
                                             std::to_string(kProtocolVersion));
    if (header.length > max_frame)
        bad("a frame of " + std::to_string(header.length) + " bytes, the limit is " + std::to_string(max_frame));
    return header;
}

std::vector<uint8_t> encode_frame(MessageType type, const std::vector<uint8_t>& body) {
    std::vector<uint8_t> frame(kMagic, kMagic + sizeof(kMagic));
    frame.reserve(kHeaderBytes + body.size());
    put<uint16_t>(frame, kProtocolVersion);
    put<uint16_t>(frame, static_cast<uint16_t>(type));
    put<uint64_t>(frame, body.size());
    frame.insert(frame.end(), body.begin(), body.end());
    return frame;
}

void Writer::u32(uint32_t value) { put(bytes_, value); }
void Writer::u64(uint64_t value) { put(bytes_, value); }

void Writer::f32(float value) {
    uint32_t bits = 0;
    std::memcpy(&bits, &value, sizeof(bits));
    u32(bits);
}

void Writer::text(const std::string& value) {
    u32(static_cast<uint32_t>(value.size()));
    bytes_.insert(bytes_.end(), value.begin(), value.end());
}

void Writer::tensor(const Tensor& value) {
    text(value.name);
    u8(static_cast<uint8_t>(value.dtype));
    u8(static_cast<uint8_t>(value.shape.size()));
    for (uint32_t axis : value.shape) u32(axis);
    u64(value.data.size());
    bytes_.insert(bytes_.end(), value.data.begin(), value.data.end());
}

const uint8_t* Reader::take(uint64_t size) {
    if (size > left_) bad("a body ends too early");
    const uint8_t* start = data_;
    data_ += size;
    left_ -= static_cast<size_t>(size);
    return start;
}

uint8_t Reader::u8() { return *take(1); }
uint32_t Reader::u32() { return get<uint32_t>(take(4)); }
uint64_t Reader::u64() { return get<uint64_t>(take(8)); }

float Reader::f32() {
    const uint32_t bits = u32();
    float value = 0;
    std::memcpy(&value, &bits, sizeof(value));
    return value;
}

std::vector<uint8_t> Reader::bytes(uint64_t size) {
    const uint8_t* start = take(size);
    return std::vector<uint8_t>(start, start + size);
}

std::string Reader::text() {
    const uint32_t size = u32();
    if (size > kMaxString) bad("a text of " + std::to_string(size) + " bytes");
    const uint8_t* start = take(size);
    std::string value(start, start + size);
    if (value.find('\0') != std::string::npos) bad("a text holds a zero byte");
    return value;
}

uint32_t Reader::count() {
    const uint32_t items = u32();
    if (items > kMaxItems || items > left_) bad("an implausible number of items: " + std::to_string(items));
    return items;
}

Tensor Reader::tensor() {
    Tensor value;
    value.name = text();
    const uint8_t dtype = u8();
    if (dtype != static_cast<uint8_t>(DType::kFloat32) && dtype != static_cast<uint8_t>(DType::kInt32))
        bad("tensor '" + value.name + "': unknown element type " + std::to_string(dtype));
    value.dtype = static_cast<DType>(dtype);
    const uint8_t rank = u8();
    if (rank < 1 || rank > kMaxRank) bad("tensor '" + value.name + "': rank " + std::to_string(rank));
    uint64_t elements = 1;
    for (uint8_t i = 0; i < rank; i++) {
        const uint32_t axis = u32();
        // left_ bounds the product, so that it cannot wrap.
        if (axis == 0 || elements > left_ / axis) bad("tensor '" + value.name + "': its shape does not fit its bytes");
        elements *= axis;
        value.shape.push_back(axis);
    }
    const uint64_t size = u64();
    if (size != elements * kElementBytes) bad("tensor '" + value.name + "': its shape does not fit its bytes");
    const uint8_t* start = take(size);
    value.data.assign(start, start + size);
    return value;
}

void Reader::end() const {
    if (left_ != 0) bad(std::to_string(left_) + " bytes left over in a body");
}

HelloRequest decode_hello(const std::vector<uint8_t>& body) {
    Reader reader(body);
    HelloRequest request;
    request.token = reader.text();
    request.client = reader.text();
    reader.end();
    return request;
}

LoadRequest decode_load(const std::vector<uint8_t>& body) {
    Reader reader(body);
    LoadRequest request;
    request.param = reader.text();
    request.bin = reader.text();
    request.threads = reader.u32();
    const uint32_t cluster = reader.u32();
    if (cluster > static_cast<uint32_t>(Cluster::kBig)) bad("unknown core cluster " + std::to_string(cluster));
    request.cluster = static_cast<Cluster>(cluster);
    request.flags = reader.u32();
    if (request.flags & ~static_cast<uint32_t>(kAllLoadFlags)) bad("unknown load flags");
    reader.end();
    return request;
}

InferRequest decode_infer(const std::vector<uint8_t>& body) {
    Reader reader(body);
    InferRequest request;
    request.warmup = reader.u32();
    request.iterations = reader.u32();
    request.flags = reader.u32();
    if (request.warmup > kMaxIterations || request.iterations < 1 || request.iterations > kMaxIterations)
        bad("an implausible number of iterations");
    if (request.flags & ~static_cast<uint32_t>(kAllInferFlags)) bad("unknown infer flags");
    const uint32_t inputs = reader.count();
    for (uint32_t i = 0; i < inputs; i++) request.inputs.push_back(reader.tensor());
    const uint32_t outputs = reader.count();
    for (uint32_t i = 0; i < outputs; i++) request.outputs.push_back(reader.text());
    reader.end();
    return request;
}

std::vector<uint8_t> encode_hello(const HelloRequest& request) {
    Writer writer;
    writer.text(request.token);
    writer.text(request.client);
    return writer.take();
}

std::vector<uint8_t> encode_load(const LoadRequest& request) {
    Writer writer;
    writer.text(request.param);
    writer.text(request.bin);
    writer.u32(request.threads);
    writer.u32(static_cast<uint32_t>(request.cluster));
    writer.u32(request.flags);
    return writer.take();
}

std::vector<uint8_t> encode_infer(const InferRequest& request) {
    Writer writer;
    writer.u32(request.warmup);
    writer.u32(request.iterations);
    writer.u32(request.flags);
    writer.u32(static_cast<uint32_t>(request.inputs.size()));
    for (const Tensor& input : request.inputs) writer.tensor(input);
    writer.u32(static_cast<uint32_t>(request.outputs.size()));
    for (const std::string& output : request.outputs) writer.text(output);
    return writer.take();
}

std::vector<uint8_t> encode_hello_ok(const std::string& harness, const std::string& ncnn, const std::string& abi,
                                     uint64_t max_frame, const std::vector<std::string>& own_layers) {
    Writer writer;
    writer.text(harness);
    writer.text(ncnn);
    writer.text(abi);
    writer.u64(max_frame);
    writer.u32(static_cast<uint32_t>(own_layers.size()));
    for (const std::string& type : own_layers) writer.text(type);
    return writer.take();
}

std::vector<uint8_t> encode_json(const std::string& json) {
    Writer writer;
    writer.text(json);
    return writer.take();
}

std::vector<uint8_t> encode_infer_ok(const std::string& json, const std::vector<Tensor>& outputs) {
    Writer writer;
    writer.text(json);
    writer.u32(static_cast<uint32_t>(outputs.size()));
    for (const Tensor& output : outputs) writer.tensor(output);
    return writer.take();
}

std::vector<uint8_t> encode_error(ErrorCode code, const std::string& message) {
    Writer writer;
    writer.u32(static_cast<uint32_t>(code));
    writer.text(message.size() > kMaxString ? message.substr(0, kMaxString) : message);
    return writer.take();
}

}  // namespace mobilekit
