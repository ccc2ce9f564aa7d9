// What the machine is and how it is doing: CPU features, clusters, temperatures, frequencies.
#pragma once

#include <string>
#include <vector>

namespace mobilekit {

std::string abi();
std::vector<std::string> own_layers();  // the types of layers/ that this build has
std::string info_json();

// {"temperatures_celsius": {zone: value}, "frequencies_khz": {"cpu0": value}}, with what /sys lets us see.
std::string state_json();

}  // namespace mobilekit
