// What the machine is and how it is doing: CPU features, clusters, temperatures, frequencies.
#pragma once

#include <string>

#include "json.h"

namespace mobilekit {

std::string abi();
std::string info_json();

// {"temperatures_celsius": {zone: value}, "frequencies_khz": {"cpu0": value}}, with what /sys lets us see.
void write_state(Json& json);

}  // namespace mobilekit
