// The gate engine on the CPU, free of torch: strided views in, strided views out.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

namespace hqf {

enum class DType { f16, bf16, f32, f64 };

// A strided tensor; strides count elements.
struct View {
  void* data;
  DType dtype;
  int ndim;
  const int64_t* sizes;
  const int64_t* strides;
};

// Calls body(begin, end) for ranges that cover [0, count), on any threads, in any order.
using ParallelFor = std::function<void(int64_t count, const std::function<void(int64_t begin, int64_t end)>& body)>;

// Length of the last output dimension of a program, in real numbers. Throws std::invalid_argument for a bad program.
int64_t n_outputs(const std::string& program);

// Runs the program (text of hqfkernels.program.Program) on a batch.
//   inputs  (*batch, *features), features holding n_inputs numbers
//   weights (*g, n_weights), g broadcastable to batch, aligned on the right
//   output  (*batch, *any) holding n_outputs numbers per sample; f32 or f64
// Arithmetic is in double if output is f64, else in float. Throws std::invalid_argument if shapes do not fit.
void forward(const std::string& program, const View& inputs, int feature_dims, const View& weights, const View& output,
             const ParallelFor& parallel_for);

// Gradients of sum(grad * output) by the adjoint method.
//   grad         shaped as output, any dtype
//   grad_inputs  shaped as inputs; every element is written
//   grad_weights shaped as weights; summed in an order that does not depend on the number of threads
// Arithmetic is in double if inputs are f64, else in float.
void backward(const std::string& program, const View& grad, const View& inputs, int feature_dims, const View& weights,
              const View& grad_inputs, const View& grad_weights, const ParallelFor& parallel_for);

}  // namespace hqf
