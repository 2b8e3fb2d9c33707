// One circuit on a group of lanes: the arithmetic of a script, forward and adjoint.
//
// Lanes is the policy that says what a lane is: a thread of a GPU (csrc/cuda/lanes.cuh), or an entry of an array on the
// host, where the tests run this very source (csrc/tests/emulated.cpp). It has
//     T, V                   a number; one number in every lane
//     Index                  an address in every lane
//     lane_bits
//     splat(x)               x in every lane
//     negate_odd(mask, v)    v, negated in lanes that share an odd number of bits with mask
//     choose(bit, a, b)      a in lanes without that bit, b in those with it
//     partner(bit, v)        the value of the lane that differs in that bit
//     sum(v)                 the sum over the lanes, a T
//     largest(v)             the largest over the lanes, a T
//     larger(v, w)           the larger of v and |w| in each lane
//     add(slot, v)           adds to a slot that every lane keeps from circuit to circuit
//     memory(k)              number k of the circuit's memory, shared by the lanes
//     each(count, f)         f(0) ... f(count - 1), shared out among the lanes
//     once(f)                f() by one of the lanes
//     address(columns)       xor of the columns of the lane's bits
//     here()                 the address that is the lane's number
//     send(plane, at, x, v)  writes v to addresses `at ^ x` of a plane of the circuit's exchange memory
//     receive(plane, at, x)  reads from there
//     exchanged(plane, x)    the number at one address
//     load(p)                p[lane]
//     sync()                 makes what lanes wrote to memory visible to the others
//     inverse_root(x)        x^(-1/2), of a T
// All lanes of a group, and all groups of a warp or block, take the same path: nothing branches on a lane's number.
#pragma once

#include <cmath>
#include <cstdint>
#include <utility>

#include "hqf/call.hpp"
#include "hqf/registers.hpp"
#include "hqf/schedule.hpp"
#include "hqf/trig.hpp"

namespace hqf::HQF_ARCH {

// body(integral_constant k) for k = 0 ... N - 1.
template <int N, class Body>
HQF_INLINE void static_for(const Body& body) {
  [&]<int... K>(std::integer_sequence<int, K...>) {
    (body(std::integral_constant<int, K>{}), ...);
  }(std::make_integer_sequence<int, N>{});
}

template <class T>
HQF_NOINLINE T reduce_wide_angle(T x) {
  const double wide = x;
  return static_cast<T>(atan2(sin(wide), cos(wide)));
}

// x modulo 2 pi, in about [-pi, pi], for any finite x; NaN for NaN and infinities.
template <class T>
HQF_INLINE T reduce_number(T x) {
  if (!(x >= -kExactAngles<T> && x <= kExactAngles<T>)) return reduce_wide_angle(x);
  const T turns = (x * T(0.15915494309189533577) + kRounding<T>)-kRounding<T>;
  return minus_half_pis<T>(x, T(4) * turns);
}

template <class T>
HQF_INLINE void sincos_number(T x, T& sine, T& cosine) {
  const T count = (x * T(0.63661977236758134308) + kRounding<T>)-kRounding<T>;
  T s, c;
  sincos_polynomials<T>(minus_half_pis<T>(x, count), s, c);
  const int quadrant = count == count ? static_cast<int>(count) : 0;
  sine = quadrant & 1 ? c : s;
  cosine = quadrant & 1 ? s : c;
  if (quadrant & 2) sine = -sine;
  if ((quadrant + 1) & 2) cosine = -cosine;
}

// What one set of weights comes to (see weights.hpp, which computes it).
template <class T>
struct Coefficients {
  const T* turns;  // two for each turn, as its form says
  const T* segment_scale;
  const T* slope_scale;  // of each op
  const T* cosines;      // of the tables, by coordinate
  const T* sines;
};

template <class Lanes, int Bits, bool Complex>
class Group {
  using T = typename Lanes::T;
  using V = typename Lanes::V;
  static constexpr int N = 1 << Bits;

  struct State {
    V re[N], im[Complex ? N : 1];
  };

 public:
  HQF_INLINE Group(const Script& script, const Coefficients<T>& coefficients, const Call& call, Lanes& lanes)
      : s_(script), w_(coefficients), call_(call), lanes_(lanes) {}

  // offset: of the sample in each tensor. Nothing is written unless `valid`.
  HQF_INLINE void forward(const int64_t (&offset)[kTensors], bool valid) {
    State psi;
    prepare_angles(offset);
    start(psi, offset);
    for (int i = s_.grown; i < s_.n_ops; ++i) {
      const Op op = s_.ops[i];
      if (op.kind >= OpKind::read_diagonal)
        read(psi, op);
      else
        apply(psi, op);
    }
    lanes_.sync();
    const auto& to = call_.tensor[kOutput];
    lanes_.each(s_.n_readings, [&](int k) {
      if (valid) write_as<T>(to.data, to.dtype, offset[kOutput] + to.place(k), lanes_.memory(readings() + k));
    });
    if (s_.parts) write_basis(offset, valid);
  }

  // Takes output as a gradient, writes the gradient of the inputs, and adds to the slots.
  HQF_INLINE void backward(const int64_t (&offset)[kTensors], bool valid) {
    State psi, lam;
    prepare_angles(offset);
    const auto& from = call_.tensor[kOutput];
    lanes_.each(s_.n_readings, [&](int k) {
      lanes_.memory(readings() + k) = valid ? read_as<T>(from.data, from.dtype, offset[kOutput] + from.place(k)) : T(0);
    });
    start(psi, offset);
    for (int i = s_.grown; i < s_.n_evolve; ++i) apply(psi, s_.ops[i]);
    HQF_UNROLL
    for (int j = 0; j < N; ++j) {
      lam.re[j] = lanes_.splat(T(0));
      if constexpr (Complex) lam.im[j] = lanes_.splat(T(0));
    }
    // First through the readings, which start lambda, and then back through everything.
    for (int i = s_.n_evolve, step = 1; i >= s_.grown; i += step) {
      if (i == s_.n_ops) {
        step = -1;
        continue;
      }
      const Op op = s_.ops[i];
      if (op.kind == OpKind::move) {
        move(psi, op, step < 0);
        move(lam, op, step < 0);
      } else if (op.kind < OpKind::read_diagonal) {
        undo(psi, lam, op, w_.slope_scale[i]);
      } else if (step > 0) {
        start_adjoint(psi, lam, op, offset, valid);
      }
    }
    T along = T(0);
    if (s_.n_amplitudes)
      along = amplitude_gradient(psi, lam);
    else
      shrink(psi, lam);
    lanes_.sync();
    const auto& to = call_.tensor[kGradInputs];
    const auto& inputs = call_.tensor[kInputs];
    lanes_.each(s_.n_inputs, [&](int p) {
      T total = T(0);
      for (int k = s_.input_start[p]; k < s_.input_start[p + 1]; ++k)
        total += lanes_.memory(2 * s_.n_own + s_.input_shares[k].index) * static_cast<T>(s_.input_shares[k].factor);
      const int amplitude = p - s_.first_amplitude;
      if (amplitude >= 0 && amplitude < s_.n_amplitudes) {
        // psi = x / |x|: the gradient of x is (g - psi (psi . g)) / |x| with g = 2 Re lambda.
        const T x = read_as<T>(inputs.data, inputs.dtype, offset[kInputs] + inputs.place(p));
        const T unit = x * root_scale_ * root_scale_ * scale_;
        total += (lanes_.exchanged(0, amplitude) - along * unit) * scale_ * root_scale_ * root_scale_;
      }
      if (valid) write_as<T>(to.data, to.dtype, offset[kGradInputs] + to.place(p), total);
    });
  }

 private:
  // --- angles ---

  // A circuit's memory: cosine and sine of each angle of its own, the gradients of these angles, then what is read, or
  // its gradients.
  HQF_INLINE int readings() const { return 3 * s_.n_own; }

  // Cosines and sines of the angles of this circuit, two numbers each.
  HQF_INLINE void prepare_angles(const int64_t (&offset)[kTensors]) {
    const auto& from = call_.tensor[kInputs];
    lanes_.sync();
    lanes_.each(s_.n_own, [&](int k) {
      const int t = s_.own[k];
      const Turn& turn = s_.turns[t];
      T half = w_.turns[2 * t];
      for (int i = turn.first_input; i < turn.first_input + turn.n_inputs; ++i) {
        const T x = read_as<T>(from.data, from.dtype, offset[kInputs] + from.place(s_.input_terms[i].index));
        half += reduce_number<T>(x * static_cast<T>(0.5 * s_.input_terms[i].factor));
      }
      T sine, cosine;
      sincos_number<T>(half, sine, cosine);
      lanes_.memory(2 * k) = cosine;
      lanes_.memory(2 * k + 1) = sine;
    });
  }

  // The two coefficients of a turn.
  HQF_INLINE void coefficients(int turn, T& first, T& second) const {
    const int own = s_.turns[turn].own;
    first = own >= 0 ? lanes_.memory(2 * own) : w_.turns[2 * turn];
    second = own >= 0 ? lanes_.memory(2 * own + 1) : w_.turns[2 * turn + 1];
  }

  // A slope whose sum over the lanes is the gradient of the turn's angle.
  HQF_INLINE void add_slope_of(int turn, const V& slope, T scale) {
    const Turn& t = s_.turns[turn];
    if (t.slot >= 0) lanes_.add(t.slot, slope * scale);
    if (t.own >= 0) {
      const T total = lanes_.sum(slope) * scale;
      lanes_.once([&] { lanes_.memory(2 * s_.n_own + t.own) = total; });
    }
  }

  HQF_INLINE uint32_t lane_part(uint32_t mask) const { return mask & ((uint32_t{1} << s_.lane_bits) - 1); }

  // body(j, t_j) for register j = 0 ... 2^B - 1, where t_j is t with the sign of the amplitude: negated where its
  // coordinate has odd overlap with mask. In Gray code order, so that one register holds the running sign.
  template <int B, class Body>
  HQF_INLINE void with_signs(uint32_t mask, const V& start, const Body& body) const {
    const uint32_t registers = mask >> s_.lane_bits;
    V t = lanes_.negate_odd(lane_part(mask), start);
    body(std::integral_constant<int, 0>{}, t);
    static_for<(1 << B) - 1>([&](auto previous) {
      constexpr int k = previous + 1, flipped = ctz(k);
      t = t * (registers >> flipped & 1 ? T(-1) : T(1));
      body(std::integral_constant<int, (k ^ k >> 1)>{}, t);
    });
  }

  static constexpr int ctz(int k) { return k & 1 ? 0 : 1 + ctz(k >> 1); }

  // --- the state ---

  HQF_INLINE void start(State& psi, const int64_t (&offset)[kTensors]) {
    if (s_.n_amplitudes)
      read_amplitudes(psi, offset);
    else
      lanes_.sync(), grow(psi);
  }

  HQF_INLINE void read_amplitudes(State& psi, const int64_t (&offset)[kTensors]) {
    const auto& from = call_.tensor[kInputs];
    lanes_.each(1 << s_.bits, [&](int k) {
      lanes_.exchanged(0, static_cast<uint32_t>(k)) =
          k < s_.n_amplitudes ? read_as<T>(from.data, from.dtype, offset[kInputs] + from.place(s_.first_amplitude + k))
                              : T(0);
    });
    lanes_.sync();
    V largest = lanes_.splat(T(0)), norm2 = lanes_.splat(T(0));
    HQF_UNROLL
    for (int j = 0; j < N; ++j) {
      psi.re[j] = lanes_.receive(0, lanes_.here(), static_cast<uint32_t>(j) << s_.lane_bits);
      largest = lanes_.larger(largest, psi.re[j]);
    }
    // In units of the largest: squares of what came could over- or underflow. Two factors, as one could do so itself.
    root_scale_ = lanes_.inverse_root(lanes_.largest(largest));
    HQF_UNROLL
    for (int j = 0; j < N; ++j) {
      psi.re[j] = psi.re[j] * root_scale_ * root_scale_;
      norm2 += psi.re[j] * psi.re[j];
    }
    scale_ = lanes_.inverse_root(lanes_.sum(norm2));
    const T factor = w_.segment_scale[0] * scale_;
    HQF_UNROLL
    for (int j = 0; j < N; ++j) {
      psi.re[j] = psi.re[j] * factor;
      if constexpr (Complex) psi.im[j] = psi.re[j] * T(0);
    }
  }

  // A rotation about a new string doubles the state: b' = +-sin a (times -i if imaginary), a' = cos a. Bits that have
  // not grown yet are handled as if the state did not depend on them, so that growing takes no exchange between lanes.
  HQF_INLINE void grow(State& psi) {
    V x = lanes_.splat(w_.segment_scale[0]), y = lanes_.splat(T(0));
    for (int b = 0; b < s_.lane_bits; ++b) {
      const uint32_t bit = uint32_t{1} << b;
      if (b >= s_.grown) {
        x = lanes_.choose(bit, x, lanes_.splat(T(0)));
        if constexpr (Complex) y = lanes_.choose(bit, y, lanes_.splat(T(0)));
        continue;
      }
      const Op op = s_.ops[b];
      T c, s;
      coefficients(op.first, c, s);
      const V t = lanes_.negate_odd(s_.turns[op.first].mask, lanes_.splat(s));
      if (Complex && op.kind == OpKind::grow_imaginary) {
        const V real = lanes_.choose(bit, c * x, t * y);
        y = lanes_.choose(bit, c * y, -(t * x));
        x = real;
      } else {
        x = lanes_.choose(bit, c * x, t * x);
        if constexpr (Complex) y = lanes_.choose(bit, c * y, t * y);
      }
    }
    psi.re[0] = x;
    if constexpr (Complex) psi.im[0] = y;
    static_for<Bits>([&](auto l) {
      constexpr int half = 1 << l;
      const int b = s_.lane_bits + l;
      if (b >= s_.grown) {
        HQF_UNROLL
        for (int j = 0; j < half; ++j) {
          psi.re[j | half] = psi.re[j] * T(0);
          if constexpr (Complex) psi.im[j | half] = psi.im[j] * T(0);
        }
        return;
      }
      const Op op = s_.ops[b];
      T c, s;
      coefficients(op.first, c, s);
      [[maybe_unused]] const bool imaginary = op.kind == OpKind::grow_imaginary;
      this->template with_signs<decltype(l)::value>(s_.turns[op.first].mask, lanes_.splat(s), [&](auto j, const V& t) {
        const V a = psi.re[j];
        psi.re[j] = c * a;
        if constexpr (Complex) {
          const V d = psi.im[j];
          psi.im[j] = c * d;
          psi.re[j | half] = t * (imaginary ? d : a);
          psi.im[j | half] = t * (imaginary ? -a : d);
        } else {
          psi.re[j | half] = t * a;
        }
      });
    });
  }

  // Undoes grow() and takes the gradients of its angles, the last bit first.
  HQF_INLINE void shrink(State& psi, State& lam) {
    static_for<Bits>([&](auto reversed) {
      constexpr int l = Bits - 1 - reversed, half = 1 << l;
      const int b = s_.lane_bits + l;
      if (b >= s_.grown) return;
      const Op op = s_.ops[b];
      T c, s;
      coefficients(op.first, c, s);
      V slope = lanes_.splat(T(0));
      with_signs<l>(s_.turns[op.first].mask, lanes_.splat(T(1)), [&](auto j, const V& sign) {
        shrink_pair(op.kind == OpKind::grow_imaginary, c, sign * s, sign, psi.re[j], psi.im[Complex ? j : 0], lam.re[j],
                    lam.im[Complex ? j : 0], psi.re[j | half], psi.im[Complex ? j | half : 0], lam.re[j | half],
                    lam.im[Complex ? j | half : 0], slope);
      });
      add_slope_of(op.first, slope, w_.slope_scale[b]);
    });
    // Now every lane has one amplitude, and the bits that are left are in the lane's number. Both lanes of a pair
    // compute what the smaller state has in common, so a sum over all lanes counts it as often as there are copies.
    T copies = T(1);
    for (int b = s_.lane_bits - 1; b >= 0; --b) {
      const uint32_t bit = uint32_t{1} << b;
      copies *= T(0.5);
      const auto both = [&](V& low, V& high, V& value) {
        const V other = lanes_.partner(bit, value);
        low = lanes_.choose(bit, value, other);
        high = lanes_.choose(bit, other, value);
      };
      V a, d, la, ld, b_re, b_im, lb_re, lb_im;
      both(a, b_re, psi.re[0]);
      both(la, lb_re, lam.re[0]);
      if constexpr (Complex) {
        both(d, b_im, psi.im[0]);
        both(ld, lb_im, lam.im[0]);
      }
      if (b < s_.grown) {
        const Op op = s_.ops[b];
        T c, s;
        coefficients(op.first, c, s);
        const V sign = lanes_.negate_odd(s_.turns[op.first].mask, lanes_.splat(T(1)));
        V slope = lanes_.splat(T(0));
        shrink_pair(op.kind == OpKind::grow_imaginary, c, sign * s, sign, a, d, la, ld, b_re, b_im, lb_re, lb_im,
                    slope);
        add_slope_of(op.first, slope, w_.slope_scale[b] * copies);
      }
      psi.re[0] = a, lam.re[0] = la;
      if constexpr (Complex) psi.im[0] = d, lam.im[0] = ld;
    }
  }

  // (re, im) + i (..) are the amplitudes a of psi and lam with the bit clear, which take on the smaller state; the
  // others are those with it set. t is the signed sine.
  HQF_INLINE static void shrink_pair(bool imaginary, T c, const V& t, const V& sign, V& re, V& im, V& lre, V& lim,
                                     const V& re_b, const V& im_b, const V& lre_b, const V& lim_b, V& slope) {
    if constexpr (Complex) {
      if (imaginary) {
        slope += sign * (lre * im_b - lim * re_b + lre_b * im - lim_b * re);
        re = c * re - t * im_b;
        im = c * im + t * re_b;
        lre = c * lre - t * lim_b;
        lim = c * lim + t * lre_b;
        return;
      }
      slope += sign * (lim_b * im - lim * im_b);
      im = c * im + t * im_b;
      lim = c * lim + t * lim_b;
    }
    slope += sign * (lre_b * re - lre * re_b);
    re = c * re + t * re_b;
    lre = c * lre + t * lre_b;
  }

  // --- ops ---

  // Lays the amplitudes out anew; `back` undoes it.
  HQF_INLINE void move(State& psi, const Op& op, bool back) {
    const uint32_t* from = s_.columns + op.first + (back ? s_.bits : 0);
    const uint32_t* to = s_.columns + op.first + (back ? 0 : s_.bits);
    auto lane = lanes_.address(from);
    lanes_.sync();
    with_addresses(from, [&](auto j, uint32_t at) {
      lanes_.send(0, lane, at, psi.re[j]);
      if constexpr (Complex) lanes_.send(1, lane, at, psi.im[j]);
    });
    lane = lanes_.address(to);
    lanes_.sync();
    with_addresses(to, [&](auto j, uint32_t at) {
      psi.re[j] = lanes_.receive(0, lane, at);
      if constexpr (Complex) psi.im[j] = lanes_.receive(1, lane, at);
    });
  }

  // body(j, xor of the columns of the bits of register j), in Gray code order.
  template <class Body>
  HQF_INLINE void with_addresses(const uint32_t* columns, const Body& body) const {
    uint32_t at = 0;
    body(std::integral_constant<int, 0>{}, at);
    static_for<N - 1>([&](auto previous) {
      constexpr int k = previous + 1;
      at ^= columns[s_.lane_bits + ctz(k)];
      body(std::integral_constant<int, (k ^ k >> 1)>{}, at);
    });
  }

  template <bool Inverse>
  HQF_INLINE void turn_bit(State& psi, bool own, int bit, T first, T second) {
    if (own) {
      rotate<Inverse>(psi.re, bit, first, second);
      if constexpr (Complex) rotate<Inverse>(psi.im, bit, first, second);
    } else {
      rotate_ratio<Inverse>(psi.re, bit, first, second != T(0));
      if constexpr (Complex) rotate_ratio<Inverse>(psi.im, bit, first, second != T(0));
    }
  }

  // Every amplitude times its cosine + i sine.
  HQF_INLINE void multiply_table(State& psi, int table) const {
    if constexpr (Complex) {
      const size_t start = static_cast<size_t>(table) << s_.bits;
      HQF_UNROLL
      for (int j = 0; j < N; ++j) {
        const V c = lanes_.load(w_.cosines + start + (static_cast<size_t>(j) << s_.lane_bits));
        const V s = lanes_.load(w_.sines + start + (static_cast<size_t>(j) << s_.lane_bits));
        const V x = psi.re[j], y = psi.im[j];
        psi.re[j] = x * c - y * s;
        psi.im[j] = x * s + y * c;
      }
    }
  }

  HQF_INLINE static void multiply_phase(V& re, V& im, T c, const V& s) {
    const V x = re, y = im;
    re = c * x + s * y;
    im = c * y - s * x;
  }

  HQF_INLINE void scale_by(State& psi, T factor) const {
    HQF_UNROLL
    for (int j = 0; j < N; ++j) {
      psi.re[j] = psi.re[j] * factor;
      if constexpr (Complex) psi.im[j] = psi.im[j] * factor;
    }
  }

  HQF_INLINE void apply(State& psi, const Op op) {
    switch (op.kind) {
      case OpKind::move:
        return move(psi, op, false);
      case OpKind::turn: {
        int turn = op.first;
        static_for<Bits>([&](auto l) {
          if (!(op.registers >> l & 1)) return;
          T first, second;
          coefficients(turn++, first, second);
          turn_bit<false>(psi, op.own, l, first, second);
        });
        return;
      }
      case OpKind::turn_imaginary: {
        int turn = op.first;
        static_for<Bits>([&](auto l) {
          if (!(op.registers >> l & 1)) return;
          T c, s;
          coefficients(turn, c, s);
          if constexpr (Complex)
            with_signs<Bits>(s_.turns[turn].mask, lanes_.splat(s), [&](auto j, const V& t) {
              if constexpr (!(j >> l & 1)) rotate_imaginary_pair(psi.re, psi.im, j, j | 1 << l, c, t);
            });
          ++turn;
        });
        return;
      }
      case OpKind::table:
        return multiply_table(psi, op.table);
      case OpKind::phase: {
        T c, s;
        coefficients(op.first, c, s);
        if constexpr (Complex)
          with_signs<Bits>(s_.turns[op.first].mask, lanes_.splat(s),
                           [&](auto j, const V& t) { multiply_phase(psi.re[j], psi.im[j], c, t); });
        return;
      }
      case OpKind::rescale:
        return scale_by(psi, w_.segment_scale[op.segment]);
      default:
        return;
    }
  }

  // Takes psi and lambda back through an op and adds to the gradients of its angles.
  HQF_INLINE void undo(State& psi, State& lam, const Op op, T slope_scale) {
    switch (op.kind) {
      case OpKind::turn: {
        // All slopes first: undoing a shared rotation changes the scale of the states.
        int turn = op.first;
        static_for<Bits>([&](auto l) {
          if (!(op.registers >> l & 1)) return;
          V plus = lanes_.splat(T(0)), minus = lanes_.splat(T(0));
          add_slope(psi.re, lam.re, l, plus, minus);
          if constexpr (Complex) add_slope(psi.im, lam.im, l, plus, minus);
          add_slope_of(turn++, plus - minus, slope_scale);
        });
        turn = op.first;
        static_for<Bits>([&](auto l) {
          if (!(op.registers >> l & 1)) return;
          T first, second;
          coefficients(turn++, first, second);
          turn_bit<true>(psi, op.own, l, first, second);
          turn_bit<true>(lam, op.own, l, first, second);
        });
        return;
      }
      case OpKind::turn_imaginary: {
        int turn = op.first;
        static_for<Bits>([&](auto l) {
          if (!(op.registers >> l & 1)) return;
          if constexpr (Complex) {
            V slope = lanes_.splat(T(0));
            with_signs<Bits>(s_.turns[turn].mask, lanes_.splat(T(1)), [&](auto j, const V& sign) {
              constexpr int k = j | 1 << l;
              if constexpr (j != k)
                slope += sign * (lam.re[j] * psi.im[k] - lam.im[j] * psi.re[k] + lam.re[k] * psi.im[j] -
                                 lam.im[k] * psi.re[j]);
            });
            add_slope_of(turn++, slope, slope_scale);
          }
        });
        turn = op.first;
        static_for<Bits>([&](auto l) {
          if (!(op.registers >> l & 1)) return;
          T c, s;
          coefficients(turn, c, s);
          if constexpr (Complex)
            with_signs<Bits>(s_.turns[turn].mask, lanes_.splat(-s), [&](auto j, const V& t) {
              if constexpr (!(j >> l & 1)) {
                rotate_imaginary_pair(psi.re, psi.im, j, j | 1 << l, c, t);
                rotate_imaginary_pair(lam.re, lam.im, j, j | 1 << l, c, t);
              }
            });
          ++turn;
        });
        return;
      }
      case OpKind::table:
        return undo_table(psi, lam, op);
      case OpKind::phase: {
        if constexpr (Complex) {
          V slope = lanes_.splat(T(0));
          T c, s;
          coefficients(op.first, c, s);
          with_signs<Bits>(s_.turns[op.first].mask, lanes_.splat(T(1)), [&](auto j, const V& sign) {
            slope += sign * (lam.re[j] * psi.im[j] - lam.im[j] * psi.re[j]);
            const V t = sign * -s;
            multiply_phase(psi.re[j], psi.im[j], c, t);
            multiply_phase(lam.re[j], lam.im[j], c, t);
          });
          add_slope_of(op.first, slope, slope_scale);
        }
        return;
      }
      case OpKind::rescale:
        scale_by(psi, w_.segment_scale[op.segment]);
        return scale_by(lam, w_.segment_scale[op.segment]);
      default:
        return;
    }
  }

  // The slots of a table sum Im(conj(lambda) psi) for each of its entries.
  HQF_INLINE void undo_table(State& psi, State& lam, const Op& op) {
    if constexpr (Complex) {
      const size_t start = static_cast<size_t>(op.table) << s_.bits;
      HQF_UNROLL
      for (int j = 0; j < N; ++j) {
        const V c = lanes_.load(w_.cosines + start + (static_cast<size_t>(j) << s_.lane_bits));
        const V s = lanes_.load(w_.sines + start + (static_cast<size_t>(j) << s_.lane_bits));
        const V x = psi.re[j] * c + psi.im[j] * s, y = psi.im[j] * c - psi.re[j] * s;
        const V u = lam.re[j] * c + lam.im[j] * s, v = lam.im[j] * c - lam.re[j] * s;
        if (op.slot >= 0) lanes_.add(op.slot + j, u * y - v * x);
        psi.re[j] = x, psi.im[j] = y, lam.re[j] = u, lam.im[j] = v;
      }
    }
  }

  // --- reading ---

  // The sum of v over all amplitudes, each with its sign.
  HQF_INLINE T signed_sum(const V (&v)[N], uint32_t mask) const {
    V sums[N];
    HQF_UNROLL
    for (int j = 0; j < N; ++j) sums[j] = v[j];
    const uint32_t registers = mask >> s_.lane_bits;
    static_for<Bits>([&](auto reversed) {
      constexpr int l = Bits - 1 - reversed;
      const T sign = registers >> l & 1 ? T(-1) : T(1);
      HQF_UNROLL
      for (int j = 0; j < 1 << l; ++j) sums[j] = sums[j] + sums[j | 1 << l] * sign;
    });
    return lanes_.sum(lanes_.negate_odd(lane_part(mask), sums[0]));
  }

  HQF_INLINE V probability(const State& psi, int j) const {
    if constexpr (Complex)
      return psi.re[j] * psi.re[j] + psi.im[j] * psi.im[j];
    else
      return psi.re[j] * psi.re[j];
  }

  HQF_INLINE void read(const State& psi, const Op& op) {
    if (op.kind >= OpKind::read_probs) {
      lanes_.sync();
      HQF_UNROLL
      for (int j = 0; j < N; ++j) {
        const uint32_t at = static_cast<uint32_t>(j) << s_.lane_bits;
        lanes_.send(0, lanes_.here(), at, op.kind == OpKind::read_probs ? probability(psi, j) : psi.re[j]);
        if constexpr (Complex) lanes_.send(1, lanes_.here(), at, psi.im[j]);
      }
      return;
    }
    V v[N];
    static_for<N>([&](auto j) {
      constexpr int k = j | 1;
      if (op.kind == OpKind::read_diagonal)
        v[j] = probability(psi, j);
      else if constexpr (j == k)
        v[j] = lanes_.splat(T(0));
      else if constexpr (Complex)
        v[j] = (op.kind == OpKind::read_even ? psi.re[j] * psi.re[k] + psi.im[j] * psi.im[k]
                                             : psi.im[k] * psi.re[j] - psi.re[k] * psi.im[j]) *
               T(2);
      else
        v[j] = psi.re[j] * psi.re[k] * T(2);
    });
    for (int r = op.first; r < op.first + op.count; ++r) {
      const Reading reading = s_.readings[r];
      const T value = signed_sum(v, reading.mask) * static_cast<T>(reading.sign);
      lanes_.once([&] { lanes_.memory(readings() + reading.output) = value; });
    }
  }

  // lambda += sum over the readings of gradient times O psi.
  HQF_INLINE void start_adjoint(const State& psi, State& lam, const Op& op, const int64_t (&offset)[kTensors],
                                bool valid) {
    V d[N];
    if (op.kind == OpKind::read_probs) {
      const auto& from = call_.tensor[kOutput];
      lanes_.sync();
      lanes_.each(1 << s_.bits, [&](int k) {
        const uint32_t index = output_index(static_cast<uint32_t>(k));
        lanes_.exchanged(0, static_cast<uint32_t>(k)) =
            valid && index >> s_.n_qubits == 0 ? read_as<T>(from.data, from.dtype, offset[kOutput] + from.place(index))
                                               : T(0);
      });
      lanes_.sync();
    }
    HQF_UNROLL
    for (int j = 0; j < N; ++j)
      d[j] = op.kind == OpKind::read_probs ? lanes_.receive(0, lanes_.here(), static_cast<uint32_t>(j) << s_.lane_bits)
                                           : lanes_.splat(T(0));
    for (int r = op.first; r < op.first + op.count; ++r) {
      const Reading reading = s_.readings[r];
      const T g = lanes_.memory(readings() + reading.output) * static_cast<T>(reading.sign);
      with_signs<Bits>(reading.mask, lanes_.splat(g), [&](auto j, const V& t) { d[j] += t; });
    }
    static_for<N>([&](auto j) {
      if (op.kind == OpKind::read_diagonal || op.kind == OpKind::read_probs) {
        lam.re[j] += d[j] * psi.re[j];
        if constexpr (Complex) lam.im[j] += d[j] * psi.im[j];
        return;
      }
      constexpr int k = j | 1;
      if constexpr (j != k) {
        if (op.kind == OpKind::read_even) {
          lam.re[j] += d[j] * psi.re[k];
          lam.re[k] += d[j] * psi.re[j];
          if constexpr (Complex) {
            lam.im[j] += d[j] * psi.im[k];
            lam.im[k] += d[j] * psi.im[j];
          }
        } else if constexpr (Complex) {
          lam.re[j] += d[j] * psi.im[k];
          lam.im[j] -= d[j] * psi.re[k];
          lam.re[k] -= d[j] * psi.im[j];
          lam.im[k] += d[j] * psi.re[j];
        }
      }
    });
  }

  HQF_INLINE uint32_t output_index(uint32_t coordinate) const {
    uint32_t index = s_.frame[0];
    for (int b = 0; b < s_.bits; ++b)
      if (coordinate >> b & 1) index ^= s_.frame[1 + b];
    return index;
  }

  // Probabilities or amplitudes from the exchange memory to the output, and zeros where the state does not reach.
  HQF_INLINE void write_basis(const int64_t (&offset)[kTensors], bool valid) {
    const auto& to = call_.tensor[kOutput];
    lanes_.each(1 << (s_.bits + s_.n_frame), [&](int k) {
      const uint32_t coordinate = static_cast<uint32_t>(k) & ((uint32_t{1} << s_.bits) - 1), outside = k >> s_.bits;
      uint32_t index = output_index(coordinate);
      for (int b = 0; b < s_.n_frame; ++b)
        if (outside >> b & 1) index ^= s_.frame[1 + s_.bits + b];
      if (!valid || index >> s_.n_qubits) return;
      for (int part = 0; part < s_.parts; ++part)
        write_as<T>(to.data, to.dtype, offset[kOutput] + to.place(int64_t{index} * s_.parts + part),
                    outside ? T(0) : lanes_.exchanged(part, coordinate));
    });
  }

  // Leaves 2 Re lambda in the exchange memory; returns its product with psi.
  HQF_INLINE T amplitude_gradient(const State& psi, const State& lam) {
    const T scale = w_.segment_scale[0];
    V along = lanes_.splat(T(0));
    lanes_.sync();
    HQF_UNROLL
    for (int j = 0; j < N; ++j) {
      const V g = lam.re[j] * (T(2) * scale);
      along += g * (psi.re[j] * scale);
      lanes_.send(0, lanes_.here(), static_cast<uint32_t>(j) << s_.lane_bits, g);
    }
    return lanes_.sum(along);
  }

  const Script& s_;
  const Coefficients<T>& w_;
  const Call& call_;
  Lanes& lanes_;
  // Of the amplitudes that the inputs give: largest^(-1/2), and largest / norm.
  T root_scale_ = T(0), scale_ = T(0);
};

}  // namespace hqf::HQF_ARCH
