// The host side of hqfkernels._C: what was compiled, and what this CPU runs of it.

#include <pybind11/pybind11.h>
#include <torch/csrc/stable/version.h>

#include <string>

#include "hqf/capability.hpp"

namespace py = pybind11;

namespace {

py::dict build_info() {
  py::list variants;
  for (hqf::Capability capability : hqf::compiled_capabilities()) variants.append(hqf::name(capability));
  py::dict info;
  info["version"] = HQF_VERSION;
  info["torch"] = TORCH_VERSION;
  info["torch_target"] =
      std::to_string(TORCH_TARGET_VERSION >> 56) + "." + std::to_string(TORCH_TARGET_VERSION >> 48 & 0xff);
  info["compiler"] = HQF_COMPILER;
  info["cxx_standard"] = __cplusplus / 100 % 100;
  info["cpu_variants"] = variants;
  info["cuda"] = HQF_HAVE_CUDA;
  info["build_type"] = HQF_BUILD_TYPE;
  return info;
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "Compiled part of hqfkernels; importing it registers its operators with torch.";
  m.def("build_info", &build_info, "How this library was built.");
  m.def(
      "cpu_capability", [] { return hqf::name(hqf::cpu_capability()); },
      "The variant of the CPU kernels that runs here: 'baseline', 'avx2' or 'avx512'. The environment variable "
      "HQF_CPU_CAPABILITY chooses a lower one; ValueError if it names one that cannot run.");
}
