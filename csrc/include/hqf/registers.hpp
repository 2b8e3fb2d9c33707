// Rotations of a few amplitudes that are held in registers, forward and adjoint: what CPU and GPU share.
//
// V is any type with the arithmetic of a real number: a vector of lanes on a CPU, float or double in a GPU thread.
// Amplitude j of an array is paired with amplitude j | 1 << bit. A real rotation takes a pair (a, b) to
//     a' = cos a - sin b,  b' = sin a + cos b                  angles halved
// and an imaginary one, s the sign of the pair, to
//     a' = cos a - i s sin b,  b' = cos b - i s sin a
// The bit must be a constant after inlining, so that the arrays stay in registers.
#pragma once

#include "hqf/portable.hpp"

namespace hqf::HQF_ARCH {

// A shared rotation up to a factor: cos (1, -ratio; ratio, 1), or, if swapped, sin (ratio, -1; 1, ratio). Dividing the
// larger of cosine and sine out leaves two multiply-adds a pair.
template <class T>
struct Ratio {
  T value;
  bool swapped;
};

template <bool Inverse, class V, class C, int N>
HQF_INLINE void rotate_ratio(V (&a)[N], int bit, const C& ratio, bool swapped) {
  if (swapped) {
    HQF_UNROLL
    for (int j = 0; j < N; ++j)
      if (!(j >> bit & 1)) {
        const V x = a[j], y = a[j | 1 << bit];
        a[j] = Inverse ? ratio * x + y : ratio * x - y;
        a[j | 1 << bit] = Inverse ? ratio * y - x : ratio * y + x;
      }
  } else {
    HQF_UNROLL
    for (int j = 0; j < N; ++j)
      if (!(j >> bit & 1)) {
        const V x = a[j], y = a[j | 1 << bit];
        a[j] = Inverse ? x + ratio * y : x - ratio * y;
        a[j | 1 << bit] = Inverse ? y - ratio * x : y + ratio * x;
      }
  }
}

template <bool Inverse, class V, class C, int N>
HQF_INLINE void rotate(V (&a)[N], int bit, const C& c, const C& s) {
  HQF_UNROLL
  for (int j = 0; j < N; ++j)
    if (!(j >> bit & 1)) {
      const V x = a[j], y = a[j | 1 << bit];
      a[j] = Inverse ? c * x + s * y : c * x - s * y;
      a[j | 1 << bit] = Inverse ? c * y - s * x : s * x + c * y;
    }
}

// Adds to the gradient of a real rotation's angle, plus - minus: two chains of multiply-adds are shorter than one.
template <class V, int N>
HQF_INLINE void add_slope(const V (&a)[N], const V (&lam)[N], int bit, V& plus, V& minus) {
  HQF_UNROLL
  for (int j = 0; j < N; ++j)
    if (!(j >> bit & 1)) {
      plus += lam[j | 1 << bit] * a[j];
      minus += lam[j] * a[j | 1 << bit];
    }
}

// Pair j of an imaginary rotation: c and s as in "cos a - i s sin b".
template <class V, class C, class S, int N>
HQF_INLINE void rotate_imaginary_pair(V (&re)[N], V (&im)[N], int j, int k, const C& c, const S& s) {
  const V re_a = re[j], im_a = im[j], re_b = re[k], im_b = im[k];
  re[j] = c * re_a + s * im_b;
  im[j] = c * im_a - s * re_b;
  re[k] = c * re_b + s * im_a;
  im[k] = c * im_b - s * re_a;
}

}  // namespace hqf::HQF_ARCH
