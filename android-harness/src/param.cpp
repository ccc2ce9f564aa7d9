#include "param.h"

#include <layer.h>

#include <algorithm>
#include <memory>
#include <set>
#include <sstream>
#include <unordered_map>

#include "device_info.h"
#include "error.h"
#include "files.h"

namespace mobilekit {

namespace {

constexpr uint64_t kMaxParamBytes = uint64_t{256} << 20;
constexpr int kParamMagic = 7767517;  // net.cpp, load_param

[[noreturn]] void bad(const std::string& what) { throw Error(ErrorCode::kModel, what); }

// Input's ids, from layer/input.cpp: 0=w 1=h 11=d 2=c; an axis of 0 is open.
std::vector<int> input_shape(std::istringstream& words) {
    int w = 0, h = 0, d = 0, c = 0;
    for (std::string word; words >> word;) {
        const size_t equals = word.find('=');
        if (equals == std::string::npos) continue;
        const std::string id = word.substr(0, equals);
        const int value = std::atoi(word.c_str() + equals + 1);
        if (id == "0") w = value;
        if (id == "1") h = value;
        if (id == "2") c = value;
        if (id == "11") d = value;
    }
    std::vector<int> shape;
    if (c > 0) shape.push_back(c);
    if (d > 0) shape.push_back(d);
    if (h > 0) shape.push_back(h);
    if (w > 0) shape.push_back(w);
    return shape;
}

void check_stock_layer(const std::string& type, const std::string& where) {
    const std::unique_ptr<ncnn::Layer> probe(ncnn::create_layer_cpu(type.c_str()));
    if (probe) return;
    const std::string what = where + ": this harness (" MOBILEKIT_HARNESS_VERSION ") has no layer type '" + type + "'";
    if (type.rfind("Mk", 0) != 0) bad(what);
    bad(what + ". That is one of mobilekit's own layers: the harness is of another version than the mobilekit that exported "
        "the model. Build it again: mobilekit harness build");
}

}  // namespace

ParamInfo read_param(const std::string& path) {
    const std::vector<uint8_t> bytes = read_file(path, kMaxParamBytes);
    std::istringstream lines(std::string(bytes.begin(), bytes.end()));
    std::string line;
    int magic = 0;
    if (!std::getline(lines, line) || !(std::istringstream(line) >> magic) || magic != kParamMagic)
        bad(path + " is no ncnn .param file");
    size_t layer_count = 0;
    size_t blob_count = 0;
    if (!std::getline(lines, line) || !(std::istringstream(line) >> layer_count >> blob_count) || layer_count == 0)
        bad(path + ": no layer and blob counts in line 2");

    ParamInfo info;
    std::set<std::string> known_types;
    const std::vector<std::string> own_types = own_layers();
    const std::set<std::string> own(own_types.begin(), own_types.end());
    std::unordered_map<std::string, size_t> depth_of;  // blob -> layers up to the one that makes it
    while (std::getline(lines, line)) {
        std::istringstream words(line);
        std::string type, name;
        size_t bottoms = 0, tops = 0;
        if (!(words >> type)) continue;
        const std::string where = path + ", layer " + std::to_string(info.layers) + " ";
        if (!(words >> name >> bottoms >> tops)) bad(where + "is cut short");
        if (known_types.count(type) == 0) {
            if (own.count(type) == 0) check_stock_layer(type, where + "(" + name + ")");
            known_types.insert(type);
        }
        size_t depth = 0;
        std::string blob;
        for (size_t i = 0; i < bottoms; i++) {
            if (!(words >> blob)) bad(where + "(" + name + ") is cut short");
            const auto producer = depth_of.find(blob);
            if (producer == depth_of.end()) bad(where + "(" + name + ") reads blob '" + blob + "', which nothing before it makes or another layer already read");
            depth = std::max(depth, producer->second);
            depth_of.erase(producer);
        }
        for (size_t i = 0; i < tops; i++) {
            if (!(words >> blob)) bad(where + "(" + name + ") is cut short");
            depth_of[blob] = depth + 1;
        }
        if (type == "Input" && tops == 1) {
            std::vector<int> shape = input_shape(words);
            if (!shape.empty()) info.input_shapes[blob] = shape;
        }
        info.depth = std::max(info.depth, depth + 1);
        info.layers++;
    }
    if (info.layers != layer_count)
        bad(path + " has " + std::to_string(info.layers) + " layers, its header says " + std::to_string(layer_count));
    return info;
}

}  // namespace mobilekit
