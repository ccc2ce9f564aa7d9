// The one error type of the harness: a code that crosses the wire, and a sentence.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

namespace mobilekit {

// Values are part of the protocol (PROTOCOL.md); kExit* below are those of the one-shot command.
enum class ErrorCode : uint32_t {
    kFrame = 1,      // bytes that are no valid frame or body
    kToken = 2,      // wrong token, or a request before HELLO
    kVersion = 3,    // another protocol version
    kRequest = 4,    // a request that does not fit: unknown blob, wrong shape, bad option
    kModel = 5,      // .param or .bin cannot be loaded
    kInference = 6,  // a layer failed
    kMemory = 7,     // allocation failed
    kNoModel = 8,    // INFER before LOAD
    kFile = 9,       // a file cannot be read or written
    kGpu = 10,       // no Vulkan in this build or on this machine
};

class Error : public std::runtime_error {
public:
    Error(ErrorCode code, const std::string& message) : std::runtime_error(message), code_(code) {}
    ErrorCode code() const { return code_; }

private:
    ErrorCode code_;
};

}  // namespace mobilekit
