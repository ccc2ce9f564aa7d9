#include "timed_layer.h"

#include <algorithm>
#include <ctime>

#include "proxy_layer.h"

namespace mobilekit {

uint64_t monotonic_ns() {
    struct timespec now {};
    ::clock_gettime(CLOCK_MONOTONIC, &now);
    return static_cast<uint64_t>(now.tv_sec) * 1000000000u + static_cast<uint64_t>(now.tv_nsec);
}

namespace {

class TimedLayer : public ProxyLayer {
public:
    TimedLayer(const ncnn::Layer& inner, LayerTime& time) : ProxyLayer(inner), time_(time) {}

    int forward(const std::vector<ncnn::Mat>& in, std::vector<ncnn::Mat>& out, const ncnn::Option& opt) const override {
        return measured([&] { return inner_.forward(in, out, opt); });
    }
    int forward(const ncnn::Mat& in, ncnn::Mat& out, const ncnn::Option& opt) const override {
        return measured([&] { return inner_.forward(in, out, opt); });
    }
    int forward_inplace(std::vector<ncnn::Mat>& blobs, const ncnn::Option& opt) const override {
        return measured([&] { return inner_.forward_inplace(blobs, opt); });
    }
    int forward_inplace(ncnn::Mat& blob, const ncnn::Option& opt) const override {
        return measured([&] { return inner_.forward_inplace(blob, opt); });
    }

private:
    template <typename Call>
    int measured(Call call) const {
        const uint64_t start = monotonic_ns();
        const int result = call();
        const uint64_t took = monotonic_ns() - start;
        time_.calls++;
        time_.total_ns += took;
        time_.min_ns = std::min(time_.min_ns, took);
        return result;
    }

    LayerTime& time_;
};

}  // namespace

LayerTimer::LayerTimer(ncnn::Net& net) : net_(net), originals_(net.layers()), times_(net.layers().size()) {
    for (size_t i = 0; i < originals_.size(); i++) {
        proxies_.push_back(std::make_unique<TimedLayer>(*originals_[i], times_[i]));
        net_.mutable_layers()[i] = proxies_.back().get();
    }
}

LayerTimer::~LayerTimer() {
    for (size_t i = 0; i < originals_.size(); i++) net_.mutable_layers()[i] = originals_[i];
}

void LayerTimer::reset() { std::fill(times_.begin(), times_.end(), LayerTime{}); }

}  // namespace mobilekit
