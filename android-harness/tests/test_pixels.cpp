// Pictures through ncnn's pixel functions: orders, places, and what is refused.
#include <cmath>
#include <cstring>
#include <fstream>

#include "check.h"
#include "pixels.h"
#include "wire.h"

using namespace mobilekit;

namespace {

PixelsRequest picture(uint32_t width, uint32_t height) {
    PixelsRequest request;
    request.picture_width = request.resized_width = request.width = width;
    request.picture_height = request.resized_height = request.height = height;
    for (uint32_t i = 0; i < width * height * 3; i++) request.pixels.push_back(static_cast<uint8_t>(7 * i));
    return request;
}

float at(const Tensor& tensor, uint32_t channel, uint32_t row, uint32_t column) {
    float value = 0;
    const size_t index = (size_t{channel} * tensor.shape[1] + row) * tensor.shape[2] + column;
    std::memcpy(&value, tensor.data.data() + index * 4, 4);
    return value;
}

std::vector<uint8_t> vector_body() {
    std::ifstream file(std::string(MOBILEKIT_VECTORS) + "/pixels.hex");
    std::vector<uint8_t> bytes;
    for (std::string line; std::getline(file, line);)
        for (size_t i = 0; i + 1 < line.size(); i += 2)
            bytes.push_back(static_cast<uint8_t>(std::stoi(line.substr(i, 2), nullptr, 16)));
    CHECK(bytes.size() > kHeaderBytes);
    return std::vector<uint8_t>(bytes.begin() + kHeaderBytes, bytes.end());
}

}  // namespace

TEST(pixels_vector) {
    const std::vector<uint8_t> body = vector_body();
    const PixelsRequest request = decode_pixels(body);
    CHECK(request.from == PixelOrder::kRgb);
    CHECK(request.to == PixelOrder::kBgr);
    CHECK_EQ(request.picture_width, 3u);
    CHECK_EQ(request.picture_height, 2u);
    CHECK_EQ(request.resized_height, 5u);
    CHECK_EQ(request.left, 1);
    CHECK_EQ(request.top, -1);
    CHECK_EQ(request.width, 6u);
    CHECK_EQ(request.pad, 114.f);
    CHECK((request.norm == std::vector<float>{0.5f, 0.25f, 0.125f}));
    CHECK_EQ(request.pixels.size(), size_t{18});
    CHECK(encode_pixels(request) == body);
}

TEST(pixels_truncated_or_too_long_are_refused) {
    std::vector<uint8_t> body = vector_body();
    for (size_t cut = 0; cut < body.size(); cut++)
        CHECK_THROWS(kFrame, decode_pixels(std::vector<uint8_t>(body.begin(), body.begin() + static_cast<long>(cut))));
    body.push_back(0);
    CHECK_THROWS(kFrame, decode_pixels(body));
}

// Whatever one byte says: a tensor of the announced size, or an Error.
TEST(pixels_with_any_byte_changed) {
    const std::vector<uint8_t> body = vector_body();
    size_t made = 0, refused = 0;
    for (size_t index = 0; index < body.size(); index++)
        for (const int value : {0, 1, 2, 4, 127, 128, 255}) {
            std::vector<uint8_t> bad = body;
            bad[index] = static_cast<uint8_t>(value);
            try {
                const PixelsRequest request = decode_pixels(bad);
                if (uint64_t{request.width} * request.height > 1'000'000) continue;
                const Tensor tensor = tensor_of_pixels(request);
                CHECK_EQ(tensor.data.size(),
                         size_t{request.width} * request.height * channels_of(request.to) * kElementBytes);
                made++;
            } catch (const Error&) {
                refused++;
            }
        }
    CHECK(made > 0);
    CHECK(refused > 0);
}

TEST(pixels_keep_their_order_or_change_it) {
    PixelsRequest request = picture(4, 3);
    const Tensor same = tensor_of_pixels(request);
    CHECK((same.shape == std::vector<uint32_t>{3, 3, 4}));
    CHECK_EQ(at(same, 0, 1, 2), static_cast<float>(request.pixels[(4 + 2) * 3]));
    CHECK_EQ(at(same, 2, 2, 3), static_cast<float>(request.pixels[(8 + 3) * 3 + 2]));
    request.to = PixelOrder::kBgr;
    CHECK_EQ(at(tensor_of_pixels(request), 0, 1, 2), at(same, 2, 1, 2));
    request.to = PixelOrder::kGray;
    CHECK((tensor_of_pixels(request).shape == std::vector<uint32_t>{1, 3, 4}));
}

TEST(pixels_are_cut_and_padded) {
    PixelsRequest request = picture(4, 3);
    request.left = -1;
    request.top = 2;
    request.width = 5;
    request.height = 4;
    request.pad = 9.f;
    const Tensor tensor = tensor_of_pixels(request);
    CHECK((tensor.shape == std::vector<uint32_t>{3, 4, 5}));
    CHECK_EQ(at(tensor, 1, 1, 0), 9.f);
    CHECK_EQ(at(tensor, 1, 3, 4), 9.f);
    CHECK_EQ(at(tensor, 1, 3, 0), static_cast<float>(request.pixels[(4 + 1) * 3 + 1]));
}

TEST(pixels_are_normalised) {
    PixelsRequest request = picture(4, 3);
    request.mean = {1.f, 2.f, 3.f};
    request.norm = {0.5f, 0.25f, 2.f};
    const float pixel = static_cast<float>(request.pixels[(4 + 2) * 3 + 2]);
    CHECK(std::fabs(at(tensor_of_pixels(request), 2, 1, 2) - (pixel - 3.f) * 2.f) < 1e-3f);
}

TEST(pixels_that_do_not_fit_are_refused) {
    const auto refused = [](const std::function<void(PixelsRequest&)>& change) {
        PixelsRequest request = picture(4, 3);
        change(request);
        CHECK_THROWS(kRequest, tensor_of_pixels(request));
    };
    refused([](PixelsRequest& r) { r.pixels.pop_back(); });
    refused([](PixelsRequest& r) { r.picture_width = 0; });
    refused([](PixelsRequest& r) { r.resized_height = 0; });
    refused([](PixelsRequest& r) { r.width = 1u << 31; });
    refused([](PixelsRequest& r) { r.left = 4; });
    refused([](PixelsRequest& r) { r.top = INT32_MIN; });
    refused([](PixelsRequest& r) { r.mean = {1.f}; });
    refused([](PixelsRequest& r) {  // 2^64 bytes, modulo 2^64 none
        r.picture_width = r.picture_height = UINT32_MAX;
        r.pixels.clear();
    });
    PixelsRequest line = picture(5, 1);
    CHECK_EQ(tensor_of_pixels(line).shape[2], 5u);
    line.resized_width = line.width = 9;
    CHECK_THROWS(kRequest, tensor_of_pixels(line));
}
