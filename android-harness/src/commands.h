// The program's two ways in.
#pragma once

#include <string>
#include <vector>

#include "wire.h"

namespace mobilekit {

struct RunOptions {
    LoadRequest load;
    std::vector<std::pair<std::string, std::string>> inputs;  // blob, .npy file
    std::vector<std::string> outputs;
    std::string out;
    uint32_t warmup = 0;
    uint32_t iterations = 1;
    bool layer_times = false;
};

struct ServeOptions {
    std::string socket;
    std::string token_file;  // read, then removed; else the environment variable
    uint32_t idle_timeout_s = 60;
    uint64_t max_frame = kDefaultMaxFrame;
};

// Files in, files and DIR/result.json out. Throws Error.
void run_once(const RunOptions& options);

// Serves one client on an abstract socket; returns the exit code.
int serve(const ServeOptions& options);

}  // namespace mobilekit
