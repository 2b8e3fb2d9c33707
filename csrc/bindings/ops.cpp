// The operators of hqfkernels on CPU tensors, registered through torch's stable ABI. Schemas and their meaning are
// declared in hqfkernels/ops; here tensors become views, and results are allocated.

#include <pthread.h>

#include <algorithm>
#include <functional>
#include <string>
#include <tuple>

#include "bindings/tensors.hpp"
#include "hqf/engine.hpp"
#include "hqf/propagation.hpp"
#include "hqf/unitary.hpp"

namespace {

using hqf::Dims;
using hqf::ScalarType;
using hqf::sizes;
using hqf::Tensor;
using hqf::view_to_read;
using hqf::view_to_write;

// OpenMP's threads, which torch uses, do not survive a fork: a child that asked for them would wait for ever.
bool forked = false;
[[maybe_unused]] const int watching = pthread_atfork(nullptr, nullptr, [] { forked = true; });

// What one more thread must have to do, in nanoseconds. To wake it takes a few thousand if a core is free; if none is,
// all threads wait until the system lets it run, some thousand times as long.
constexpr int64_t kWorthAThread = 20000;

const hqf::ParallelFor& torch_threads() {
  static const hqf::ParallelFor run = [](int64_t count, int64_t cost,
                                         const std::function<void(int64_t, int64_t)>& body) {
    const int64_t at_least = kWorthAThread / std::max<int64_t>(1, cost) + 1;
    if (forked || count <= at_least)
      body(0, count);
    else
      torch::stable::parallel_for(0, count, at_least, body);
  };
  return run;
}

using Outputs = decltype(hqf::gate::n_outputs);
using Forward = decltype(hqf::gate::forward);
using Backward = decltype(hqf::gate::backward);

template <Outputs n_outputs, Forward run>
Tensor forward(const Tensor& inputs, const Tensor& parameters, const std::string& text, int64_t feature_dims,
               const Dims& output_order) {
  Tensor output = hqf::empty_output(inputs, n_outputs(text), feature_dims, output_order);
  run(text, view_to_read(inputs), static_cast<int>(feature_dims), view_to_read(parameters), view_to_write(output),
      torch_threads());
  return output;
}

template <Backward run>
std::tuple<Tensor, Tensor> backward(const Tensor& grad, const Tensor& inputs, const Tensor& parameters,
                                    const std::string& text, int64_t feature_dims, const Dims& input_order) {
  Tensor grad_inputs = hqf::empty(inputs, sizes(inputs), input_order, inputs.scalar_type());
  Tensor grad_parameters = hqf::empty(parameters, sizes(parameters), {}, parameters.scalar_type());
  run(text, view_to_read(grad), view_to_read(inputs), static_cast<int>(feature_dims), view_to_read(parameters),
      view_to_write(grad_inputs), view_to_write(grad_parameters), torch_threads());
  return {grad_inputs, grad_parameters};
}

// Weights of all sets next to each other, in double precision.
void check_sets(const Tensor& weights) {
  STD_TORCH_CHECK(weights.scalar_type() == ScalarType::Double && weights.is_contiguous() && weights.dim() > 0,
                  "propagation: expected contiguous float64 weights");
}

int64_t n_sets(const Tensor& weights) {
  int64_t count = 1;
  for (int64_t d = 0; d + 1 < weights.dim(); ++d) count *= weights.size(d);
  return count;
}

Tensor propagation_forward(const Tensor& weights, const std::string& text) {
  check_sets(weights);
  Dims shape = sizes(weights);
  shape.back() = hqf::propagation::n_outputs(text);
  Tensor result = torch::stable::new_empty(weights, shape, ScalarType::Double);
  hqf::propagation::forward(text, static_cast<const double*>(weights.const_data_ptr()), n_sets(weights),
                            sizes(weights).back(), static_cast<double*>(result.mutable_data_ptr()), torch_threads());
  return result;
}

Tensor propagation_backward(const Tensor& grad, const Tensor& weights, const std::string& text) {
  check_sets(grad);
  check_sets(weights);
  STD_TORCH_CHECK(n_sets(grad) == n_sets(weights) && sizes(grad).back() == hqf::propagation::n_outputs(text),
                  "propagation: the gradient does not fit");
  Tensor result = torch::stable::new_empty(weights, sizes(weights), ScalarType::Double);
  hqf::propagation::backward(text, static_cast<const double*>(grad.const_data_ptr()),
                             static_cast<const double*>(weights.const_data_ptr()), n_sets(weights),
                             sizes(weights).back(), static_cast<double*>(result.mutable_data_ptr()), torch_threads());
  return result;
}

// Calls body with a null pointer of the type of numbers in contiguous tensors of `dims` dimensions.
template <class Body>
void with_numbers(std::initializer_list<const Tensor*> tensors, int64_t dims, const Body& body) {
  const ScalarType type = (*tensors.begin())->scalar_type();
  for (const Tensor* tensor : tensors)
    STD_TORCH_CHECK(tensor->scalar_type() == type && tensor->is_contiguous() && tensor->dim() == dims,
                    "products: expected contiguous tensors of one dtype with ", dims, " dimensions");
  STD_TORCH_CHECK(type == ScalarType::Float || type == ScalarType::Double, "products: expected float32 or float64");
  if (type == ScalarType::Double)
    body(static_cast<double*>(nullptr));
  else
    body(static_cast<float*>(nullptr));
}

template <class T>
const T* numbers(const Tensor& tensor, const T*) {
  return static_cast<const T*>(tensor.const_data_ptr());
}

hqf::Born born(const Tensor& psi, const Tensor& matrix, const Dims& strings) {
  const hqf::Born result{psi.size(0), psi.size(1), psi.size(2), matrix.size(2) / 2, strings};
  STD_TORCH_CHECK(
      matrix.size(0) == result.groups && matrix.size(1) == result.amplitudes && matrix.size(2) == 2 * result.states,
      "products: the matrix does not fit the states");
  return result;
}

Tensor born_forward(const Tensor& psi, const Tensor& matrix, const Dims& strings) {
  Tensor output;
  with_numbers({&psi, &matrix}, 3, [&](auto* tag) {
    using T = std::remove_pointer_t<decltype(tag)>;
    const auto sizes = born(psi, matrix, strings);
    output = torch::stable::new_empty(psi, {sizes.groups, sizes.samples, sizes.outputs()});
    hqf::born_forward(sizes, numbers(psi, tag), numbers(matrix, tag), static_cast<T*>(output.mutable_data_ptr()),
                      torch_threads());
  });
  return output;
}

std::tuple<Tensor, Tensor> born_backward(const Tensor& grad, const Tensor& psi, const Tensor& matrix,
                                         const Dims& strings) {
  Tensor grad_psi, grad_matrix;
  with_numbers({&grad, &psi, &matrix}, 3, [&](auto* tag) {
    using T = std::remove_pointer_t<decltype(tag)>;
    const auto size = born(psi, matrix, strings);
    STD_TORCH_CHECK(sizes(grad) == Dims({size.groups, size.samples, size.outputs()}),
                    "products: the gradient does not fit");
    grad_psi = torch::stable::new_empty(psi, sizes(psi));
    grad_matrix = torch::stable::new_empty(matrix, sizes(matrix));
    hqf::born_backward(size, numbers(grad, tag), numbers(psi, tag), numbers(matrix, tag),
                       static_cast<T*>(grad_psi.mutable_data_ptr()), static_cast<T*>(grad_matrix.mutable_data_ptr()),
                       torch_threads());
  });
  return {grad_psi, grad_matrix};
}

Tensor product(const Tensor& left, const Tensor& right) {
  Tensor result;
  with_numbers({&left, &right}, 2, [&](auto* tag) {
    using T = std::remove_pointer_t<decltype(tag)>;
    STD_TORCH_CHECK(left.size(1) == right.size(0), "products: the matrices do not fit");
    result = torch::stable::new_empty(left, {left.size(0), right.size(1)});
    hqf::product(left.size(0), left.size(1), right.size(1), numbers(left, tag), numbers(right, tag),
                 static_cast<T*>(result.mutable_data_ptr()), torch_threads());
  });
  return result;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(hqfkernels, CPU, m) {
  m.impl("gate_forward", HQF_BOX(&forward<hqf::gate::n_outputs, hqf::gate::forward>));
  m.impl("gate_backward", HQF_BOX(&backward<hqf::gate::backward>));
  m.impl("fourier_forward", HQF_BOX(&forward<hqf::fourier::n_outputs, hqf::fourier::forward>));
  m.impl("fourier_backward", HQF_BOX(&backward<hqf::fourier::backward>));
  m.impl("born_forward", HQF_BOX(&born_forward));
  m.impl("born_backward", HQF_BOX(&born_backward));
  m.impl("product", HQF_BOX(&product));
  m.impl("propagation_forward", HQF_BOX(&propagation_forward));
  m.impl("propagation_backward", HQF_BOX(&propagation_backward));
}
