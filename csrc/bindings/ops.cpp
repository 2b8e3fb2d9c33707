// The operators of hqfkernels on CPU tensors, registered through torch's stable ABI. Schemas and their meaning are
// declared in hqfkernels/ops; here tensors become views, and results are allocated.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>
#include <torch/headeronly/util/shim_utils.h>

#include <array>
#include <cstdint>
#include <functional>
#include <numeric>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "hqf/engine.hpp"
#include "hqf/propagation.hpp"

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using Dims = std::vector<int64_t>;

hqf::DType dtype(const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case ScalarType::Half:
      return hqf::DType::f16;
    case ScalarType::BFloat16:
      return hqf::DType::bf16;
    case ScalarType::Float:
      return hqf::DType::f32;
    case ScalarType::Double:
      return hqf::DType::f64;
    default:
      STD_TORCH_CHECK(false, "expected float64, float32, float16 or bfloat16, got ",
                      torch::headeronly::toString(tensor.scalar_type()));
  }
}

// The views borrow the tensor's sizes and strides.
hqf::View view(const Tensor& tensor, void* data) {
  return {data, dtype(tensor), static_cast<int>(tensor.dim()), tensor.sizes().data(), tensor.strides().data()};
}

hqf::View read(const Tensor& tensor) { return view(tensor, const_cast<void*>(tensor.const_data_ptr())); }

hqf::View write(const Tensor& tensor) { return view(tensor, tensor.mutable_data_ptr()); }

Dims sizes(const Tensor& tensor) { return {tensor.sizes().begin(), tensor.sizes().end()}; }

// An uninitialised tensor whose dimensions lie in memory in `order`, outermost first; contiguous if `order` is empty.
Tensor empty(const Tensor& like, const Dims& shape, const Dims& order, ScalarType type) {
  if (order.empty()) return torch::stable::new_empty(like, shape, type);
  using torch::stable::detail::from;
  std::array<StableIValue, 6> stack{from(shape),        from(order),        from(std::optional(type)),
                                    from(std::nullopt), from(std::nullopt), from(std::nullopt)};
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::empty_permuted", "", stack.data(), TORCH_ABI_VERSION));
  return torch::stable::detail::to<Tensor>(stack[0]);
}

const hqf::ParallelFor& torch_threads() {
  static const hqf::ParallelFor run = [](int64_t count, const std::function<void(int64_t, int64_t)>& body) {
    torch::stable::parallel_for(0, count, 1, body);
  };
  return run;
}

using Outputs = decltype(hqf::gate::n_outputs);
using Forward = decltype(hqf::gate::forward);
using Backward = decltype(hqf::gate::backward);

template <Outputs n_outputs, Forward run>
Tensor forward(const Tensor& inputs, const Tensor& parameters, const std::string& text, int64_t feature_dims,
               const Dims& output_order) {
  Dims shape = sizes(inputs);
  const auto features = shape.end() - feature_dims;
  if (static_cast<int64_t>(output_order.size()) <= features - shape.begin() + 1) {
    shape.erase(features, shape.end());
    shape.push_back(n_outputs(text));
  } else if (output_order.size() > shape.size()) {
    const int64_t n_features = std::accumulate(features, shape.end(), int64_t{1}, std::multiplies<>());
    shape.insert(features, n_features ? n_outputs(text) / n_features : 0);
  }
  ScalarType type = inputs.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  Tensor output = empty(inputs, shape, output_order, type);
  run(text, read(inputs), static_cast<int>(feature_dims), read(parameters), write(output), torch_threads());
  return output;
}

template <Backward run>
std::tuple<Tensor, Tensor> backward(const Tensor& grad, const Tensor& inputs, const Tensor& parameters,
                                    const std::string& text, int64_t feature_dims, const Dims& input_order) {
  Tensor grad_inputs = empty(inputs, sizes(inputs), input_order, inputs.scalar_type());
  Tensor grad_parameters = empty(parameters, sizes(parameters), {}, parameters.scalar_type());
  run(text, read(grad), read(inputs), static_cast<int>(feature_dims), read(parameters), write(grad_inputs),
      write(grad_parameters), torch_threads());
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

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(hqfkernels, CPU, m) {
  m.impl("gate_forward", TORCH_BOX((&forward<hqf::gate::n_outputs, hqf::gate::forward>)));
  m.impl("gate_backward", TORCH_BOX((&backward<hqf::gate::backward>)));
  m.impl("fourier_forward", TORCH_BOX((&forward<hqf::fourier::n_outputs, hqf::fourier::forward>)));
  m.impl("fourier_backward", TORCH_BOX((&backward<hqf::fourier::backward>)));
  m.impl("propagation_forward", TORCH_BOX(&propagation_forward));
  m.impl("propagation_backward", TORCH_BOX(&propagation_backward));
}
