// What host compilers and nvcc spell differently.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define HQF_INLINE __host__ __device__ __forceinline__
#define HQF_NOINLINE inline __host__ __device__ __noinline__
#define HQF_UNROLL _Pragma("unroll")
#else
#if !defined(HQF_INLINE)
#define HQF_INLINE inline __attribute__((always_inline))
#endif
#define HQF_NOINLINE inline __attribute__((noinline))
#if !defined(HQF_UNROLL)
#define HQF_UNROLL _Pragma("GCC unroll 8")
#endif
#endif

namespace hqf {

HQF_INLINE int parity(uint32_t mask) {
#if defined(__CUDA_ARCH__)
  return __popc(mask) & 1;
#else
  return __builtin_popcount(mask) & 1;
#endif
}

}  // namespace hqf
