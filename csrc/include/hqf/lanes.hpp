// How vectors of lanes are filled from a batch and emptied into it, and how a batch is cut into tasks.
#pragma once

#include <algorithm>
#include <memory>
#include <new>
#include <utility>
#include <vector>

#include "hqf/batch.hpp"
#include "hqf/simd.hpp"
#include "hqf/storage.hpp"

namespace hqf::HQF_ARCH {

// Vectors that hold A0 B0 A1 B1 ... become A and B, and back.
template <class V, size_t... K>
HQF_INLINE void unzip(V& a, V& b, std::index_sequence<K...>) {
  const V even = __builtin_shufflevector(a, b, (2 * K)...), odd = __builtin_shufflevector(a, b, (2 * K + 1)...);
  a = even, b = odd;
}

template <class V, size_t... K>
HQF_INLINE void zip(V& a, V& b, std::index_sequence<K...>) {
  constexpr size_t kHalf = sizeof...(K) / 2, kAll = sizeof...(K);
  const V low = __builtin_shufflevector(a, b, (K / 2 + K % 2 * kAll)...);
  const V high = __builtin_shufflevector(a, b, (kHalf + K / 2 + K % 2 * kAll)...);
  a = low, b = high;
}

// Sorts N vectors that hold lane 0 of each of N others, then lane 1 of each, and so on, into those others; and back.
template <class V, int N>
HQF_INLINE void deinterleave(V* v) {
  constexpr auto kAll = std::make_index_sequence<kLanes<V>>();
  // Unzipping neighbours sorts by the lowest bit of the number's place, which thereby becomes the highest.
  for (int round = 1; round < N; round *= 2) {
    V next[N];
    for (int k = 0; k < N; k += 2) {
      unzip<V>(v[k], v[k + 1], kAll);
      next[k / 2] = v[k];
      next[k / 2 + N / 2] = v[k + 1];
    }
    for (int k = 0; k < N; ++k) v[k] = next[k];
  }
}

template <class V, int N>
HQF_INLINE void interleave(V* v) {
  constexpr auto kAll = std::make_index_sequence<kLanes<V>>();
  for (int round = 1; round < N; round *= 2) {
    V next[N];
    for (int k = 0; k < N; k += 2) {
      next[k] = v[k / 2];
      next[k + 1] = v[k / 2 + N / 2];
      zip<V>(next[k], next[k + 1], kAll);
    }
    for (int k = 0; k < N; ++k) v[k] = next[k];
  }
}

template <class V>
using HalfOf = Vector<ScalarOf<V>, sizeof(V) / 2>;

template <class V, size_t... K>
HQF_INLINE V concatenated(HalfOf<V> low, HalfOf<V> high, std::index_sequence<K...>) {
  return __builtin_shufflevector(low, high, K...);
}

// The half of v that begins at lane First.
template <size_t First, class V, size_t... K>
HQF_INLINE HalfOf<V> half(V v, std::index_sequence<K...>) {
  return __builtin_shufflevector(v, v, (First + K)...);
}

// A vector from pieces of `Piece` numbers, `stride` apart; and back.
template <class V, int Piece>
HQF_INLINE V load_pieces(const ScalarOf<V>* from, int64_t stride) {
  if constexpr (Piece == kLanes<V>) {
    return load<V>(from);
  } else {
    constexpr int kHalf = kLanes<V> / 2;
    return concatenated<V>(load_pieces<HalfOf<V>, Piece>(from, stride),
                           load_pieces<HalfOf<V>, Piece>(from + kHalf / Piece * stride, stride),
                           std::make_index_sequence<2 * kHalf>());
  }
}

template <class V, int Piece>
HQF_INLINE void store_pieces(ScalarOf<V>* to, int64_t stride, V v) {
  if constexpr (Piece == kLanes<V>) {
    store<V>(to, v);
  } else {
    constexpr int kHalf = kLanes<V> / 2;
    constexpr auto kAll = std::make_index_sequence<kHalf>();
    store_pieces<HalfOf<V>, Piece>(to, stride, half<0>(v, kAll));
    store_pieces<HalfOf<V>, Piece>(to + kHalf / Piece * stride, stride, half<kHalf>(v, kAll));
  }
}

// N numbers that lie next to each other in the sample of each lane, samples `stride` apart: N vectors, `step` apart.
template <class V, int N>
HQF_INLINE void load_run(const ScalarOf<V>* from, int64_t stride, V* values, int step) {
  V v[N];
  for (int k = 0; k < N; ++k)
    v[k] = stride == N ? load<V>(from + k * kLanes<V>) : load_pieces<V, N>(from + k * kLanes<V> / N * stride, stride);
  deinterleave<V, N>(v);
  for (int k = 0; k < N; ++k) values[k * step] = v[k];
}

template <class V, int N>
HQF_INLINE void store_run(ScalarOf<V>* to, int64_t stride, const V* values, int step) {
  V v[N];
  for (int k = 0; k < N; ++k) v[k] = values[k * step];
  interleave<V, N>(v);
  for (int k = 0; k < N; ++k) {
    if (stride == N)
      store<V>(to + k * kLanes<V>, v[k]);
    else
      store_pieces<V, N>(to + k * kLanes<V> / N * stride, stride, v[k]);
  }
}

// Calls body with the width of a run of places as a constant, if numbers can be moved in such runs.
template <class V, class Body>
HQF_INLINE bool in_runs(int width, int64_t stride, const Body& body) {
  while (width > kLanes<V>) width /= 2;
  switch (width) {
    case 1:
      if (stride == 1) body(std::integral_constant<int, 1>{});
      return stride == 1;
    case 2:
      body(std::integral_constant<int, 2>{});
      return true;
    case 4:
      if constexpr (kLanes<V> >= 4) body(std::integral_constant<int, 4>{});
      return true;
    default:
      if constexpr (kLanes<V> >= 8) body(std::integral_constant<int, 8>{});
      return true;
  }
}

inline double read(const View& view, int64_t offset) { return read_as<double>(view.data, view.dtype, offset); }

inline void write(const View& view, int64_t offset, double value) { write_as(view.data, view.dtype, offset, value); }

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
struct Lanes {
  std::array<int64_t, 3> first{}, stride{};  // where lanes are evenly spaced
  bool even;
  int count;
  int64_t at[3][W];  // where they are not

  void fill(const Batch& batch, const std::array<int64_t, kTensors>& start, Cursor& cursor, int64_t vector) {
    count = static_cast<int>(std::min<int64_t>(W, batch.n_samples - vector * W));
    even = cursor.run() >= W;
    if (even) {
      for (int t = 0; t < 3; ++t) {
        first[t] = start[t] + cursor.offset[t];
        stride[t] = cursor.stride(t);
      }
      cursor.advance_in_run(W);
      return;
    }
    for (int lane = 0; lane < W; ++lane) {
      for (int t = 0; t < 3; ++t) at[t][lane] = lane < count ? start[t] + cursor.offset[t] : at[t][count - 1];
      if (lane < count) cursor.advance();
    }
  }

  int64_t offset(BatchTensor t, int lane) const { return even ? first[t] + lane * stride[t] : at[t][lane]; }
};

// The k-th number of each lane's sample to or from values[k * step].
template <class V>
void gather(const Batch& batch, BatchTensor t, const Lanes<kLanes<V>>& lanes, V* values, int step = 1) {
  const View& view = batch.tensor[t];
  const auto& places = batch.places[t];
  with_storage(view.dtype, [&](auto* tag) {
    using S = std::remove_pointer_t<decltype(tag)>;
    const auto* data = static_cast<const S*>(view.data);
    if constexpr (std::is_same_v<S, ScalarOf<V>>)
      if (lanes.even && in_runs<V>(batch.place_run[t], lanes.stride[t], [&](auto width) {
            for (size_t k = 0; k < places.size(); k += width)
              load_run<V, width>(data + lanes.first[t] + places[k], lanes.stride[t], values + k * step, step);
          }))
        return;
    for (size_t k = 0; k < places.size(); ++k) {
      V v;
      for (int lane = 0; lane < kLanes<V>; ++lane)
        v[lane] = widened<ScalarOf<V>>(data[lanes.offset(t, lane) + places[k]]);
      values[k * step] = v;
    }
  });
}

template <class V>
void scatter(const Batch& batch, BatchTensor t, const Lanes<kLanes<V>>& lanes, const V* values, int step = 1) {
  const View& view = batch.tensor[t];
  const auto& places = batch.places[t];
  with_storage(view.dtype, [&](auto* tag) {
    using S = std::remove_pointer_t<decltype(tag)>;
    auto* data = static_cast<S*>(view.data);
    if constexpr (std::is_same_v<S, ScalarOf<V>>)
      if (lanes.even && in_runs<V>(batch.place_run[t], lanes.stride[t], [&](auto width) {
            for (size_t k = 0; k < places.size(); k += width)
              store_run<V, width>(data + lanes.first[t] + places[k], lanes.stride[t], values + k * step, step);
          }))
        return;
    for (size_t k = 0; k < places.size(); ++k) {
      ScalarOf<V> row[kLanes<V>];
      store<V>(row, values[k * step]);
      for (int lane = 0; lane < lanes.count; ++lane) data[lanes.offset(t, lane) + places[k]] = narrowed<S>(row[lane]);
    }
  });
}

}  // namespace hqf::HQF_ARCH
