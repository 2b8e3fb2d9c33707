#include "hqf/capability.hpp"

#include <cstdlib>
#include <stdexcept>

namespace hqf {

namespace {

bool supported(Capability capability) {
#if defined(HQF_HAVE_AVX2) || defined(HQF_HAVE_AVX512)
  // The builtin also asks whether the operating system saves the wide registers. FMA, BMI2 and F16C came to every CPU
  // no later than AVX2; F16C has no name that all compilers accept here.
  bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
  bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw");
  if (capability == Capability::avx512) return avx512;
  if (capability == Capability::avx2) return avx2;
#endif
  return capability == Capability::baseline;
}

Capability choose() {
  std::string runnable;
  Capability best = Capability::baseline;
  const char* wanted = std::getenv("HQF_CPU_CAPABILITY");
  for (Capability capability : compiled_capabilities()) {
    if (!supported(capability)) continue;
    if (wanted && name(capability) == wanted) return capability;
    runnable += (runnable.empty() ? "" : ", ") + name(capability);
    best = capability;
  }
  if (wanted && *wanted)
    throw std::invalid_argument("HQF_CPU_CAPABILITY is '" + std::string(wanted) +
                                "', but this build on this CPU can run only: " + runnable);
  return best;
}

}  // namespace

std::string name(Capability capability) {
  switch (capability) {
    case Capability::avx512:
      return "avx512";
    case Capability::avx2:
      return "avx2";
    case Capability::baseline:
      break;
  }
  return "baseline";
}

std::vector<Capability> compiled_capabilities() {
  return {
      Capability::baseline,
#ifdef HQF_HAVE_AVX2
      Capability::avx2,
#endif
#ifdef HQF_HAVE_AVX512
      Capability::avx512,
#endif
  };
}

Capability cpu_capability() {
  static const Capability chosen = choose();
  return chosen;
}

}  // namespace hqf
