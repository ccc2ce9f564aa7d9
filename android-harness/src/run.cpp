#include <sys/stat.h>

#include <cerrno>
#include <cstring>

#include "commands.h"
#include "device_info.h"
#include "files.h"
#include "json.h"
#include "model.h"
#include "npy.h"

namespace mobilekit {

void run_once(const RunOptions& options) {
    if (::mkdir(options.out.c_str(), 0755) != 0 && errno != EEXIST)
        throw Error(ErrorCode::kFile, "cannot make " + options.out + ": " + std::strerror(errno));
    InferRequest request;
    request.warmup = options.warmup;
    request.iterations = options.iterations;
    request.flags = options.layer_times ? uint32_t{kLayerTimes} : 0u;
    request.outputs = options.outputs;
    for (const auto& [name, path] : options.inputs) {
        Tensor tensor = parse_npy(read_file(path, kDefaultMaxFrame), path);
        tensor.name = name;
        request.inputs.push_back(std::move(tensor));
    }

    Model model(options.load);
    InferReport report;
    model.worker().run([&] {
        model.load();
        report = model.infer(request);
    });

    // Blob names may hold slashes, so files are numbered and the JSON says which is which.
    Json outputs;
    outputs.open_object();
    for (size_t i = 0; i < report.outputs.size(); i++) {
        const std::string file = "output-" + std::to_string(i) + ".npy";
        const std::vector<uint8_t> bytes = format_npy(report.outputs[i]);
        write_file(options.out + "/" + file, bytes.data(), bytes.size());
        outputs.field(report.outputs[i].name, file);
    }
    outputs.close_object();
    const std::string text = "{\"schema_version\":1,\"info\":" + info_json() + ",\"load\":" + load_json(model.report()) +
                             ",\"infer\":" + infer_json(request, report, state_json()) + ",\"outputs\":" + outputs.text() + "}\n";
    write_file(options.out + "/result.json", text.data(), text.size());
}

}  // namespace mobilekit
