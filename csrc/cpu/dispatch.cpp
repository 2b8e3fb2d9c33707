// The public entry points: texts are read and planned once, shapes checked, and a variant chosen.
#include <cstring>
#include <stdexcept>

#include "hqf/batch.hpp"
#include "hqf/capability.hpp"
#include "hqf/engine.hpp"
#include "hqf/recipes.hpp"
#include "hqf/unitary.hpp"
#include "hqf/variants.hpp"

#ifdef HQF_HAVE_AVX512
#define HQF_IF_AVX512(...) __VA_ARGS__
#else
#define HQF_IF_AVX512(...)
#endif
#ifdef HQF_HAVE_AVX2
#define HQF_IF_AVX2(...) __VA_ARGS__
#else
#define HQF_IF_AVX2(...)
#endif

namespace hqf {
namespace {

Plan read_plan(const std::string& text) { return make_plan(parse_program(text)); }

struct Sizes {
  int64_t inputs, outputs, parameters;
};

Sizes sizes(const Plan& plan) { return {plan.program.n_inputs, plan.program.n_outputs(), plan.program.n_weights}; }

Sizes sizes(const Series& series) { return {series.n_inputs, series.n_outputs, series.n_parameters}; }

template <class Recipe>
void check(const Recipe& recipe, const Batch& batch, const View& parameters) {
  const Sizes expected = sizes(recipe);
  if (static_cast<int64_t>(batch.places[kInputs].size()) != expected.inputs ||
      static_cast<int64_t>(batch.places[kOutput].size()) != expected.outputs ||
      parameters.sizes[parameters.ndim - 1] != expected.parameters)
    throw std::invalid_argument("engine: inputs, parameters or output do not have the sizes that the text tells");
}

// Returns what a function of the variant for this CPU returns.
#define HQF_ON_VARIANT(call)                                      \
  switch (cpu_capability()) {                                     \
    HQF_IF_AVX512(case Capability::avx512 : return avx512::call;) \
    HQF_IF_AVX2(case Capability::avx2 : return avx2::call;)       \
    default:                                                      \
      return baseline::call;                                      \
  }

template <class Recipe>
void run_forward(const Recipe& recipe, const View& inputs, int feature_dims, const View& parameters, const View& output,
                 const ParallelFor& parallel_for) {
  const Batch batch(inputs, feature_dims, output, nullptr, parameters);
  check(recipe, batch, parameters);
  if (batch.n_groups * batch.n_samples == 0) return;
  HQF_ON_VARIANT(forward(recipe, batch, parameters, parallel_for))
}

template <class Recipe>
void run_backward(const Recipe& recipe, const View& grad, const View& inputs, int feature_dims, const View& parameters,
                  const View& grad_inputs, const View& grad_parameters, const ParallelFor& parallel_for) {
  const Batch batch(inputs, feature_dims, grad, &grad_inputs, parameters);
  check(recipe, batch, parameters);
  if (batch.n_groups * batch.n_samples == 0) {
    int64_t bytes = grad_parameters.dtype == DType::f64 ? 8 : grad_parameters.dtype == DType::f32 ? 4 : 2;
    for (int d = 0; d < grad_parameters.ndim; ++d) bytes *= grad_parameters.sizes[d];
    if (bytes) std::memset(grad_parameters.data, 0, static_cast<size_t>(bytes));
    return;
  }
  HQF_ON_VARIANT(backward(recipe, batch, parameters, grad_parameters, parallel_for))
}

}  // namespace

#define HQF_DEFINE_ENGINE(engine, read)                                                                     \
  namespace engine {                                                                                        \
  int64_t n_outputs(const std::string& text) { return sizes(*cached(text, read)).outputs; }                 \
  void forward(const std::string& text, const View& inputs, int feature_dims, const View& parameters,       \
               const View& output, const ParallelFor& parallel_for) {                                       \
    run_forward(*cached(text, read), inputs, feature_dims, parameters, output, parallel_for);               \
  }                                                                                                         \
  void backward(const std::string& text, const View& grad, const View& inputs, int feature_dims,            \
                const View& parameters, const View& grad_inputs, const View& grad_parameters,               \
                const ParallelFor& parallel_for) {                                                          \
    run_backward(*cached(text, read), grad, inputs, feature_dims, parameters, grad_inputs, grad_parameters, \
                 parallel_for);                                                                             \
  }                                                                                                         \
  }

HQF_DEFINE_ENGINE(gate, read_plan)
HQF_DEFINE_ENGINE(fourier, parse_series)

#define HQF_DEFINE_PRODUCTS(T)                                                                                     \
  void born_forward(const Born& born, const T* psi, const T* matrix, T* output, const ParallelFor& parallel_for) { \
    HQF_ON_VARIANT(born_forward(born, psi, matrix, output, parallel_for))                                          \
  }                                                                                                                \
  void born_backward(const Born& born, const T* grad, const T* psi, const T* matrix, T* grad_psi, T* grad_matrix,  \
                     const ParallelFor& parallel_for) {                                                            \
    HQF_ON_VARIANT(born_backward(born, grad, psi, matrix, grad_psi, grad_matrix, parallel_for))                    \
  }                                                                                                                \
  void product(int64_t rows, int64_t depth, int64_t columns, const T* left, const T* right, T* result,             \
               const ParallelFor& parallel_for) {                                                                  \
    HQF_ON_VARIANT(product(rows, depth, columns, left, right, result, parallel_for))                               \
  }

HQF_DEFINE_PRODUCTS(float)
HQF_DEFINE_PRODUCTS(double)

}  // namespace hqf
