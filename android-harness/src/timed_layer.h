// Times around each layer's own computation.
#pragma once

#include <layer.h>
#include <net.h>

#include <cstdint>
#include <memory>
#include <vector>

namespace mobilekit {

struct LayerTime {
    uint64_t calls = 0;
    uint64_t total_ns = 0;
    uint64_t min_ns = UINT64_MAX;
};

// While it lives, every layer of the net is wrapped in a proxy that measures forward(); what ncnn does between layers
// (precision casts, packing, recursion) is outside. Layers inside a composite layer count as that layer.
class LayerTimer {
public:
    explicit LayerTimer(ncnn::Net& net);
    ~LayerTimer();
    LayerTimer(const LayerTimer&) = delete;
    LayerTimer& operator=(const LayerTimer&) = delete;
    void reset();
    const std::vector<LayerTime>& times() const { return times_; }  // in the order of net.layers()

private:
    ncnn::Net& net_;
    std::vector<ncnn::Layer*> originals_;
    std::vector<std::unique_ptr<ncnn::Layer>> proxies_;
    std::vector<LayerTime> times_;
};

uint64_t monotonic_ns();

}  // namespace mobilekit
