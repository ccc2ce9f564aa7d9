// .npy files (format 1.0 to 3.0 of numpy.lib.format): little-endian float32 and int32 in C order.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "tensor.h"

namespace mobilekit {

// Throws Error(kRequest) on anything else; a scalar becomes shape (1,).
Tensor parse_npy(const std::vector<uint8_t>& bytes, const std::string& name);
std::vector<uint8_t> format_npy(const Tensor& tensor);

}  // namespace mobilekit
