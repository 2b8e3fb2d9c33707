// Vectors of lanes, one lane a circuit, and their trigonometry.
//
// Everything that is compiled more than once, for different instruction sets, lives in namespace hqf::HQF_ARCH, so that
// the linker never mixes the variants.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#if defined(__AVX__)
#include <immintrin.h>
#endif

#include "hqf/trig.hpp"

// Bytes of the widest vectors of the instruction set that this file is compiled for.
#if defined(__AVX512F__)
#define HQF_WIDEST 64
#elif defined(__AVX2__)
#define HQF_WIDEST 32
#else
#define HQF_WIDEST 16
#endif

namespace hqf::HQF_ARCH {

template <class T, int Bytes>
struct VectorOf {
  typedef T type __attribute__((vector_size(Bytes)));
};

// A vector of Bytes / sizeof(T) lanes of float or double.
template <class T, int Bytes>
using Vector = typename VectorOf<T, Bytes>::type;

template <class V>
using ScalarOf = std::remove_cvref_t<decltype(V{}[0])>;

template <class V>
constexpr int kLanes = sizeof(V) / sizeof(ScalarOf<V>);

template <class V>
using IntsOf = Vector<std::conditional_t<sizeof(ScalarOf<V>) == 4, int32_t, int64_t>, sizeof(V)>;

template <class V>
HQF_INLINE V splat(ScalarOf<V> value) {
  return V{} + value;
}

template <class V>
HQF_INLINE V load(const ScalarOf<V>* from) {
  V v;
  std::memcpy(&v, from, sizeof v);
  return v;
}

template <class V>
HQF_INLINE void store(ScalarOf<V>* to, V v) {
  std::memcpy(to, &v, sizeof v);
}

// The same vector, in a register: compilers would rather load it from memory again at each use.
template <class V>
HQF_INLINE V in_register(V v) {
#if defined(__x86_64__)
  asm("" : "+v"(v));
#endif
  return v;
}

// Whether any lane of a comparison holds.
template <class V>
HQF_INLINE bool any(IntsOf<V> truth) {
#if defined(__AVX512F__)
  if constexpr (sizeof(V) == 64) return _mm512_test_epi64_mask((__m512i)truth, (__m512i)truth) != 0;
#endif
#if defined(__AVX__)
  if constexpr (sizeof(V) == 32) return !_mm256_testz_si256((__m256i)truth, (__m256i)truth);
#endif
  uint64_t words[sizeof(V) / 8], joined = 0;
  std::memcpy(words, &truth, sizeof words);
  for (const uint64_t word : words) joined |= word;
  return joined != 0;
}

// x for |x| up to 10^4 (float) or 10^5 (double), where multiples of HalfPi are exact; further out x modulo 2 pi. NaN
// for NaN and infinities.
template <class V>
HQF_INLINE V tame_angle(V x) {
  using T = ScalarOf<V>;
  constexpr T kLimit = kExactAngles<T>;
  if (__builtin_expect(any<V>((x > kLimit) | (x < -kLimit)), 0))
    for (int k = 0; k < kLanes<V>; ++k) {
      const double wide = x[k];
      if (!(wide >= -kLimit && wide <= kLimit)) x[k] = static_cast<T>(std::atan2(std::sin(wide), std::cos(wide)));
    }
  return x;
}

// x modulo 2 pi, in about [-pi, pi], for any finite x; NaN for NaN and infinities.
template <class V>
HQF_INLINE V reduce_angle(V x) {
  using T = ScalarOf<V>;
  x = tame_angle<V>(x);
  const V turns = (x * T(0.15915494309189533577) + kRounding<T>)-kRounding<T>;
  return minus_half_pis<T>(x, T(4) * turns);
}

// Sine and cosine of a tame angle, to about an ulp.
template <class V>
HQF_INLINE void sincos(V x, V& sine, V& cosine) {
  using T = ScalarOf<V>;
  using I = IntsOf<V>;
  const V shifted = x * T(0.63661977236758134308) + kRounding<T>;
  const I quadrant = (I)shifted;
  const V r = minus_half_pis<T>(x, shifted - kRounding<T>);
  V s, c;
  sincos_polynomials<T>(r, s, c);
  constexpr int kToSign = 8 * sizeof(T) - 2;  // moves bit 1 to the sign bit
  const I odd = (quadrant & 1) != 0;
  sine = (V)((I)(odd ? c : s) ^ ((quadrant & 2) << kToSign));
  cosine = (V)((I)(odd ? s : c) ^ (((quadrant + 1) & 2) << kToSign));
}

}  // namespace hqf::HQF_ARCH
