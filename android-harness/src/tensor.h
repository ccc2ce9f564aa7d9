// A named tensor as it travels: C order, outermost axis first, like numpy.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace mobilekit {

enum class DType : uint8_t { kFloat32 = 1, kInt32 = 2 };

inline constexpr size_t kElementBytes = 4;  // both types
inline constexpr size_t kMaxRank = 4;       // ncnn::Mat has at most c, d, h, w

struct Tensor {
    std::string name;
    DType dtype = DType::kFloat32;
    std::vector<uint32_t> shape;
    std::vector<uint8_t> data;
};

}  // namespace mobilekit
