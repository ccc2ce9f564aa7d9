#include "device_info.h"

#include <cpu.h>
#include <dirent.h>
#include <mobilekit_layers.h>
#include <platform.h>
#include <sys/utsname.h>

#include <algorithm>
#include <fstream>
#include <map>
#include <set>
#include <sstream>
#include <vector>

#include "json.h"
#include "pixels.h"
#include "wire.h"

namespace mobilekit {

namespace {

bool read_word(const std::string& path, std::string& word) {
    std::ifstream file(path);
    return static_cast<bool>(file >> word);
}

bool read_number(const std::string& path, int64_t& number) {
    std::ifstream file(path);
    return static_cast<bool>(file >> number);
}

std::vector<std::string> entries(const std::string& folder, const std::string& prefix) {
    std::vector<std::string> names;
    DIR* directory = ::opendir(folder.c_str());
    if (!directory) return names;
    while (const dirent* entry = ::readdir(directory)) {
        const std::string name = entry->d_name;
        if (name.rfind(prefix, 0) == 0) names.push_back(name);
    }
    ::closedir(directory);
    std::sort(names.begin(), names.end());
    return names;
}

std::vector<std::string> cpu_features() {
    const std::pair<const char*, int> all[] = {
#if defined(__aarch64__) || defined(__arm__)
        {"neon", ncnn::cpu_support_arm_neon()},
        {"vfpv4", ncnn::cpu_support_arm_vfpv4()},
        {"asimdhp", ncnn::cpu_support_arm_asimdhp()},
        {"asimddp", ncnn::cpu_support_arm_asimddp()},
        {"asimdfhm", ncnn::cpu_support_arm_asimdfhm()},
        {"bf16", ncnn::cpu_support_arm_bf16()},
        {"i8mm", ncnn::cpu_support_arm_i8mm()},
        {"sve", ncnn::cpu_support_arm_sve()},
        {"sve2", ncnn::cpu_support_arm_sve2()},
        {"svebf16", ncnn::cpu_support_arm_svebf16()},
        {"svei8mm", ncnn::cpu_support_arm_svei8mm()},
        {"svef32mm", ncnn::cpu_support_arm_svef32mm()},
#else
        {"avx", ncnn::cpu_support_x86_avx()},
        {"fma", ncnn::cpu_support_x86_fma()},
        {"f16c", ncnn::cpu_support_x86_f16c()},
        {"avx2", ncnn::cpu_support_x86_avx2()},
        {"avx_vnni", ncnn::cpu_support_x86_avx_vnni()},
        {"avx512", ncnn::cpu_support_x86_avx512()},
        {"avx512_vnni", ncnn::cpu_support_x86_avx512_vnni()},
        {"avx512_bf16", ncnn::cpu_support_x86_avx512_bf16()},
        {"avx512_fp16", ncnn::cpu_support_x86_avx512_fp16()},
#endif
    };
    std::vector<std::string> names;
    for (const auto& [name, supported] : all)
        if (supported) names.emplace_back(name);
    return names;
}

}  // namespace

std::string abi() {
#if defined(__aarch64__)
    return "arm64-v8a";
#elif defined(__arm__)
    return "armeabi-v7a";
#elif defined(__x86_64__)
    return "x86_64";
#else
#error "an ABI that Android has not"
#endif
}

std::vector<std::string> own_layers() {
    std::vector<std::string> types;
    std::istringstream words(mobilekit_layer_types());
    for (std::string type; words >> type;) types.push_back(type);
    return types;
}

std::string info_json() {
    Json json;
    struct utsname system {};
    ::uname(&system);
    json.open_object()
        .field("harness_version", MOBILEKIT_HARNESS_VERSION)
        .field("protocol_version", static_cast<int>(kProtocolVersion))
        .field("pixels_version", kPixelsVersion)
        .field("ncnn_version", NCNN_VERSION_STRING)
        .field("abi", abi())
        .field("toolchain", MOBILEKIT_TOOLCHAIN)
#if NCNN_VULKAN
        .field("vulkan", true)
#else
        .field("vulkan", false)
#endif
        .field("kernel", std::string(system.release))
        .field("machine", std::string(system.machine));
    // What ncnn found on this CPU; which of these it has kernels for depends on the build.
    json.key("cpu_features").open_array();
    for (const std::string& name : cpu_features()) json.value(name);
    json.close_array().key("own_layers").open_array();
    for (const std::string& type : own_layers()) json.value(type);
    json.close_array()
        .field("cpus", ncnn::get_cpu_count())
        .field("big_cpus", ncnn::get_big_cpu_count())
        .field("little_cpus", ncnn::get_little_cpu_count());

    std::map<int64_t, int> clusters;  // highest frequency -> number of cores
    for (const std::string& cpu : entries("/sys/devices/system/cpu", "cpu")) {
        int64_t khz = 0;
        if (read_number("/sys/devices/system/cpu/" + cpu + "/cpufreq/cpuinfo_max_freq", khz)) clusters[khz]++;
    }
    json.key("clusters").open_array();
    for (const auto& [khz, cores] : clusters)
        json.open_object().field("cores", cores).field("max_khz", khz).close_object();
    json.close_array().key("state").whole(state_json());
    return json.close_object().text();
}

std::string state_json() {
    Json json;
    json.open_object().key("temperatures_celsius").open_object();
    std::set<std::string> seen;
    for (const std::string& zone : entries("/sys/class/thermal", "thermal_zone")) {
        std::string type;
        int64_t milli = 0;
        const std::string folder = "/sys/class/thermal/" + zone;
        if (!read_word(folder + "/type", type) || !read_number(folder + "/temp", milli)) continue;
        if (!seen.insert(type).second) type += "/" + zone;
        // The kernel says thousandths of a degree; some vendors' zones say whole degrees.
        json.field(type, milli > 1000 || milli < -1000 ? static_cast<double>(milli) / 1000 : static_cast<double>(milli));
    }
    json.close_object().key("frequencies_khz").open_object();
    for (const std::string& cpu : entries("/sys/devices/system/cpu", "cpu")) {
        int64_t khz = 0;
        if (read_number("/sys/devices/system/cpu/" + cpu + "/cpufreq/scaling_cur_freq", khz)) json.field(cpu, khz);
    }
    return json.close_object().close_object().text();
}

}  // namespace mobilekit
