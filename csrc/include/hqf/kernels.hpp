// The arithmetic of each step of a plan on one vector of circuits, forward and adjoint.
//
// Amplitude i of the state is re[i] + i im[i], of the adjoint state lre[i] + i lim[i]. V is any type with the
// arithmetic of a real number: a vector of lanes on a CPU, float or double in a GPU thread.
//
// A rotation pairs amplitudes (see registers.hpp): in the real form if its string has an odd number of Y, in the
// imaginary one otherwise. With shared angles, the larger of cos and sin is divided out (Ratio); the engine makes up
// for the factors later. The gradient of an angle is Im <lambda| P |psi>, taken at either end of the rotation.
#pragma once

#include <cstdint>

#include "hqf/plan.hpp"
#include "hqf/registers.hpp"
#include "hqf/simd.hpp"

namespace hqf::HQF_ARCH {

// Long sums run in chunks of this many terms, so that rounding does not grow with the register.
constexpr size_t kChunk = 256;

// body(begin, end) for consecutive chunks of [0, count).
template <class Body>
HQF_INLINE void in_chunks(size_t count, const Body& body) {
  for (size_t begin = 0; begin < count; begin += kChunk) body(begin, begin + kChunk < count ? begin + kChunk : count);
}

// --- blocks of real rotations, one plane (real or imaginary parts) at a time ---

// The rotations of a block with shared angles: what Ratio says, for each of them.
template <int K, class V>
struct SharedRotations {
  V ratio[K];
  bool swapped[K];

  explicit SharedRotations(const Ratio<ScalarOf<V>>* ratios) {
    for (int l = 0; l < K; ++l) ratio[l] = splat<V>(ratios[l].value), swapped[l] = ratios[l].swapped;
  }

  template <bool Inverse>
  HQF_INLINE void apply(V (&a)[1 << K]) const {
#pragma GCC unroll 4
    for (int l = 0; l < K; ++l) rotate_ratio<Inverse>(a, l, ratio[l], swapped[l]);
  }
};

// Those of a block with angles of their own in every lane.
template <int K, class V>
struct LaneRotations {
  V c[K], s[K];

  LaneRotations(const V* cosines, const V* sines) {
    for (int l = 0; l < K; ++l) c[l] = cosines[l], s[l] = sines[l];
  }

  template <bool Inverse>
  HQF_INLINE void apply(V (&a)[1 << K]) const {
#pragma GCC unroll 4
    for (int l = 0; l < K; ++l) rotate<Inverse>(a, l, c[l], s[l]);
  }
};

// Gradients of the angles of a block: see add_slope.
template <int K, class V>
struct Slopes {
  V plus[K] = {}, minus[K] = {};

  HQF_INLINE void add(const V (&a)[1 << K], const V (&lam)[1 << K]) {
#pragma GCC unroll 4
    for (int l = 0; l < K; ++l) hqf::HQF_ARCH::add_slope(a, lam, l, plus[l], minus[l]);
  }

  HQF_INLINE void add_to(V* sums) const {
    for (int l = 0; l < K; ++l) sums[l] += plus[l] - minus[l];
  }
};

template <int K, class V, class Rotations>
void real_block(V* plane, const Step& step, const Rotations& rotations) {
  uint32_t offset[1 << K];
  for (int j = 0; j < 1 << K; ++j) offset[j] = step.offsets[j];
  for (const uint32_t base : step.bases) {
    V a[1 << K];
#pragma GCC unroll 8
    for (int j = 0; j < 1 << K; ++j) a[j] = plane[base ^ offset[j]];
    rotations.template apply<false>(a);
#pragma GCC unroll 8
    for (int j = 0; j < 1 << K; ++j) plane[base ^ offset[j]] = a[j];
  }
}

template <int K, class V, class Rotations>
void real_block_adjoint(V* plane, V* adjoint, const Step& step, const Rotations& rotations, V* slopes) {
  uint32_t offset[1 << K];
  for (int j = 0; j < 1 << K; ++j) offset[j] = step.offsets[j];
  in_chunks(step.bases.size(), [&](size_t begin, size_t end) {
    Slopes<K, V> sums;
    for (size_t b = begin; b < end; ++b) {
      const uint32_t base = step.bases[b];
      V a[1 << K], lam[1 << K];
#pragma GCC unroll 8
      for (int j = 0; j < 1 << K; ++j) a[j] = plane[base ^ offset[j]], lam[j] = adjoint[base ^ offset[j]];
      sums.add(a, lam);
      rotations.template apply<true>(a);
      rotations.template apply<true>(lam);
#pragma GCC unroll 8
      for (int j = 0; j < 1 << K; ++j) plane[base ^ offset[j]] = a[j], adjoint[base ^ offset[j]] = lam[j];
    }
    sums.add_to(slopes);
  });
}

// --- blocks of imaginary rotations ---

// c and s are the coefficients of "cos a - i s sin b"; with shared angles (1, ratio) or, swapped, (ratio, 1).

template <int K, class V>
HQF_INLINE void rotate_imaginary(V (&re)[1 << K], V (&im)[1 << K], const V (&c)[K], const V (&s)[K], uint8_t signs) {
#pragma GCC unroll 4
  for (int l = 0; l < K; ++l) {
    const V t = signs >> l & 1 ? -s[l] : s[l];
#pragma GCC unroll 8
    for (int j = 0; j < 1 << K; ++j)
      if (!(j >> l & 1)) rotate_imaginary_pair(re, im, j, j | 1 << l, c[l], t);
  }
}

template <int K, class V>
void imaginary_block(V* re, V* im, const Step& step, const V* cosines, const V* sines) {
  V c[K], s[K];
  for (int l = 0; l < K; ++l) c[l] = cosines[l], s[l] = sines[l];
  uint32_t offset[1 << K];
  for (int j = 0; j < 1 << K; ++j) offset[j] = step.offsets[j];
  for (size_t b = 0; b < step.bases.size(); ++b) {
    V x[1 << K], y[1 << K];
#pragma GCC unroll 8
    for (int j = 0; j < 1 << K; ++j) x[j] = re[step.bases[b] ^ offset[j]], y[j] = im[step.bases[b] ^ offset[j]];
    rotate_imaginary<K>(x, y, c, s, step.signs[b]);
#pragma GCC unroll 8
    for (int j = 0; j < 1 << K; ++j) re[step.bases[b] ^ offset[j]] = x[j], im[step.bases[b] ^ offset[j]] = y[j];
  }
}

// sines are those of the forward step.
template <int K, class V>
void imaginary_block_adjoint(V* re, V* im, V* lre, V* lim, const Step& step, const V* cosines, const V* sines,
                             V* slopes) {
  V c[K], s[K];
  for (int l = 0; l < K; ++l) c[l] = cosines[l], s[l] = -sines[l];
  uint32_t offset[1 << K];
  for (int j = 0; j < 1 << K; ++j) offset[j] = step.offsets[j];
  in_chunks(step.bases.size(), [&](size_t begin, size_t end) {
    V slope[K] = {};
    for (size_t b = begin; b < end; ++b) {
      V x[1 << K], y[1 << K], u[1 << K], v[1 << K];
      const uint8_t signs = step.signs[b];
#pragma GCC unroll 8
      for (int j = 0; j < 1 << K; ++j) {
        const uint32_t i = step.bases[b] ^ offset[j];
        x[j] = re[i], y[j] = im[i], u[j] = lre[i], v[j] = lim[i];
      }
#pragma GCC unroll 4
      for (int l = 0; l < K; ++l) {
        V sum = {};
#pragma GCC unroll 8
        for (int j = 0; j < 1 << K; ++j) sum += u[j] * y[j ^ 1 << l] - v[j] * x[j ^ 1 << l];
        slope[l] += signs >> l & 1 ? -sum : sum;
      }
      rotate_imaginary<K>(x, y, c, s, signs);
      rotate_imaginary<K>(u, v, c, s, signs);
#pragma GCC unroll 8
      for (int j = 0; j < 1 << K; ++j) {
        const uint32_t i = step.bases[b] ^ offset[j];
        re[i] = x[j], im[i] = y[j], lre[i] = u[j], lim[i] = v[j];
      }
    }
    for (int l = 0; l < K; ++l) slopes[l] += slope[l];
  });
}

// --- growing the state ---

// The upper half of
// the state is zero before: b' = +-sin a, a' = cos a.

template <class V>
void grow_real(V* plane, int bits, uint32_t z, V c, V s) {
  const uint32_t half = uint32_t{1} << bits;
  z &= half - 1;
  for (uint32_t i = 0; i < half; ++i) {
    const V a = plane[i];
    plane[i | half] = (z && parity(i & z) ? -s : s) * a;
    plane[i] = c * a;
  }
}

template <class V>
V grow_real_adjoint(V* plane, V* adjoint, int bits, uint32_t z, V c, V s) {
  const uint32_t half = uint32_t{1} << bits;
  z &= half - 1;
  V total = {};
  in_chunks(half, [&](size_t begin, size_t end) {
    V slope = {};
    for (uint32_t i = static_cast<uint32_t>(begin); i < end; ++i) {
      const bool negative = z && parity(i & z);
      const V t = negative ? -s : s;
      const V a = plane[i], b = plane[i | half], la = adjoint[i], lb = adjoint[i | half];
      const V cross = lb * a - la * b;
      slope += negative ? -cross : cross;
      plane[i] = c * a + t * b;
      adjoint[i] = c * la + t * lb;
    }
    total += slope;
  });
  return total;
}

template <class V>
void grow_imaginary(V* re, V* im, int bits, uint32_t z, V c, V s) {
  const uint32_t half = uint32_t{1} << bits;
  for (uint32_t i = 0; i < half; ++i) {
    const V t = parity(i & z) ? -s : s;
    const V x = re[i], y = im[i];
    re[i | half] = t * y;
    im[i | half] = -t * x;
    re[i] = c * x;
    im[i] = c * y;
  }
}

template <class V>
V grow_imaginary_adjoint(V* re, V* im, V* lre, V* lim, int bits, uint32_t z, V c, V s) {
  const uint32_t half = uint32_t{1} << bits;
  V total = {};
  in_chunks(half, [&](size_t begin, size_t end) {
    V slope = {};
    for (uint32_t i = static_cast<uint32_t>(begin); i < end; ++i) {
      const uint32_t k = i | half;
      const bool negative = parity(i & z);
      const V t = negative ? -s : s;
      const V cross = lre[i] * im[k] - lim[i] * re[k] + lre[k] * im[i] - lim[k] * re[i];
      slope += negative ? -cross : cross;
      re[i] = c * re[i] - t * im[k];
      im[i] = c * im[i] + t * re[k];
      lre[i] = c * lre[i] - t * lim[k];
      lim[i] = c * lim[i] + t * lre[k];
    }
    total += slope;
  });
  return total;
}

// --- phases ---

template <class V>
void table_from_real(V* re, V* im, uint32_t size, const ScalarOf<V>* cosines, const ScalarOf<V>* sines) {
  for (uint32_t i = 0; i < size; ++i) {
    const V a = re[i];
    re[i] = a * cosines[i];
    im[i] = a * sines[i];
  }
}

template <class V>
void table(V* re, V* im, uint32_t size, const ScalarOf<V>* cosines, const ScalarOf<V>* sines) {
  for (uint32_t i = 0; i < size; ++i) {
    const V x = re[i], y = im[i];
    re[i] = x * cosines[i] - y * sines[i];
    im[i] = x * sines[i] + y * cosines[i];
  }
}

// slopes[i] accumulates Im(conj(lambda_i) psi_i), the gradient of minus half the phase of entry i.
template <class V>
void table_from_real_adjoint(V* re, V* im, V* lre, V* lim, uint32_t size, const ScalarOf<V>* cosines,
                             const ScalarOf<V>* sines, V* slopes) {
  for (uint32_t i = 0; i < size; ++i) {
    const V c = splat<V>(cosines[i]), s = splat<V>(sines[i]);
    const V a = re[i] * c + im[i] * s;
    slopes[i] -= (lim[i] * c - lre[i] * s) * a;
    lre[i] = lre[i] * c + lim[i] * s;
    re[i] = a;
  }
}

template <class V>
void table_adjoint(V* re, V* im, V* lre, V* lim, uint32_t size, const ScalarOf<V>* cosines, const ScalarOf<V>* sines,
                   V* slopes) {
  for (uint32_t i = 0; i < size; ++i) {
    const V c = splat<V>(cosines[i]), s = splat<V>(sines[i]);
    const V x = re[i] * c + im[i] * s, y = im[i] * c - re[i] * s;
    const V u = lre[i] * c + lim[i] * s, v = lim[i] * c - lre[i] * s;
    slopes[i] += u * y;
    slopes[i] -= v * x;
    re[i] = x, im[i] = y, lre[i] = u, lim[i] = v;
  }
}

template <class V>
void phase(V* re, V* im, uint32_t size, uint32_t z, V c, V s) {
  for (uint32_t i = 0; i < size; ++i) {
    const V t = parity(i & z) ? -s : s;
    const V x = re[i], y = im[i];
    re[i] = c * x + t * y;
    im[i] = c * y - t * x;
  }
}

template <class V>
V phase_adjoint(V* re, V* im, V* lre, V* lim, uint32_t size, uint32_t z, V c, V s) {
  V total = {};
  in_chunks(size, [&](size_t begin, size_t end) {
    V slope = {};
    for (uint32_t i = static_cast<uint32_t>(begin); i < end; ++i) {
      const bool negative = parity(i & z);
      const V cross = lre[i] * im[i] - lim[i] * re[i];
      slope += negative ? -cross : cross;
    }
    total += slope;
  });
  phase<V>(re, im, size, z, c, -s);
  phase<V>(lre, lim, size, z, c, -s);
  return total;
}

}  // namespace hqf::HQF_ARCH
