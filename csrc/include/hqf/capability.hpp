// Which variant of the CPU kernels runs on this machine.
#pragma once

#include <string>
#include <vector>

namespace hqf {

enum class Capability { baseline, avx2, avx512 };  // ascending: a CPU that runs one runs those before it

std::string name(Capability capability);

// The variants in this library, in ascending order.
std::vector<Capability> compiled_capabilities();

// The best variant that is compiled in and that this CPU runs, or the one that HQF_CPU_CAPABILITY names.
// Determined once. Throws std::invalid_argument if HQF_CPU_CAPABILITY names a variant that cannot run here.
Capability cpu_capability();

}  // namespace hqf
