// How vectors of lanes are filled from a batch and emptied into it, and how a batch is cut into tasks.
#pragma once

#include <algorithm>
#include <memory>
#include <new>
#include <vector>

#include "hqf/batch.hpp"
#include "hqf/simd.hpp"

// Bytes of the widest vectors of the instruction set that this file is compiled for.
#if defined(__AVX512F__)
#define HQF_WIDEST 64
#elif defined(__AVX2__)
#define HQF_WIDEST 32
#else
#define HQF_WIDEST 16
#endif

namespace hqf::HQF_ARCH {

// --- storage types ---

struct BFloat16 {
  uint16_t bits;
};

template <class T, class S>
HQF_INLINE T widened(S value) {
  if constexpr (std::is_same_v<S, BFloat16>)
    return static_cast<T>(__builtin_bit_cast(float, static_cast<uint32_t>(value.bits) << 16));
  else
    return static_cast<T>(value);
}

template <class S, class T>
HQF_INLINE S narrowed(T value) {
  if constexpr (std::is_same_v<S, BFloat16>) {
    const uint32_t bits = __builtin_bit_cast(uint32_t, static_cast<float>(value));
    if ((bits & 0x7fffffff) > 0x7f800000) return {static_cast<uint16_t>(bits >> 16 | 0x40)};  // NaN stays one
    return {static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};  // to nearest, ties to even
  } else {
    return static_cast<S>(value);
  }
}

// Calls body with a null pointer of the storage type.
template <class Body>
HQF_INLINE void with_storage(DType dtype, const Body& body) {
  switch (dtype) {
    case DType::f16:
      return body(static_cast<_Float16*>(nullptr));
    case DType::bf16:
      return body(static_cast<BFloat16*>(nullptr));
    case DType::f32:
      return body(static_cast<float*>(nullptr));
    case DType::f64:
      return body(static_cast<double*>(nullptr));
  }
}

// values[k] = the k-th number of each lane's sample.
template <class V>
void gather(const View& view, const int64_t* samples, const std::vector<int64_t>& places, V* values) {
  with_storage(view.dtype, [&](auto* tag) {
    const auto* data = static_cast<std::remove_pointer_t<decltype(tag)>*>(view.data);
    for (size_t k = 0; k < places.size(); ++k) {
      V lanes;
      for (int lane = 0; lane < kLanes<V>; ++lane) lanes[lane] = widened<ScalarOf<V>>(data[samples[lane] + places[k]]);
      values[k] = lanes;
    }
  });
}

template <class V>
void scatter(const View& view, const int64_t* samples, int count, const std::vector<int64_t>& places, const V* values) {
  with_storage(view.dtype, [&](auto* tag) {
    using S = std::remove_pointer_t<decltype(tag)>;
    auto* data = static_cast<S*>(view.data);
    for (size_t k = 0; k < places.size(); ++k) {
      ScalarOf<V> lanes[kLanes<V>];
      store<V>(lanes, values[k]);
      for (int lane = 0; lane < count; ++lane) data[samples[lane] + places[k]] = narrowed<S>(lanes[lane]);
    }
  });
}

inline double read(const View& view, int64_t offset) {
  double value = 0;
  with_storage(view.dtype, [&](auto* tag) {
    value = widened<double>(static_cast<std::remove_pointer_t<decltype(tag)>*>(view.data)[offset]);
  });
  return value;
}

inline void write(const View& view, int64_t offset, double value) {
  with_storage(view.dtype, [&](auto* tag) {
    using S = std::remove_pointer_t<decltype(tag)>;
    static_cast<S*>(view.data)[offset] = narrowed<S>(value);
  });
}

template <class V>
HQF_INLINE double lane_sum(V v) {
  ScalarOf<V> lanes[kLanes<V>];
  store<V>(lanes, v);
  for (int half = kLanes<V> / 2; half > 0; half /= 2)
    for (int k = 0; k < half; ++k) lanes[k] += lanes[k + half];
  return lanes[0];
}

// --- memory and tasks ---

struct AlignedDelete {
  void operator()(void* memory) const { ::operator delete(memory, std::align_val_t{64}); }
};

// Working memory of a thread, kept from call to call while it is small.
class Scratch {
 public:
  template <class V>
  V* reserve(size_t count) {
    const size_t bytes = count * sizeof(V);
    if (bytes > size_) {
      memory_.reset();
      memory_.reset(::operator new(bytes, std::align_val_t{64}));
      size_ = bytes;
    }
    return static_cast<V*>(memory_.get());
  }

  void release_large() {
    if (size_ <= kKept) return;
    memory_.reset();
    size_ = 0;
  }

 private:
  static constexpr size_t kKept = size_t{16} << 20;
  std::unique_ptr<void, AlignedDelete> memory_;
  size_t size_ = 0;
};

inline Scratch& thread_scratch() {
  static thread_local Scratch scratch;
  return scratch;
}

// Cuts every group of samples into tasks of whole vectors. The cut depends on the sizes alone, so sums over tasks do
// not depend on the number of threads.
struct Cut {
  int64_t vectors, per_task, tasks_per_group;

  // At most about this many tasks; vectors of a task come in multiples of a tile.
  Cut(const Batch& batch, int lanes, int64_t tasks, int64_t tile) {
    vectors = (batch.n_samples + lanes - 1) / lanes;
    const int64_t wanted = std::max<int64_t>(1, tasks / batch.n_groups);
    per_task = std::max<int64_t>(1, (vectors + wanted * tile - 1) / (wanted * tile)) * tile;
    tasks_per_group = (vectors + per_task - 1) / per_task;
  }
};

// Where the samples of one vector lie in each tensor; lanes beyond the batch repeat its last sample.
template <int W>
struct LaneOffsets {
  int64_t at[3][W];
  int count;

  void fill(const Batch& batch, const std::array<int64_t, kTensors>& start, Cursor& cursor, int64_t vector) {
    count = static_cast<int>(std::min<int64_t>(W, batch.n_samples - vector * W));
    if (cursor.run() >= W) {
      for (int t = 0; t < 3; ++t) {
        const int64_t first = start[t] + cursor.offset[t], stride = cursor.stride(t);
        for (int lane = 0; lane < W; ++lane) at[t][lane] = first + lane * stride;
      }
      cursor.advance_in_run(W);
      return;
    }
    for (int lane = 0; lane < W; ++lane) {
      for (int t = 0; t < 3; ++t) at[t][lane] = lane < count ? start[t] + cursor.offset[t] : at[t][count - 1];
      if (lane < count) cursor.advance();
    }
  }
};

}  // namespace hqf::HQF_ARCH
