// Threads of a GPU as lanes of a circuit (the policy that hqf/group.hpp asks for): one thread, a part of a warp, a
// warp, or a block of several warps.
#pragma once

#include "hqf/group.hpp"

namespace hqf::cuda {

template <class Number>
struct ThreadLanes {
  using T = Number;
  using V = Number;
  using Index = uint32_t;

  int lane_bits;
  uint32_t lane;  // in the circuit
  T* numbers;     // memory of the circuit, numbers_stride apart
  int numbers_stride;
  T* planes;  // exchange memory of the warp's circuits, entry by entry, or of the block's one circuit
  uint32_t plane_size;
  int shift;         // circuits of a warp lie 2^shift apart, so that they meet different banks,
  uint32_t circuit;  // this one at this place
  T* slots;          // of this thread, slot_stride apart
  int slot_stride;
  T* warp_sums;  // of the circuit, one for each warp

  __device__ __forceinline__ T splat(T x) const { return x; }

  __device__ __forceinline__ T negate_odd(uint32_t mask, T v) const { return parity(lane & mask) ? -v : v; }

  __device__ __forceinline__ T choose(uint32_t bit, T a, T b) const { return lane & bit ? b : a; }

  __device__ __forceinline__ T partner(uint32_t bit, T v) const {
    if (bit < 32) return __shfl_xor_sync(0xffffffff, v, bit);
    __syncthreads();
    planes[lane] = v;
    __syncthreads();
    return planes[lane ^ bit];
  }

  // The value of 2^bits neighbours together, which `join` makes of two at a time.
  template <class F>
  __device__ __forceinline__ T reduce_in_warp(int bits, T v, const F& join) const {
    for (int b = 0; b < bits; ++b) v = join(v, __shfl_xor_sync(0xffffffff, v, 1 << b));
    return v;
  }

  template <class F>
  __device__ __forceinline__ T reduce(T v, const F& join) const {
    if (lane_bits <= kWarpBits) return reduce_in_warp(lane_bits, v, join);
    v = reduce_in_warp(kWarpBits, v, join);
    __syncthreads();
    if (lane % 32 == 0) warp_sums[lane / 32] = v;
    __syncthreads();
    const int bits = lane_bits - kWarpBits;
    return reduce_in_warp(bits, warp_sums[lane & ((1 << bits) - 1)], join);
  }

  __device__ __forceinline__ T sum(T v) const {
    return reduce(v, [](T a, T b) { return a + b; });
  }

  __device__ __forceinline__ T largest(T v) const {
    return reduce(v, [](T a, T b) { return fmax(a, b); });
  }

  __device__ __forceinline__ T larger(T v, T w) const { return fmax(v, fabs(w)); }

  __device__ __forceinline__ void add(int slot, T v) const { slots[static_cast<size_t>(slot) * slot_stride] += v; }

  __device__ __forceinline__ T& memory(int k) const { return numbers[k * numbers_stride]; }

  template <class F>
  __device__ __forceinline__ void each(int count, const F& f) const {
    for (int k = static_cast<int>(lane); k < count; k += 1 << lane_bits) f(k);
  }

  template <class F>
  __device__ __forceinline__ void once(const F& f) const {
    if (lane == 0) f();
  }

  __device__ __forceinline__ T load(const T* p) const { return __ldg(p + lane); }

  __device__ __forceinline__ Index here() const { return lane; }

  __device__ __forceinline__ Index address(const uint32_t* columns) const {
    uint32_t result = 0;
    for (int b = 0; b < lane_bits; ++b) result ^= lane >> b & 1 ? columns[b] : 0;
    return result;
  }

  __device__ __forceinline__ T& exchanged(int plane, uint32_t x) const {
    return planes[plane * plane_size + (x << shift | circuit)];
  }

  __device__ __forceinline__ void send(int plane, Index at, uint32_t x, T v) const { exchanged(plane, at ^ x) = v; }

  __device__ __forceinline__ T receive(int plane, Index at, uint32_t x) const { return exchanged(plane, at ^ x); }

  __device__ __forceinline__ void sync() const {
    if (lane_bits > kWarpBits)
      __syncthreads();
    else
      __syncwarp();
  }

  __device__ __forceinline__ T inverse_root(T x) const { return rsqrt(x); }
};

}  // namespace hqf::cuda
