// The entry points of each compiled variant of the engines; dispatch.cpp chooses among them.
#pragma once

#include "hqf/batch.hpp"
#include "hqf/plan.hpp"
#include "hqf/series.hpp"

namespace hqf {

// The batch must not be empty.
#define HQF_DECLARE_VARIANT(arch)                                                                                  \
  namespace arch {                                                                                                 \
  void forward(const Plan& plan, const Batch& batch, const View& weights, const ParallelFor& parallel_for);        \
  void forward(const Series& series, const Batch& batch, const View& parameters, const ParallelFor& parallel_for); \
  void backward(const Plan& plan, const Batch& batch, const View& weights, const View& grad_weights,               \
                const ParallelFor& parallel_for);                                                                  \
  void backward(const Series& series, const Batch& batch, const View& parameters, const View& grad_parameters,     \
                const ParallelFor& parallel_for);                                                                  \
  }

HQF_DECLARE_VARIANT(baseline)
HQF_DECLARE_VARIANT(avx2)
HQF_DECLARE_VARIANT(avx512)

#undef HQF_DECLARE_VARIANT

}  // namespace hqf
