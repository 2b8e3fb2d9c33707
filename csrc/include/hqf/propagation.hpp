// Pauli propagation: the parameters of a circuit's trigonometric polynomials from its weights, as
// hqfkernels/propagation.py has prepared it.
#pragma once

#include <cstdint>
#include <string>

#include "hqf/engine.hpp"

namespace hqf::propagation {

// Length of a result.
int64_t n_outputs(const std::string& text);

// weights (n_sets, n_weights) to results (n_sets, n_outputs), both contiguous.
void forward(const std::string& text, const double* weights, int64_t n_sets, int64_t n_weights, double* results,
             const ParallelFor& parallel_for);

// The gradients in weights of sum(grad * results).
void backward(const std::string& text, const double* grad, const double* weights, int64_t n_sets, int64_t n_weights,
              double* grad_weights, const ParallelFor& parallel_for);

// All throw std::invalid_argument for a text that cannot be read or does not fit the weights.

}  // namespace hqf::propagation
