// What stock layers take for granted and do not check: how many blobs they read and make, and the size of their inputs.
#pragma once

#include <layer.h>
#include <net.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

namespace mobilekit {

using LayerParams = std::map<int, std::string>;  // id -> value as written; an array's id from 0, and without its count

// After load_param(): throws Error(kModel) naming the layer whose numbers of inputs and outputs, or whose parameters,
// would make ncnn read what is not there. `params` holds those of each layer, in order.
void check_layers(const ncnn::Net& net, const std::vector<LayerParams>& params);

// Whether any layer has what int8 weights need: scales, which ncnn does not miss until it reads them.
bool has_scales(const std::vector<LayerParams>& params);

// While it lives, a Reshape, an InnerProduct or a convolution fails where its input has not the size that its
// parameters say: ncnn reads past its end, or past the end of the weights. `params` has to outlive it.
class LayerGuard {
public:
    LayerGuard(ncnn::Net& net, const std::vector<LayerParams>& params);
    ~LayerGuard();
    LayerGuard(const LayerGuard&) = delete;
    LayerGuard& operator=(const LayerGuard&) = delete;

private:
    ncnn::Net& net_;
    std::vector<ncnn::Layer*> originals_;
    std::vector<std::unique_ptr<ncnn::Layer>> proxies_;
};

}  // namespace mobilekit
