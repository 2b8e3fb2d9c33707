// Reduction of angles and polynomials for sine and cosine, for numbers and for vectors of them.
#pragma once

#include "hqf/portable.hpp"

namespace hqf::HQF_ARCH {

// pi / 2 in three parts of few bits each, so that multiples of the first two are exact (Cody and Waite).
template <class T>
struct HalfPi {
  static constexpr T first = T(1.5703125), second = T(4.837512969970703125e-4), third = T(7.54978995489188216e-8);
};
template <>
struct HalfPi<double> {
  static constexpr double first = 1.57079632673412561417, second = 6.07710050630396597660e-11,
                          third = 2.02226624879595063154e-21;
};

// Beyond this, multiples of HalfPi stop being exact.
template <class T>
constexpr T kExactAngles = sizeof(T) == 4 ? T(1e4) : T(1e5);

// Added and subtracted, it rounds numbers far below it to integers, and leaves those in the low bits of the sum.
template <class T>
constexpr T kRounding = sizeof(T) == 4 ? T(12582912) : T(6755399441055744);  // 1.5 * 2^mantissa

template <class T, class V>
HQF_INLINE V minus_half_pis(V x, V count) {
  return ((x - count * HalfPi<T>::first) - count * HalfPi<T>::second) - count * HalfPi<T>::third;
}

// Sine and cosine of r in [-pi/4, pi/4]: the minimax polynomials of the Cephes library (S. Moshier).
template <class T, class V>
HQF_INLINE void sincos_polynomials(V r, V& s, V& c) {
  const V z = r * r;
  if constexpr (sizeof(T) == 4) {
    s = r + r * z * (T(-1.6666654611e-1) + z * (T(8.3321608736e-3) + z * T(-1.9515295891e-4)));
    c = T(1) - T(0.5) * z +
        z * z * (T(4.166664568298827e-2) + z * (T(-1.388731625493765e-3) + z * T(2.443315711809948e-5)));
  } else {
    s = r + r * z *
                (T(-1.66666666666666307295e-1) +
                 z * (T(8.33333333332211858878e-3) +
                      z * (T(-1.98412698295895385996e-4) +
                           z * (T(2.75573136213857245213e-6) +
                                z * (T(-2.50507477628578072866e-8) + z * T(1.58962301576546568060e-10))))));
    c = T(1) - T(0.5) * z +
        z * z *
            (T(4.16666666666665929218e-2) +
             z * (T(-1.38888888888730564116e-3) +
                  z * (T(2.48015872888517045348e-5) +
                       z * (T(-2.75573141792967388112e-7) +
                            z * (T(2.08757008419747316778e-9) + z * T(-1.13585365213876817300e-11))))));
  }
}

}  // namespace hqf::HQF_ARCH
