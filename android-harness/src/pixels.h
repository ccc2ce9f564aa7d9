// The request PIXELS (PROTOCOL.md): a decoded picture through ncnn's own pixel functions, as an app prepares its input.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "tensor.h"

namespace mobilekit {

inline constexpr int kPixelsVersion = 1;                     // told in INFO_OK; 0 or missing: an older harness
inline constexpr uint64_t kMaxPicturePixels = 100'000'000;   // three bytes each stay below what an int counts
inline constexpr uint64_t kMaxResizedPixels = 33'554'432;    // ncnn holds three floats of each at one time

enum class PixelOrder : uint32_t { kRgb = 1, kBgr = 2, kGray = 3 };  // ncnn's numbers

inline uint32_t channels_of(PixelOrder order) { return order == PixelOrder::kGray ? 1 : 3; }

// Resized to resized_*, its upper left corner set at (left, top) of width x height: cut where that is outside, padded
// with `pad` where it leaves room. Then (value - mean) * norm for each channel of `to`; an empty list leaves that out.
struct PixelsRequest {
    PixelOrder from = PixelOrder::kRgb;
    PixelOrder to = PixelOrder::kRgb;
    uint32_t picture_width = 0, picture_height = 0;
    uint32_t resized_width = 0, resized_height = 0;
    int32_t left = 0, top = 0;
    uint32_t width = 0, height = 0;
    float pad = 0;
    std::vector<float> mean, norm;
    std::vector<uint8_t> pixels;  // rows without gaps, 8 bits a channel
};

PixelsRequest decode_pixels(const std::vector<uint8_t>& body);  // throws Error(kFrame)
std::vector<uint8_t> encode_pixels(const PixelsRequest& request);

// (channels, height, width) float32, named "pixels". Throws Error(kRequest) for sizes that do not fit, Error(kMemory).
Tensor tensor_of_pixels(const PixelsRequest& request);

std::string pixels_json(uint64_t elapsed_ns);

}  // namespace mobilekit
