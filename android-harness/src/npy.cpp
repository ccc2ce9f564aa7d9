#include "npy.h"

#include <cctype>
#include <cstring>

#include "error.h"

namespace mobilekit {

namespace {

constexpr uint8_t kNpyMagic[6] = {0x93, 'N', 'U', 'M', 'P', 'Y'};

// The header is a Python dict literal that numpy writes in one fixed form: after a key comes ": value".
std::string after_key(const std::string& header, const std::string& key, const std::string& name) {
    const size_t at = header.find("'" + key + "'");
    const size_t colon = at == std::string::npos ? at : header.find(':', at);
    if (colon == std::string::npos) throw Error(ErrorCode::kRequest, name + ": the .npy header has no " + key);
    const size_t start = header.find_first_not_of(' ', colon + 1);
    return start == std::string::npos ? "" : header.substr(start);
}

bool starts_with(const std::string& text, const char* prefix) { return text.rfind(prefix, 0) == 0; }

}  // namespace

Tensor parse_npy(const std::vector<uint8_t>& bytes, const std::string& name) {
    auto bad = [&](const std::string& why) { return Error(ErrorCode::kRequest, name + ": " + why); };
    if (bytes.size() < 10 || std::memcmp(bytes.data(), kNpyMagic, sizeof(kNpyMagic)) != 0) throw bad("no .npy file");
    const uint8_t major = bytes[6];
    const size_t prefix = major == 1 ? 10 : 12;
    if (major < 1 || major > 3 || bytes.size() < prefix) throw bad("unknown .npy format");
    size_t length = bytes[8] | (size_t{bytes[9]} << 8);
    if (major > 1) length |= (size_t{bytes[10]} << 16) | (size_t{bytes[11]} << 24);
    if (length > bytes.size() - prefix) throw bad("truncated .npy header");
    const std::string header(bytes.begin() + static_cast<long>(prefix), bytes.begin() + static_cast<long>(prefix + length));

    Tensor tensor;
    tensor.name = name;
    const std::string type = after_key(header, "descr", name);
    if (starts_with(type, "'<f4'"))
        tensor.dtype = DType::kFloat32;
    else if (starts_with(type, "'<i4'"))
        tensor.dtype = DType::kInt32;
    else
        throw bad("element type " + type.substr(0, type.find(',')) + ", expected '<f4' or '<i4'");
    if (!starts_with(after_key(header, "fortran_order", name), "False")) throw bad("Fortran order, expected C order");

    std::string shape = after_key(header, "shape", name);
    if (shape.empty() || shape[0] != '(' || shape.find(')') == std::string::npos) throw bad("a .npy header without shape");
    shape = shape.substr(1, shape.find(')') - 1);
    const size_t left = bytes.size() - prefix - length;
    uint64_t elements = 1;
    for (size_t i = 0; i < shape.size();) {
        if (!std::isdigit(static_cast<unsigned char>(shape[i]))) {
            if (shape[i] != ' ' && shape[i] != ',') throw bad("a .npy shape that is no tuple of numbers");
            i++;
            continue;
        }
        uint64_t axis = 0;
        for (; i < shape.size() && std::isdigit(static_cast<unsigned char>(shape[i])); i++) {
            axis = axis * 10 + static_cast<uint64_t>(shape[i] - '0');
            if (axis > UINT32_MAX) throw bad("an implausible .npy shape");
        }
        if (axis == 0 || elements > left / axis) throw bad("the .npy shape does not fit its bytes");
        elements *= axis;
        tensor.shape.push_back(static_cast<uint32_t>(axis));
    }
    if (tensor.shape.empty()) tensor.shape.push_back(1);
    if (tensor.shape.size() > kMaxRank) throw bad("more than 4 axes");
    if (elements * kElementBytes != left) throw bad("the .npy shape does not fit its bytes");
    tensor.data.assign(bytes.begin() + static_cast<long>(prefix + length), bytes.end());
    return tensor;
}

std::vector<uint8_t> format_npy(const Tensor& tensor) {
    std::string header = std::string("{'descr': '") + (tensor.dtype == DType::kInt32 ? "<i4" : "<f4") +
                         "', 'fortran_order': False, 'shape': (";
    for (size_t i = 0; i < tensor.shape.size(); i++)
        header += (i ? ", " : "") + std::to_string(tensor.shape[i]);
    header += tensor.shape.size() == 1 ? ",), }" : "), }";
    // numpy pads with spaces so that the data starts at a multiple of 64, and ends the header with a newline.
    const size_t total = (10 + header.size() + 1 + 63) / 64 * 64;
    header.append(total - 10 - header.size() - 1, ' ');
    header += '\n';

    std::vector<uint8_t> bytes(kNpyMagic, kNpyMagic + sizeof(kNpyMagic));
    bytes.push_back(1);
    bytes.push_back(0);
    bytes.push_back(static_cast<uint8_t>(header.size() & 0xff));
    bytes.push_back(static_cast<uint8_t>(header.size() >> 8));
    bytes.insert(bytes.end(), header.begin(), header.end());
    bytes.insert(bytes.end(), tensor.data.begin(), tensor.data.end());
    return bytes;
}

}  // namespace mobilekit
