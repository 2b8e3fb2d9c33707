// Products of matrices whose every entry is summed in one order, whatever the number of threads, of rows and of
// columns. Compiled once per instruction set.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <new>

#include "hqf/lanes.hpp"

namespace hqf::HQF_ARCH {

// A tile of the result that stays in registers: so many rows, of so many vectors each.
constexpr int kTileRows = 6;
constexpr int kTileVectors = HQF_WIDEST == 64 ? 4 : 2;

// The right-hand side is stored as panels of kTileVectors * kLanes<V> columns, one row of a panel after the other.
template <class V>
constexpr int64_t kPanel = int64_t{kTileVectors} * kLanes<V>;

// The first entries of kTileRows rows, `stride` apart; beyond the last of `count` rows, that one again.
template <class T>
struct RowPointers {
  const T* row[kTileRows];

  RowPointers(const T* first, int64_t stride, int64_t count) {
    for (int i = 0; i < kTileRows; ++i) row[i] = first + stride * std::min<int64_t>(i, count - 1);
  }
};

// sum[i][j] += sum over k of left.row[i][k * step] * right[k][j], k ascending.
template <class V, int J>
HQF_INLINE void add_products(const RowPointers<ScalarOf<V>>& left, int64_t step, const ScalarOf<V>* right,
                             int64_t depth, V (&sum)[kTileRows][J]) {
  const ScalarOf<V>* row[kTileRows];
  V own[kTileRows][J];
  _Pragma("GCC unroll 8") for (int i = 0; i < kTileRows; ++i) {
    row[i] = left.row[i];
    _Pragma("GCC unroll 8") for (int j = 0; j < J; ++j) own[i][j] = sum[i][j];
  }
  for (int64_t k = 0; k < depth; ++k) {
    V b[J];
    _Pragma("GCC unroll 8") for (int j = 0; j < J; ++j) b[j] = load<V>(right + j * kLanes<V>);
    _Pragma("GCC unroll 8") for (int i = 0; i < kTileRows; ++i) {
      _Pragma("GCC unroll 8") for (int j = 0; j < J; ++j) own[i][j] += b[j] * *row[i];
      row[i] += step;
    }
    right += J * kLanes<V>;
  }
  _Pragma("GCC unroll 8") for (int i = 0; i < kTileRows; ++i) _Pragma("GCC unroll 8") for (int j = 0; j < J; ++j)
      sum[i][j] = own[i][j];
}

// Aligned memory for vectors, uninitialised.
template <class T>
struct Memory {
  explicit Memory(int64_t count)
      : data(static_cast<T*>(::operator new(static_cast<size_t>(count) * sizeof(T), std::align_val_t{64}))) {}

  T* get() const { return static_cast<T*>(data.get()); }

  std::unique_ptr<void, AlignedDelete> data;
};

inline int64_t rounded_up(int64_t count, int64_t to) { return (count + to - 1) / to * to; }

}  // namespace hqf::HQF_ARCH
