// The GPUs that ncnn finds through Vulkan. Nothing here is done unasked: a driver takes time to start, and some die.
#pragma once

#include <net.h>

#include <cstddef>
#include <map>
#include <string>

#include "json.h"

namespace mobilekit {

// What a loaded network computes with on a GPU: the options that are left of those asked for, and by type the layers
// that have no Vulkan form, or none for their parameters, and run on the CPU.
struct GpuUse {
    std::string name;
    bool fp16_packed = false;
    bool fp16_storage = false;
    bool fp16_arithmetic = false;
    std::map<std::string, size_t> layers_on_cpu;
};

std::string gpus_json();

// Throws Error(kGpu) where this build or this machine has no Vulkan, or no GPU.
void require_gpu();

// Of a network whose .param is read and whose weights are loaded; throws Error(kGpu) where it does not use the GPU.
GpuUse gpu_use(const ncnn::Net& net);

void write_gpu_use(Json& json, const GpuUse& use);

}  // namespace mobilekit
