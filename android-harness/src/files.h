// Whole files: read with a limit, written whole or not at all.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace mobilekit {

// Both throw Error(kFile).
std::vector<uint8_t> read_file(const std::string& path, uint64_t max_bytes);
void write_file(const std::string& path, const void* data, size_t size);

}  // namespace mobilekit
