// Numbers as they are stored in tensors.
#pragma once

#include <cstdint>
#include <type_traits>

#include "hqf/engine.hpp"
#include "hqf/portable.hpp"

#if defined(__CUDACC__)
#include <cuda_fp16.h>
#endif

namespace hqf::HQF_ARCH {

#if defined(__CUDACC__)
using Float16 = __half;
#elif defined(__aarch64__) && !defined(__clang__) && __GNUC__ < 13  // has no _Float16 in C++
using Float16 = __fp16;
#else
using Float16 = _Float16;
#endif

struct BFloat16 {
  uint16_t bits;
};

template <class T, class S>
HQF_INLINE T widened(S value) {
  if constexpr (std::is_same_v<S, BFloat16>)
    return static_cast<T>(__builtin_bit_cast(float, static_cast<uint32_t>(value.bits) << 16));
  else if constexpr (std::is_same_v<S, Float16>)
    return static_cast<T>(static_cast<float>(value));
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
      return body(static_cast<Float16*>(nullptr));
    case DType::bf16:
      return body(static_cast<BFloat16*>(nullptr));
    case DType::f32:
      return body(static_cast<float*>(nullptr));
    case DType::f64:
      return body(static_cast<double*>(nullptr));
  }
}

template <class T>
HQF_INLINE T read_as(const void* data, DType dtype, int64_t offset) {
  T value{};
  with_storage(dtype, [&](auto* tag) {
    value = widened<T>(static_cast<const std::remove_pointer_t<decltype(tag)>*>(data)[offset]);
  });
  return value;
}

template <class T>
HQF_INLINE void write_as(void* data, DType dtype, int64_t offset, T value) {
  with_storage(dtype, [&](auto* tag) {
    using S = std::remove_pointer_t<decltype(tag)>;
    static_cast<S*>(data)[offset] = narrowed<S>(value);
  });
}

}  // namespace hqf::HQF_ARCH
