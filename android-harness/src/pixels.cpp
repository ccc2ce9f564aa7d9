#include "pixels.h"

#include <mat.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "json.h"
#include "wire.h"

namespace mobilekit {

namespace {

[[noreturn]] void unfit(const std::string& what) { throw Error(ErrorCode::kRequest, what); }

std::string size_text(uint64_t width, uint64_t height) { return std::to_string(width) + "x" + std::to_string(height); }

void check_size(const char* what, uint32_t width, uint32_t height, uint64_t limit) {
    if (width == 0 || height == 0 || uint64_t{width} * height > limit)
        unfit(std::string(what) + " of " + size_text(width, height) + ": 1 to " + std::to_string(limit) + " pixels");
}

void check_place(const char* side, int32_t offset, uint32_t length, uint32_t room) {
    if (offset >= static_cast<int64_t>(room) || offset + static_cast<int64_t>(length) <= 0)
        unfit(std::string("the resized picture lies outside: ") + side + " " + std::to_string(offset));
}

void check(const PixelsRequest& request) {
    check_size("a picture", request.picture_width, request.picture_height, kMaxPicturePixels);
    check_size("a resized picture", request.resized_width, request.resized_height, kMaxResizedPixels);
    check_size("a tensor", request.width, request.height, kMaxResizedPixels);
    if (request.pixels.size() != uint64_t{request.picture_width} * request.picture_height * channels_of(request.from))
        unfit(std::to_string(request.pixels.size()) + " bytes are no picture of " +
              size_text(request.picture_width, request.picture_height));
    const bool resized =
        request.resized_width != request.picture_width || request.resized_height != request.picture_height;
    // ncnn's resize reads the pixel beside each one, and in a row of one that is before its start.
    if (resized && (request.picture_width < 2 || request.picture_height < 2))
        unfit("ncnn cannot resize a picture of " + size_text(request.picture_width, request.picture_height));
    check_place("left", request.left, request.resized_width, request.width);
    check_place("top", request.top, request.resized_height, request.height);
    for (const std::vector<float>* values : {&request.mean, &request.norm})
        if (!values->empty() && values->size() != channels_of(request.to))
            unfit(std::to_string(values->size()) + " means or norms for " + std::to_string(channels_of(request.to)) +
                  " channels");
}

int ncnn_type(PixelOrder from, PixelOrder to) {
    const auto type = static_cast<int>(from);
    return from == to ? type : type | (static_cast<int>(to) << ncnn::Mat::PIXEL_CONVERT_SHIFT);
}

ncnn::Mat there(ncnn::Mat mat) {
    if (mat.empty()) throw Error(ErrorCode::kMemory, "no memory for the picture");
    return mat;
}

// What of `length` at `offset` lies outside of `room` before and behind (to cut), or is missing there (to pad).
struct Edges {
    Edges(int32_t offset, int length, int room) {
        const int end = offset + length;
        cut_before = std::max(0, -offset);
        cut_behind = std::max(0, end - room);
        pad_before = std::max(0, offset);
        pad_behind = std::max(0, room - end);
    }
    int cut_before, cut_behind, pad_before, pad_behind;
};

std::vector<float> floats(Reader& reader) {
    const uint32_t count = reader.u32();
    if (count > 3) throw Error(ErrorCode::kFrame, std::to_string(count) + " means or norms");
    std::vector<float> values;
    for (uint32_t i = 0; i < count; i++) {
        values.push_back(reader.f32());
        if (!std::isfinite(values.back())) throw Error(ErrorCode::kFrame, "a mean or norm that is not finite");
    }
    return values;
}

PixelOrder order(Reader& reader) {
    const uint32_t value = reader.u32();
    if (value < 1 || value > 3) throw Error(ErrorCode::kFrame, "unknown order of pixels " + std::to_string(value));
    return static_cast<PixelOrder>(value);
}

}  // namespace

PixelsRequest decode_pixels(const std::vector<uint8_t>& body) {
    Reader reader(body);
    PixelsRequest request;
    request.from = order(reader);
    request.to = order(reader);
    for (uint32_t* field : {&request.picture_width, &request.picture_height, &request.resized_width, &request.resized_height})
        *field = reader.u32();
    for (int32_t* field : {&request.left, &request.top}) *field = static_cast<int32_t>(reader.u32());
    for (uint32_t* field : {&request.width, &request.height}) *field = reader.u32();
    request.pad = reader.f32();
    if (!std::isfinite(request.pad)) throw Error(ErrorCode::kFrame, "a padding that is not finite");
    request.mean = floats(reader);
    request.norm = floats(reader);
    request.pixels = reader.bytes(reader.u64());
    reader.end();
    return request;
}

std::vector<uint8_t> encode_pixels(const PixelsRequest& request) {
    Writer writer;
    for (const PixelOrder value : {request.from, request.to}) writer.u32(static_cast<uint32_t>(value));
    for (const uint32_t value :
         {request.picture_width, request.picture_height, request.resized_width, request.resized_height})
        writer.u32(value);
    for (const int32_t value : {request.left, request.top}) writer.u32(static_cast<uint32_t>(value));
    for (const uint32_t value : {request.width, request.height}) writer.u32(value);
    writer.f32(request.pad);
    for (const std::vector<float>* values : {&request.mean, &request.norm}) {
        writer.u32(static_cast<uint32_t>(values->size()));
        for (const float value : *values) writer.f32(value);
    }
    writer.u64(request.pixels.size());
    writer.bytes(request.pixels);
    return writer.take();
}

Tensor tensor_of_pixels(const PixelsRequest& request) {
    check(request);
    const auto length = [](uint32_t value) { return static_cast<int>(value); };
    ncnn::Mat mat = there(ncnn::Mat::from_pixels_resize(
        request.pixels.data(), ncnn_type(request.from, request.to), length(request.picture_width),
        length(request.picture_height), length(request.resized_width), length(request.resized_height)));
    const Edges across(request.left, mat.w, length(request.width)), down(request.top, mat.h, length(request.height));
    if (across.cut_before || across.cut_behind || down.cut_before || down.cut_behind) {
        ncnn::Mat cut;
        ncnn::copy_cut_border(mat, cut, down.cut_before, down.cut_behind, across.cut_before, across.cut_behind);
        mat = there(cut);
    }
    if (across.pad_before || across.pad_behind || down.pad_before || down.pad_behind) {
        ncnn::Mat padded;
        ncnn::copy_make_border(mat, padded, down.pad_before, down.pad_behind, across.pad_before, across.pad_behind,
                               ncnn::BORDER_CONSTANT, request.pad);
        mat = there(padded);
    }
    mat.substract_mean_normalize(request.mean.empty() ? nullptr : request.mean.data(),
                                 request.norm.empty() ? nullptr : request.norm.data());

    Tensor tensor;
    tensor.name = "pixels";
    tensor.shape = {static_cast<uint32_t>(mat.c), static_cast<uint32_t>(mat.h), static_cast<uint32_t>(mat.w)};
    const size_t plane = static_cast<size_t>(mat.w) * static_cast<size_t>(mat.h) * kElementBytes;
    tensor.data.resize(plane * static_cast<size_t>(mat.c));
    for (int c = 0; c < mat.c; c++)
        std::memcpy(tensor.data.data() + plane * static_cast<size_t>(c), mat.channel(c).data, plane);
    return tensor;
}

std::string pixels_json(uint64_t elapsed_ns) {
    return Json().open_object().field("elapsed_ns", elapsed_ns).close_object().text();
}

}  // namespace mobilekit
