// The JSON forms of what model.h and device_info.h measure; field names carry their units.
#include "json.h"
#include "model.h"

namespace mobilekit {

namespace {

const char* cluster_name(Cluster cluster) {
    return cluster == Cluster::kLittle ? "little" : cluster == Cluster::kBig ? "big" : "all";
}

void names(Json& json, const char* key, const std::vector<std::string>& values) {
    json.key(key).open_array();
    for (const std::string& value : values) json.value(value);
    json.close_array();
}

}  // namespace

std::string load_json(const LoadReport& report) {
    Json json;
    json.open_object()
        .field("param_ns", report.param_ns)
        .field("weights_ns", report.weights_ns)
        .field("layers", static_cast<uint64_t>(report.layers))
        .field("depth", static_cast<uint64_t>(report.depth))
        .field("stack_bytes", static_cast<uint64_t>(report.stack_bytes))
        .field("threads", report.threads)
        .field("cluster", cluster_name(report.cluster))
        .field("cluster_applied", report.cluster_applied)
        .field("flags", report.flags);
    names(json, "inputs", report.inputs);
    names(json, "outputs", report.outputs);
    if (report.gpu) write_gpu_use(json.key("gpu"), *report.gpu);
    return json.close_object().text();
}

std::string infer_json(const InferRequest& request, const InferReport& report, const std::string& state) {
    Json json;
    json.open_object().field("warmup", request.warmup).field("warmup_ns", report.warmup_ns);
    json.key("latencies_ns").open_array();
    for (uint64_t latency : report.latencies_ns) json.value(latency);
    json.close_array()
        .field("peak_blob_bytes", report.peak_blob_bytes)
        .field("peak_workspace_bytes", report.peak_workspace_bytes)
        .field("peak_total_bytes", report.peak_total_bytes)
        .field("session_ns", report.session_ns)
        .field("session_inference_ns", report.session_inference_ns);
    json.key("layers").open_array();
    for (const NamedLayerTime& layer : report.layers)
        json.open_object()
            .field("name", layer.name)
            .field("type", layer.type)
            .field("calls", layer.time.calls)
            .field("total_ns", layer.time.total_ns)
            .field("min_ns", layer.time.min_ns)
            .close_object();
    json.close_array();
    json.key("state").whole(state);
    return json.close_object().text();
}

}  // namespace mobilekit
