// One ncnn network: loaded once, run many times.
#pragma once

#include <net.h>

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "gpus.h"
#include "layer_rules.h"
#include "memory.h"
#include "param.h"
#include "timed_layer.h"
#include "wire.h"
#include "worker.h"

namespace mobilekit {

struct LoadReport {
    uint64_t param_ns = 0;
    uint64_t weights_ns = 0;  // reading the .bin and preparing the kernels
    size_t layers = 0;
    size_t depth = 0;
    size_t stack_bytes = 0;
    int threads = 0;
    bool cluster_applied = true;  // false: the system did not let us choose cores
    uint32_t flags = 0;
    Cluster cluster = Cluster::kAll;
    std::vector<std::string> inputs;
    std::vector<std::string> outputs;
    std::optional<GpuUse> gpu;
};

struct NamedLayerTime {
    std::string name;
    std::string type;
    LayerTime time;
};

struct InferReport {
    std::vector<uint64_t> latencies_ns;  // one for each iteration, warm-up not among them
    uint64_t warmup_ns = 0;
    uint64_t peak_blob_bytes = 0;
    uint64_t peak_workspace_bytes = 0;
    uint64_t peak_total_bytes = 0;  // of both together, at one time
    uint64_t session_ns = 0;            // since the model's first input arrived; 0 outside of a session
    uint64_t session_inference_ns = 0;  // of which ncnn computed
    std::vector<NamedLayerTime> layers;
    std::vector<Tensor> outputs;
};

class Model {
public:
    // Checks everything that is cheap to check and starts the inference thread; load() does the work on it.
    explicit Model(const LoadRequest& request);
    ~Model();
    Model(const Model&) = delete;
    Model& operator=(const Model&) = delete;

    Worker& worker() { return *worker_; }

    // Both run on worker(). Errors: kModel, kRequest, kInference, kMemory, kFile.
    void load();
    InferReport infer(const InferRequest& request);

    const LoadReport& report() const { return report_; }

private:
    struct Feed {
        int blob;
        ncnn::Mat mat;
    };
    int find_blob(const std::string& name) const;
    std::vector<Feed> feeds(const InferRequest& request);
    void check_reach(const std::vector<Feed>& feeds, const std::vector<int>& outputs) const;
    ncnn::Mat to_mat(const Tensor& tensor);
    uint64_t run_once(const std::vector<Feed>& feeds, const std::vector<int>& outputs, std::vector<ncnn::Mat>& results);
    std::string layer_of(int blob) const;

    LoadRequest request_;
    ParamInfo info_;
    LoadReport report_;
    Usage total_;
    CountingAllocator blob_allocator_{total_};
    CountingAllocator workspace_allocator_{total_};
    std::map<std::string, int> blob_index_;
    // The net goes before the allocators above, and both go on the thread that made them.
    std::unique_ptr<ncnn::Net> net_;
    std::unique_ptr<LayerGuard> guard_;
    std::unique_ptr<Worker> worker_;
};

std::string load_json(const LoadReport& report);
std::string infer_json(const InferRequest& request, const InferReport& report, const std::string& state);

}  // namespace mobilekit
