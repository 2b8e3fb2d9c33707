// The engines on the CPU, free of torch: strided views in, strided views out.
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

// Calls body(begin, end) for ranges that cover [0, count), on any threads, in any order. cost: about how many
// nanoseconds one of them takes.
using ParallelFor =
    std::function<void(int64_t count, int64_t cost, const std::function<void(int64_t begin, int64_t end)>& body)>;

// Both engines map a batch of inputs, and parameters that the batch shares, to outputs, as a text tells:
//   gate     the text of a hqfkernels.program.Program; the parameters are the weights
//   fourier  the text of a hqfkernels.series.Series; the parameters are those of its members
//
// n_outputs: length of the last output dimension, in real numbers.
// forward:
//   inputs      (*batch, *features), features holding n_inputs numbers
//   parameters  (*g, n_parameters), g broadcastable to batch, aligned on the right
//   output      (*batch, *any) holding n_outputs numbers per sample; f32 or f64
//   Arithmetic is in double if output is f64, else in float.
// backward: gradients of sum(grad * output).
//   grad             shaped as output, any dtype
//   grad_inputs      shaped as inputs; every element is written
//   grad_parameters  shaped as parameters, contiguous; summed in an order that does not depend on the number of threads
//   Arithmetic is in double if inputs are f64, else in float.
// All throw std::invalid_argument for a text that cannot be read and for shapes that do not fit.
#define HQF_DECLARE_ENGINE(engine)                                                                    \
  namespace engine {                                                                                  \
  int64_t n_outputs(const std::string& text);                                                         \
  void forward(const std::string& text, const View& inputs, int feature_dims, const View& parameters, \
               const View& output, const ParallelFor& parallel_for);                                  \
  void backward(const std::string& text, const View& grad, const View& inputs, int feature_dims,      \
                const View& parameters, const View& grad_inputs, const View& grad_parameters,         \
                const ParallelFor& parallel_for);                                                     \
  }

HQF_DECLARE_ENGINE(gate)
HQF_DECLARE_ENGINE(fourier)

#undef HQF_DECLARE_ENGINE

}  // namespace hqf
