// What one core's multiply-add units reach: independent chains of fused multiply-adds on vectors that stay in
// registers. Compiled by bench.roofline with the system's compiler for the CPU it runs on.
#include <cstdint>

namespace {

#if defined(__AVX512F__)
constexpr int kBytes = 64;
#elif defined(__AVX__)
constexpr int kBytes = 32;
#else
constexpr int kBytes = 16;
#endif

typedef float Vector __attribute__((vector_size(kBytes)));

constexpr int kChains = 12;  // more than latency times units, and few enough for 16 registers
constexpr int kSteps = 64;

}  // namespace

// Runs multiply-adds of single numbers, repeats times as many as it returns.
extern "C" int64_t hqf_multiply_adds(int64_t repeats, float factor, float addend) {
  Vector chain[kChains], x = Vector{} + factor, y = Vector{} + addend;
  for (int k = 0; k < kChains; ++k) chain[k] = Vector{} + static_cast<float>(k);
  for (int64_t r = 0; r < repeats; ++r)
    for (int step = 0; step < kSteps; ++step)
#pragma GCC unroll 12
      for (int k = 0; k < kChains; ++k) chain[k] = chain[k] * x + y;
  Vector sum = {};
  for (int k = 0; k < kChains; ++k) sum += chain[k];
  volatile float result = sum[0];  // so that the chains are not left out
  (void)result;
  return int64_t{kChains} * kSteps * (kBytes / static_cast<int>(sizeof(float)));
}
