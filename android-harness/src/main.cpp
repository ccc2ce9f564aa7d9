// mobilekit-harness: runs an ncnn model on this device. No signal handler: whoever starts us sees how we end.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <new>
#include <string>

#include "commands.h"
#include "device_info.h"
#include "gpus.h"
#include "leave.h"

namespace {

using mobilekit::Error;
using mobilekit::ErrorCode;

constexpr const char* kUsage = R"(usage:
  mobilekit-harness info | gpus
  mobilekit-harness run --param FILE --bin FILE --out DIR [--input BLOB=FILE.npy]... [--output BLOB]... [options]
  mobilekit-harness serve --socket NAME [--token-file FILE] [--idle-timeout-s N] [--max-frame-bytes N]

run writes DIR/output-N.npy and DIR/result.json. Options:
  --threads N            default: as ncnn chooses
  --cluster all|little|big
  --fp16                 half-precision storage and arithmetic where the CPU has them (default: fp32)
  --fp16-storage         half-precision storage only
  --bf16                 bfloat16 storage
  --no-int8 --no-winograd --no-sgemm --no-packing
  --vulkan               on the GPU; what it cannot compute stays on the CPU
  --any-input-shape      do not hold inputs against the shapes in the .param
  --warmup N             default 0
  --iterations N         default 1
  --layer-times

serve takes its token from FILE, which it removes, or from MOBILEKIT_HARNESS_TOKEN.
exit codes: 0 done, 2 usage, 3 model, 4 input or inference, 5 file, 6 memory
)";

int exit_code(ErrorCode code) {
    switch (code) {
        case ErrorCode::kModel: return 3;
        case ErrorCode::kFile: return 5;
        case ErrorCode::kMemory: return 6;
        default: return 4;
    }
}

struct UsageError {
    std::string what;
};

// Options in the order given; every one must be known.
class Arguments {
public:
    Arguments(int count, char** values) : at_(values), end_(values + count) {}
    bool more() const { return at_ != end_; }
    std::string next() { return *at_++; }
    std::string value(const std::string& option) {
        if (!more()) throw UsageError{option + " needs a value"};
        return next();
    }
    uint64_t number(const std::string& option, uint64_t highest) {
        const std::string text = value(option);
        char* end = nullptr;
        const unsigned long long parsed = std::strtoull(text.c_str(), &end, 10);
        if (text.empty() || text[0] < '0' || text[0] > '9' || *end != '\0' || parsed > highest)
            throw UsageError{option + ": " + text + " is no number up to " + std::to_string(highest)};
        return parsed;
    }

private:
    char** at_;
    char** end_;
};

int run(Arguments arguments) {
    mobilekit::RunOptions options;
    const std::map<std::string, uint32_t> on = {
        {"--fp16", mobilekit::kFp16Packed | mobilekit::kFp16Storage | mobilekit::kFp16Arithmetic},
        {"--fp16-storage", mobilekit::kFp16Packed | mobilekit::kFp16Storage},
        {"--bf16", mobilekit::kBf16Storage | mobilekit::kBf16Packed},
        {"--vulkan", mobilekit::kVulkan},
        {"--any-input-shape", mobilekit::kAnyInputShape},
    };
    const std::map<std::string, uint32_t> off = {
        {"--no-int8", mobilekit::kInt8Inference},
        {"--no-winograd", mobilekit::kWinograd},
        {"--no-sgemm", mobilekit::kSgemm},
        {"--no-packing", mobilekit::kPacking},
    };
    while (arguments.more()) {
        const std::string option = arguments.next();
        if (on.count(option)) {
            options.load.flags |= on.at(option);
        } else if (off.count(option)) {
            options.load.flags &= ~off.at(option);
        } else if (option == "--param") {
            options.load.param = arguments.value(option);
        } else if (option == "--bin") {
            options.load.bin = arguments.value(option);
        } else if (option == "--out") {
            options.out = arguments.value(option);
        } else if (option == "--input") {
            const std::string text = arguments.value(option);
            const size_t equals = text.find('=');
            if (equals == std::string::npos || equals == 0) throw UsageError{"--input " + text + ": write BLOB=FILE.npy"};
            options.inputs.emplace_back(text.substr(0, equals), text.substr(equals + 1));
        } else if (option == "--output") {
            options.outputs.push_back(arguments.value(option));
        } else if (option == "--threads") {
            options.load.threads = static_cast<uint32_t>(arguments.number(option, 256));
        } else if (option == "--cluster") {
            const std::string name = arguments.value(option);
            if (name != "all" && name != "little" && name != "big") throw UsageError{"--cluster all, little or big"};
            options.load.cluster = name == "all"      ? mobilekit::Cluster::kAll
                                   : name == "little" ? mobilekit::Cluster::kLittle
                                                      : mobilekit::Cluster::kBig;
        } else if (option == "--warmup") {
            options.warmup = static_cast<uint32_t>(arguments.number(option, mobilekit::kMaxIterations));
        } else if (option == "--iterations") {
            options.iterations = static_cast<uint32_t>(arguments.number(option, mobilekit::kMaxIterations));
            if (options.iterations == 0) throw UsageError{"--iterations is at least 1"};
        } else if (option == "--layer-times") {
            options.layer_times = true;
        } else {
            throw UsageError{"unknown option " + option};
        }
    }
    if (options.load.param.empty() || options.load.bin.empty() || options.out.empty())
        throw UsageError{"run needs --param, --bin and --out"};
    mobilekit::run_once(options);
    return 0;
}

int serve(Arguments arguments) {
    mobilekit::ServeOptions options;
    while (arguments.more()) {
        const std::string option = arguments.next();
        if (option == "--socket")
            options.socket = arguments.value(option);
        else if (option == "--token-file")
            options.token_file = arguments.value(option);
        else if (option == "--idle-timeout-s")
            options.idle_timeout_s = static_cast<uint32_t>(arguments.number(option, 86400));
        else if (option == "--max-frame-bytes")
            options.max_frame = arguments.number(option, uint64_t{1} << 40);
        else
            throw UsageError{"unknown option " + option};
    }
    if (options.socket.empty()) throw UsageError{"serve needs --socket"};
    return mobilekit::serve(options);
}

int command(int argc, char** argv) {
    const std::string name = argc > 1 ? argv[1] : "";
    const Arguments rest(argc > 2 ? argc - 2 : 0, argv + 2);
    if (name == "run") return run(rest);
    if (name == "serve") return serve(rest);
    if (name == "info" && argc == 2) {
        std::printf("%s\n", mobilekit::info_json().c_str());
        return 0;
    }
    if (name == "gpus" && argc == 2) {
        std::printf("%s\n", mobilekit::gpus_json().c_str());
        return 0;
    }
    if (name == "--help" || name == "help") {
        std::fputs(kUsage, stdout);
        return 0;
    }
    throw UsageError{name.empty() ? "no command" : "unknown command " + name};
}

}  // namespace

int main(int argc, char** argv) {
    int code = 0;
    try {
        code = command(argc, argv);
    } catch (const UsageError& error) {
        std::fprintf(stderr, "mobilekit-harness: %s\n%s", error.what.c_str(), kUsage);
        code = 2;
    } catch (const Error& error) {
        std::fprintf(stderr, "mobilekit-harness: %s\n", error.what());
        code = exit_code(error.code());
    } catch (const std::bad_alloc&) {
        std::fprintf(stderr, "mobilekit-harness: out of memory\n");
        code = exit_code(ErrorCode::kMemory);
    }
    mobilekit::leave(code);
}
