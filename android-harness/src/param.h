// What the harness must know of a .param before ncnn reads it.
#pragma once

#include <cstddef>
#include <map>
#include <string>
#include <vector>

#include "layer_rules.h"

namespace mobilekit {

struct ParamInfo {
    size_t layers = 0;
    size_t depth = 0;                                      // layers on the longest path
    std::map<std::string, std::vector<int>> input_shapes;  // blob -> axes, outermost first; only where written
    std::vector<LayerParams> params;                       // of each layer, in order
};

// Checks the header, that no name is longer than ncnn reads, that every layer type is known to this build, and that blobs are produced before they are read
// and read once. Throws Error(kModel) saying which layer, Error(kFile).
ParamInfo read_param(const std::string& path);

}  // namespace mobilekit
