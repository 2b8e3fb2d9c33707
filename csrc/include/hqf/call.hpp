// The tensors of a call as lanes reach them: sizes and strides by value, no memory of the host.
#pragma once

#include <array>
#include <stdexcept>

#include "hqf/batch.hpp"
#include "hqf/storage.hpp"

namespace hqf {

constexpr int kMaxDims = 8;  // of a batch after fusing what lies evenly, and of features

// The numbers of one sample in a tensor, the last dimension running fastest.
struct Features {
  void* data;
  DType dtype;
  int32_t n_dims;
  int64_t size[kMaxDims], stride[kMaxDims];

  HQF_INLINE int64_t place(int64_t k) const {
    int64_t offset = 0;
    for (int d = n_dims - 1; d > 0; --d) {
      offset += k % size[d] * stride[d];
      k /= size[d];
    }
    return n_dims ? offset + k * stride[0] : 0;
  }
};

struct Axis {
  int64_t size, stride[kTensors];
};

struct Call {
  Features tensor[3];  // as BatchTensor has them
  const void* weights;
  DType weight_dtype;
  int64_t weight_stride;
  int32_t n_group_axes, n_sample_axes;
  Axis groups[kMaxDims], samples[kMaxDims];
  int64_t n_groups, n_samples;
};

// Adds the offsets of an entry of the axes, the last one running fastest.
HQF_INLINE void add_offsets(const Axis* axes, int n_axes, int64_t position, int64_t (&offset)[kTensors]) {
  for (int d = n_axes - 1; d >= 0; --d) {
    int64_t k = position;
    if (d > 0) {
      // A division of 32 bits is several times cheaper than one of 64.
      if (position >> 32 == 0 && axes[d].size >> 32 == 0) {
        const auto p = static_cast<uint32_t>(position), size = static_cast<uint32_t>(axes[d].size);
        position = p / size;
        k = p % size;
      } else {
        k = position % axes[d].size;
        position /= axes[d].size;
      }
    }
    for (int t = 0; t < kTensors; ++t) offset[t] += k * axes[d].stride[t];
  }
}

inline Call make_call(const Batch& batch, int batch_dims, const View& weights) {
  Call call{};
  const auto copy_axes = [](const std::vector<Dim>& dims, Axis(&axes)[kMaxDims]) {
    if (dims.size() > kMaxDims) throw std::invalid_argument("engine: the batch has too many dimensions; flatten some");
    for (size_t d = 0; d < dims.size(); ++d) {
      axes[d].size = dims[d].size;
      for (int t = 0; t < kTensors; ++t) axes[d].stride[t] = dims[d].stride[t];
    }
    return static_cast<int32_t>(dims.size());
  };
  call.n_group_axes = copy_axes(batch.groups, call.groups);
  call.n_sample_axes = copy_axes(batch.samples, call.samples);
  call.n_groups = batch.n_groups;
  call.n_samples = batch.n_samples;
  call.weights = weights.data;
  call.weight_dtype = weights.dtype;
  call.weight_stride = batch.weight_stride;
  for (int t = 0; t < 3; ++t) {
    const View& view = batch.tensor[t];
    if (!view.sizes) continue;
    auto& features = call.tensor[t];
    features.data = view.data;
    features.dtype = view.dtype;
    features.n_dims = view.ndim - batch_dims;
    if (features.n_dims > kMaxDims)
      throw std::invalid_argument("engine: a sample has too many dimensions; flatten some");
    for (int d = 0; d < features.n_dims; ++d) {
      features.size[d] = view.sizes[batch_dims + d];
      features.stride[d] = view.strides[batch_dims + d];
    }
  }
  return call;
}

}  // namespace hqf
