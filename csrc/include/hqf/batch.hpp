// How a batch of samples lies in memory, and how lanes are filled from and emptied into it.
#pragma once

#include <array>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "hqf/engine.hpp"

namespace hqf {

// Tensors that a batch steps through: inputs, output (or its gradient), gradient of the inputs, and weights.
enum BatchTensor { kInputs, kOutput, kGradInputs, kWeights, kTensors };

// One dimension of the batch with its stride in each tensor.
struct Dim {
  int64_t size;
  std::array<int64_t, kTensors> stride;
};

// Offsets of the places in the trailing dimensions of a tensor, the last dimension running fastest.
inline std::vector<int64_t> trailing_offsets(const View& view, int first_dim) {
  std::vector<int64_t> offsets{0};
  for (int d = first_dim; d < view.ndim; ++d) {
    std::vector<int64_t> next;
    next.reserve(offsets.size() * static_cast<size_t>(view.sizes[d]));
    for (const auto offset : offsets)
      for (int64_t k = 0; k < view.sizes[d]; ++k) next.push_back(offset + k * view.strides[d]);
    offsets = std::move(next);
  }
  return offsets;
}

// A mixed-radix counter over dimensions, with the offset into every tensor.
class Cursor {
 public:
  Cursor(const std::vector<Dim>& dims, int64_t position) : dims_(dims), index_(dims.size()) {
    for (size_t d = dims.size(); d-- > 0;) {
      index_[d] = position % dims[d].size;
      position /= dims[d].size;
      for (int t = 0; t < kTensors; ++t) offset[t] += index_[d] * dims[d].stride[t];
    }
  }

  void advance() {
    for (size_t d = dims_.size(); d-- > 0;) {
      for (int t = 0; t < kTensors; ++t) offset[t] += dims_[d].stride[t];
      if (++index_[d] < dims_[d].size) return;
      for (int t = 0; t < kTensors; ++t) offset[t] -= dims_[d].size * dims_[d].stride[t];
      index_[d] = 0;
    }
  }

  // How many samples from here on lie at equal strides, and what the strides are.
  int64_t run() const { return dims_.empty() ? 1 : dims_.back().size - index_.back(); }
  int64_t stride(int tensor) const { return dims_.empty() ? 0 : dims_.back().stride[tensor]; }

  void advance_in_run(int64_t count) {
    if (count == run()) {  // the last of them carries
      skip(count - 1);
      advance();
    } else {
      skip(count);
    }
  }

  std::array<int64_t, kTensors> offset{};

 private:
  void skip(int64_t count) {
    if (dims_.empty()) return;
    index_.back() += count;
    for (int t = 0; t < kTensors; ++t) offset[t] += count * dims_.back().stride[t];
  }

  const std::vector<Dim>& dims_;
  std::vector<int64_t> index_;
};

// Places come in runs of this many that lie next to each other in memory: 8, 4, 2 or 1.
inline int run_of_places(const std::vector<int64_t>& places) {
  auto comes_in_runs = [&](size_t count) {
    if (places.size() % count) return false;
    for (size_t k = 0; k < places.size(); ++k)
      if (places[k] != places[k - k % count] + static_cast<int64_t>(k % count)) return false;
    return true;
  };
  for (const int count : {8, 4, 2})
    if (comes_in_runs(static_cast<size_t>(count))) return count;
  return 1;
}

// Weights vary over the group dimensions; all samples of a group share a set.
struct Batch {
  std::vector<Dim> groups, samples;
  int64_t n_groups = 1, n_samples = 1;
  int64_t weight_stride = 1;
  std::array<View, 3> tensor{};                // all but the weights
  std::array<std::vector<int64_t>, 3> places;  // their trailing offsets
  std::array<int, 3> place_run{};              // as run_of_places() says

  // Null views stand for tensors that a call does not have.
  Batch(const View& inputs, int feature_dims, const View& output, const View* grad_inputs, const View& weights) {
    const int dims = inputs.ndim - feature_dims;
    if (feature_dims < 1 || dims < 0 || output.ndim < dims || weights.ndim < 1 || weights.ndim - 1 > dims)
      throw std::invalid_argument("engine: ranks of inputs, weights and output do not fit");
    tensor[kInputs] = inputs;
    tensor[kOutput] = output;
    if (grad_inputs) tensor[kGradInputs] = *grad_inputs;
    for (int d = 0; d < dims; ++d) {
      Dim dim{inputs.sizes[d], {inputs.strides[d], output.strides[d], grad_inputs ? grad_inputs->strides[d] : 0, 0}};
      if (output.sizes[d] != dim.size || (grad_inputs && grad_inputs->sizes[d] != dim.size))
        throw std::invalid_argument("engine: batch shapes differ");
      const int w = d - dims + weights.ndim - 1;
      const bool group = w >= 0 && weights.sizes[w] != 1;
      if (group) {
        if (weights.sizes[w] != dim.size) throw std::invalid_argument("engine: weights do not fit the batch");
        dim.stride[kWeights] = weights.strides[w];
      }
      (group ? n_groups : n_samples) *= dim.size;
      if (dim.size != 1) append(group ? groups : samples, dim);
    }
    weight_stride = weights.strides[weights.ndim - 1];
    for (int t = 0; t < 3; ++t)
      if (t != kGradInputs || grad_inputs) {
        places[t] = trailing_offsets(tensor[t], dims);
        place_run[t] = run_of_places(places[t]);
      }
  }

 private:
  // Adds a dimension, fused with the one before where every tensor steps through both evenly.
  static void append(std::vector<Dim>& dims, const Dim& dim) {
    if (!dims.empty()) {
      auto& last = dims.back();
      bool even = true;
      for (int t = 0; t < kTensors; ++t) even &= last.stride[t] == dim.size * dim.stride[t];
      if (even) {
        last.size *= dim.size;
        last.stride = dim.stride;
        return;
      }
    }
    dims.push_back(dim);
  }
};

}  // namespace hqf
