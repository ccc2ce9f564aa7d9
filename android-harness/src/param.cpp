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

constexpr size_t kMaxWord = 255;  // net.cpp and paramdict.cpp read words into char[256]

std::string next_word(std::istringstream& words, const std::string& where) {
    std::string word;
    if (!(words >> word)) bad(where + " is cut short");
    if (word.size() > kMaxWord) bad(where + " has a name of " + std::to_string(word.size()) + " characters; ncnn reads " + std::to_string(kMaxWord));
    return word;
}

// An array is written with an id from -23300 down, its count before it.
LayerParams read_params(std::istringstream& words) {
    LayerParams params;
    for (std::string word; words >> word;) {
        const size_t equals = word.find('=');
        if (equals == std::string::npos) continue;
        const int id = std::atoi(word.c_str());
        const std::string value = word.substr(equals + 1);
        if (id > -23300) {
            params[id] = value;
        } else {
            const size_t comma = value.find(',');
            params[-(id + 23300)] = comma == std::string::npos ? "" : value.substr(comma + 1);
        }
    }
    return params;
}

// Input's ids, from layer/input.cpp: 0=w 1=h 11=d 2=c; an axis of 0 is open.
std::vector<int> input_shape(const LayerParams& params) {
    std::vector<int> shape;
    for (const int id : {2, 11, 1, 0}) {
        const auto found = params.find(id);
        const int size = found == params.end() ? 0 : std::atoi(found->second.c_str());
        if (size > 0) shape.push_back(size);
    }
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
        if ((words >> std::ws).eof()) continue;
        const std::string place = path + ", layer " + std::to_string(info.layers);
        const std::string type = next_word(words, place);
        const std::string name = next_word(words, place);
        const std::string where = place + " (" + name + ")";
        size_t bottoms = 0, tops = 0;
        if (!(words >> bottoms >> tops)) bad(where + " is cut short");
        if (known_types.count(type) == 0) {
            if (own.count(type) == 0) check_stock_layer(type, where);
            known_types.insert(type);
        }
        size_t depth = 0;
        std::string blob;
        for (size_t i = 0; i < bottoms; i++) {
            blob = next_word(words, where);
            const auto producer = depth_of.find(blob);
            if (producer == depth_of.end()) bad(where + " reads blob '" + blob + "', which nothing before it makes or another layer already read");
            depth = std::max(depth, producer->second);
            depth_of.erase(producer);
        }
        for (size_t i = 0; i < tops; i++) {
            blob = next_word(words, where);
            depth_of[blob] = depth + 1;
        }
        info.params.push_back(read_params(words));
        if (type == "Input" && tops == 1) {
            std::vector<int> shape = input_shape(info.params.back());
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
