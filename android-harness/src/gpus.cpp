#include "gpus.h"

#include <gpu.h>

#include <cstdint>

#include "error.h"

namespace mobilekit {

#if NCNN_VULKAN

namespace {

const char* type_name(int type) {
    return type == 0 ? "discrete" : type == 1 ? "integrated" : type == 2 ? "virtual" : "cpu";
}

std::string version(uint32_t packed) {  // VK_API_VERSION_*
    return std::to_string((packed >> 22) & 0x7f) + "." + std::to_string((packed >> 12) & 0x3ff) + "." +
           std::to_string(packed & 0xfff);
}

}  // namespace

std::string gpus_json() {
    Json json;
    json.open_object().field("vulkan", true).key("gpus").open_array();
    for (int i = 0; i < ncnn::get_gpu_count(); i++) {
        const ncnn::GpuInfo& info = ncnn::get_gpu_info(i);
        json.open_object()
            .field("name", std::string(info.device_name()))
            .field("type", type_name(info.type()))
            .field("driver", std::string(info.driver_name()))
            .field("api_version", version(info.api_version()))
            .field("fp16_packed", info.support_fp16_packed())
            .field("fp16_storage", info.support_fp16_storage())
            .field("fp16_arithmetic", info.support_fp16_arithmetic())
            .field("chosen", i == ncnn::get_default_gpu_index())
            .close_object();
    }
    return json.close_array().close_object().text();
}

void require_gpu() {
    if (ncnn::get_gpu_count() <= 0) throw Error(ErrorCode::kGpu, "there is no Vulkan driver here, or no GPU that it drives");
}

GpuUse gpu_use(const ncnn::Net& net) {
    // ncnn goes on without the GPU, and without a word, where it cannot be opened.
    if (!net.opt.use_vulkan_compute || !net.vulkan_device())
        throw Error(ErrorCode::kGpu, "the GPU cannot be opened for computing");
    GpuUse use;
    use.name = net.vulkan_device()->info.device_name();
    use.fp16_packed = net.opt.use_fp16_packed;
    use.fp16_storage = net.opt.use_fp16_storage;
    use.fp16_arithmetic = net.opt.use_fp16_arithmetic;
    for (const ncnn::Layer* layer : net.layers())
        if (!layer->support_vulkan && layer->type != "Input") use.layers_on_cpu[layer->type]++;
    return use;
}

#else

std::string gpus_json() { return Json().open_object().field("vulkan", false).key("gpus").open_array().close_array().close_object().text(); }

void require_gpu() { throw Error(ErrorCode::kGpu, "this harness is built without Vulkan"); }

GpuUse gpu_use(const ncnn::Net&) {
    require_gpu();
    return {};
}

#endif

void write_gpu_use(Json& json, const GpuUse& use) {
    json.open_object()
        .field("name", use.name)
        .field("fp16_packed", use.fp16_packed)
        .field("fp16_storage", use.fp16_storage)
        .field("fp16_arithmetic", use.fp16_arithmetic)
        .key("layers_on_cpu")
        .open_object();
    for (const auto& [type, count] : use.layers_on_cpu) json.field(type, static_cast<uint64_t>(count));
    json.close_object().close_object();
}

}  // namespace mobilekit
