// The public entry points: programs are parsed and planned once, shapes checked, and a variant chosen.
#include <memory>
#include <mutex>
#include <stdexcept>
#include <unordered_map>

#include "hqf/batch.hpp"
#include "hqf/capability.hpp"
#include "hqf/engine.hpp"
#include "hqf/plan.hpp"
#include "hqf/variants.hpp"

namespace hqf {
namespace {

constexpr size_t kCachedPlans = 256;

std::shared_ptr<const Plan> plan_of(const std::string& text) {
  static std::mutex mutex;
  static std::unordered_map<std::string, std::shared_ptr<const Plan>> plans;
  {
    const std::lock_guard lock(mutex);
    if (const auto found = plans.find(text); found != plans.end()) return found->second;
  }
  auto plan = std::make_shared<const Plan>(make_plan(parse_program(text)));
  const std::lock_guard lock(mutex);
  if (plans.size() >= kCachedPlans) plans.clear();
  return plans.emplace(text, std::move(plan)).first->second;
}

void check(const Plan& plan, const Batch& batch, const View& weights) {
  const auto& p = plan.program;
  if (static_cast<int64_t>(batch.places[kInputs].size()) != p.n_inputs ||
      static_cast<int64_t>(batch.places[kOutput].size()) != p.n_outputs() ||
      weights.sizes[weights.ndim - 1] != p.n_weights)
    throw std::invalid_argument("gate engine: inputs, weights or output do not have the program's sizes");
}

}  // namespace

int64_t n_outputs(const std::string& program) { return plan_of(program)->program.n_outputs(); }

void forward(const std::string& program, const View& inputs, int feature_dims, const View& weights, const View& output,
             const ParallelFor& parallel_for) {
  const auto plan = plan_of(program);
  const Batch batch(inputs, feature_dims, output, nullptr, weights);
  check(*plan, batch, weights);
  if (batch.n_groups * batch.n_samples == 0) return;
  switch (cpu_capability()) {
#ifdef HQF_HAVE_AVX512
    case Capability::avx512:
      return avx512::forward(*plan, batch, weights, parallel_for);
#endif
#ifdef HQF_HAVE_AVX2
    case Capability::avx2:
      return avx2::forward(*plan, batch, weights, parallel_for);
#endif
    default:
      return baseline::forward(*plan, batch, weights, parallel_for);
  }
}

void backward(const std::string& program, const View& grad, const View& inputs, int feature_dims, const View& weights,
              const View& grad_inputs, const View& grad_weights, const ParallelFor& parallel_for) {
  const auto plan = plan_of(program);
  const Batch batch(inputs, feature_dims, grad, &grad_inputs, weights);
  check(*plan, batch, weights);
  switch (cpu_capability()) {
#ifdef HQF_HAVE_AVX512
    case Capability::avx512:
      return avx512::backward(*plan, batch, weights, grad_weights, parallel_for);
#endif
#ifdef HQF_HAVE_AVX2
    case Capability::avx2:
      return avx2::backward(*plan, batch, weights, grad_weights, parallel_for);
#endif
    default:
      return baseline::backward(*plan, batch, weights, grad_weights, parallel_for);
  }
}

}  // namespace hqf
