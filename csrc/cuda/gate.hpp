// The gate engine on the current CUDA device, free of torch: see hqf/engine.hpp for what the arguments mean.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <functional>
#include <string>

#include "hqf/engine.hpp"

namespace hqf::cuda {

// Where the work is queued, and where its memory comes from: `allocate` must hand out memory that stays until all that
// was queued before it is freed has run.
struct Queue {
  cudaStream_t stream;
  std::function<void*(size_t bytes)> allocate;
};

// Nothing waits for the device. All throw std::invalid_argument as the engine on the CPU does and for states that are
// too large, and std::runtime_error if the device refuses.
int64_t n_outputs(const std::string& text);
void forward(const std::string& text, const View& inputs, int feature_dims, const View& weights, const View& output,
             const Queue& queue);
// The batch must not be empty.
void backward(const std::string& text, const View& grad, const View& inputs, int feature_dims, const View& weights,
              const View& grad_inputs, const View& grad_weights, const Queue& queue);

}  // namespace hqf::cuda
