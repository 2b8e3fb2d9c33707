// Tensors of torch's stable ABI as views, for the operators of every backend.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>
#include <torch/headeronly/util/shim_utils.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <functional>
#include <numeric>
#include <optional>
#include <stdexcept>
#include <vector>

#include "hqf/engine.hpp"

namespace hqf {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using Dims = std::vector<int64_t>;

inline DType dtype(const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case ScalarType::Half:
      return DType::f16;
    case ScalarType::BFloat16:
      return DType::bf16;
    case ScalarType::Float:
      return DType::f32;
    case ScalarType::Double:
      return DType::f64;
    default:
      STD_TORCH_CHECK(false, "expected float64, float32, float16 or bfloat16, got ",
                      torch::headeronly::toString(tensor.scalar_type()));
  }
}

// An implementation as torch may call it. What its exceptions become differs between versions of torch, and
// std::runtime_error alone is a RuntimeError in all of them.
template <auto run>
struct Operator;

template <class Result, class... Arguments, Result (*run)(Arguments...)>
struct Operator<run> {
  static Result call(Arguments... arguments) {
    try {
      return run(arguments...);
    } catch (const std::exception& error) {
      throw std::runtime_error(error.what());
    }
  }
};

#define HQF_BOX(...) TORCH_BOX((&hqf::Operator<__VA_ARGS__>::call))

// The views borrow the tensor's sizes and strides.
inline View view(const Tensor& tensor, void* data) {
  return {data, dtype(tensor), static_cast<int>(tensor.dim()), tensor.sizes().data(), tensor.strides().data()};
}

inline View view_to_read(const Tensor& tensor) { return view(tensor, const_cast<void*>(tensor.const_data_ptr())); }

inline View view_to_write(const Tensor& tensor) { return view(tensor, tensor.mutable_data_ptr()); }

inline Dims sizes(const Tensor& tensor) { return {tensor.sizes().begin(), tensor.sizes().end()}; }

// An uninitialised tensor on the device of `like` whose dimensions lie in memory in `order`, outermost first;
// contiguous if `order` is empty. No view of another one, which autograd would not let anyone change in place.
inline Tensor empty(const Tensor& like, const Dims& shape, const Dims& order, ScalarType type) {
  if (order.empty()) return torch::stable::new_empty(like, shape, type);
  Dims sorted = order;
  std::ranges::sort(sorted);
  Dims dims(shape.size());
  std::iota(dims.begin(), dims.end(), int64_t{0});
  STD_TORCH_CHECK(sorted == dims, "engine: the order does not list the dimensions of the result");
  Dims strides(shape.size());
  int64_t step = 1;
  for (auto d = order.rbegin(); d != order.rend(); ++d) {
    strides[*d] = step;
    step *= std::max(shape[*d], int64_t{1});
  }
  using torch::stable::detail::from;
  std::array<StableIValue, 7> stack{
      from(like),         from(shape),        from(strides),     from(std::optional(type)),
      from(std::nullopt), from(std::nullopt), from(std::nullopt)};
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::new_empty_strided", "", stack.data(), TORCH_ABI_VERSION));
  return torch::stable::detail::to<Tensor>(stack[0]);
}

// What <engine>_forward returns, uninitialised: see hqfkernels/ops.
inline Tensor empty_output(const Tensor& inputs, int64_t n_outputs, int64_t feature_dims, const Dims& order) {
  STD_TORCH_CHECK(0 < feature_dims && feature_dims <= inputs.dim(), "engine: expected 1 to ", inputs.dim(),
                  " dimensions of features, got ", feature_dims);
  Dims shape = sizes(inputs);
  const auto features = shape.end() - feature_dims;
  if (static_cast<int64_t>(order.size()) <= features - shape.begin() + 1) {
    shape.erase(features, shape.end());
    shape.push_back(n_outputs);
  } else if (order.size() > shape.size()) {
    const int64_t n_features = std::accumulate(features, shape.end(), int64_t{1}, std::multiplies<>());
    shape.insert(features, n_features ? n_outputs / n_features : 0);
  }
  return empty(inputs, shape, order,
               inputs.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float);
}

}  // namespace hqf
