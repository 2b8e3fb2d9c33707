// What the unitary engine asks of compiled code, free of torch: products of matrices, and probabilities behind one.
#pragma once

#include <cstdint>
#include <vector>

#include "hqf/engine.hpp"

namespace hqf {

// Measurements of the states psi * matrix, where psi has real entries: (groups, samples, amplitudes), and matrix
// complex ones: (groups, amplitudes, states, 2). All tensors are contiguous, float or double.
struct Born {
  int64_t groups, samples, amplitudes, states;
  std::vector<int64_t> strings;  // masks of the bits with a Z; none: the probability of each state is measured

  int64_t outputs() const { return strings.empty() ? states : static_cast<int64_t>(strings.size()); }
};

// The entry points choose a variant for this CPU; arguments are taken as checked. Sums are made in an order that
// depends on the sizes alone.
#define HQF_DECLARE_PRODUCTS(T)                                                                                   \
  /* output (groups, samples, outputs): the measurements divided by |psi|^2. */                                   \
  void born_forward(const Born& born, const T* psi, const T* matrix, T* output, const ParallelFor& parallel_for); \
  /* The gradients of sum(grad * output). */                                                                      \
  void born_backward(const Born& born, const T* grad, const T* psi, const T* matrix, T* grad_psi, T* grad_matrix, \
                     const ParallelFor& parallel_for);                                                            \
  /* left (rows, depth) times right (depth, columns), contiguous. */                                              \
  void product(int64_t rows, int64_t depth, int64_t columns, const T* left, const T* right, T* result,            \
               const ParallelFor& parallel_for);

#define HQF_DECLARE_PRODUCT_VARIANTS(arch) \
  namespace arch {                         \
  HQF_DECLARE_PRODUCTS(float)              \
  HQF_DECLARE_PRODUCTS(double)             \
  }

HQF_DECLARE_PRODUCTS(float)
HQF_DECLARE_PRODUCTS(double)
HQF_DECLARE_PRODUCT_VARIANTS(baseline)
HQF_DECLARE_PRODUCT_VARIANTS(avx2)
HQF_DECLARE_PRODUCT_VARIANTS(avx512)

#undef HQF_DECLARE_PRODUCT_VARIANTS
#undef HQF_DECLARE_PRODUCTS

}  // namespace hqf
