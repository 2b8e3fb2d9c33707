// The GPU's gate engine on an emulated group of lanes: csrc/include/hqf/group.hpp and weights.hpp with a policy whose
// lanes are entries of an array. For the tests, which compile it and call it through ctypes.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <exception>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "hqf/weights.hpp"

namespace hqf::HQF_ARCH {
namespace {

constexpr int kMaxLanes = 256;
int active = 1;  // lanes of a group

// What the lanes have done since hqf_counts was last asked: additions and multiplications, and numbers exchanged.
int64_t operations = 0, exchanged_numbers = 0;

// One number in every active lane.
template <class T>
struct Wide {
  T at[kMaxLanes];

  Wide() = default;
  Wide(const Wide& other) { *this = other; }
  Wide& operator=(const Wide& other) {
    if (this != &other) std::memcpy(at, other.at, sizeof(T) * static_cast<size_t>(active));
    return *this;
  }

  template <class F>
  static Wide of(const F& f) {
    Wide result;
    for (int k = 0; k < active; ++k) result.at[k] = f(k);
    return result;
  }

  template <class F>
  static Wide count(const F& f) {
    operations += active;
    return of(f);
  }

  friend Wide operator+(const Wide& a, const Wide& b) {
    return count([&](int k) { return a.at[k] + b.at[k]; });
  }
  friend Wide operator-(const Wide& a, const Wide& b) {
    return count([&](int k) { return a.at[k] - b.at[k]; });
  }
  friend Wide operator*(const Wide& a, const Wide& b) {
    return count([&](int k) { return a.at[k] * b.at[k]; });
  }
  friend Wide operator*(const Wide& a, T b) {
    return count([&](int k) { return a.at[k] * b; });
  }
  friend Wide operator*(T a, const Wide& b) { return b * a; }
  Wide operator-() const {
    return of([&](int k) { return -at[k]; });
  }
  Wide& operator+=(const Wide& other) { return *this = *this + other; }
  Wide& operator-=(const Wide& other) { return *this = *this - other; }
};

template <class Number>
struct EmulatedLanes {
  using T = Number;
  using V = Wide<T>;
  struct Index {
    uint32_t at[kMaxLanes];
  };

  EmulatedLanes(const Script& s, int planes)
      : lane_bits(s.lane_bits),
        numbers(static_cast<size_t>(3 * s.n_own + s.n_readings)),
        slots((s.n_slots + s.n_table_slots) * active),
        planes_(static_cast<size_t>(planes), std::vector<T>(size_t{1} << s.bits)) {}

  int lane_bits;
  std::vector<T> numbers, slots;
  bool conflicts = false;  // whether lanes of a warp met in a bank

  V splat(T x) const {
    return V::of([&](int) { return x; });
  }
  V negate_odd(uint32_t mask, const V& v) const {
    return V::of([&](int k) { return parity(static_cast<uint32_t>(k) & mask) ? -v.at[k] : v.at[k]; });
  }
  V choose(uint32_t bit, const V& a, const V& b) const {
    return V::of([&](int k) { return static_cast<uint32_t>(k) & bit ? b.at[k] : a.at[k]; });
  }
  V partner(uint32_t bit, const V& v) const {
    return V::of([&](int k) { return v.at[static_cast<uint32_t>(k) ^ bit]; });
  }
  T sum(const V& v) const {
    V s = v;
    for (int b = 0; b < lane_bits; ++b) s += partner(uint32_t{1} << b, V(s));
    return s.at[0];
  }
  T largest(const V& v) const { return *std::max_element(v.at, v.at + active); }
  V larger(const V& v, const V& w) const {
    return V::of([&](int k) { return std::max(v.at[k], std::abs(w.at[k])); });
  }
  void add(int slot, const V& v) {
    for (int k = 0; k < active; ++k) slots[static_cast<size_t>(slot * active + k)] += v.at[k];
  }
  T& memory(int k) { return numbers[static_cast<size_t>(k)]; }
  template <class F>
  void each(int count, const F& f) const {
    for (int k = 0; k < count; ++k) f(k);
  }
  template <class F>
  void once(const F& f) const {
    f();
  }
  V load(const T* p) const {
    return V::of([&](int k) { return p[k]; });
  }
  Index here() const {
    Index index;
    for (int k = 0; k < active; ++k) index.at[k] = static_cast<uint32_t>(k);
    return index;
  }
  Index address(const uint32_t* columns) const {
    Index index{};
    for (int k = 0; k < active; ++k)
      for (int b = 0; b < lane_bits; ++b)
        if (k >> b & 1) index.at[k] ^= columns[b];
    return index;
  }
  void send(int plane, const Index& at, uint32_t x, const V& v) {
    note_banks(at, x);
    for (int k = 0; k < active; ++k) planes_[static_cast<size_t>(plane)][at.at[k] ^ x] = v.at[k];
  }
  V receive(int plane, const Index& at, uint32_t x) {
    note_banks(at, x);
    return V::of([&](int k) { return planes_[static_cast<size_t>(plane)][at.at[k] ^ x]; });
  }
  T& exchanged(int plane, uint32_t x) { return planes_[static_cast<size_t>(plane)][x]; }
  void sync() const {}
  T inverse_root(T x) const { return T(1) / std::sqrt(x); }

 private:
  void note_banks(const Index& at, uint32_t x) {
    exchanged_numbers += active;
    const int warp = std::min(active, 1 << kWarpBits);
    for (int first = 0; first < active; first += warp) {
      std::vector<bool> taken(static_cast<size_t>(warp));
      for (int k = first; k < first + warp; ++k) {
        const auto bank = (at.at[k] ^ x) & static_cast<uint32_t>(warp - 1);
        conflicts |= taken[bank];
        taken[bank] = true;
      }
    }
  }

  std::vector<std::vector<T>> planes_;
};

template <class T, int Bits, bool Complex>
bool run(const Script& s, const Call& call, const View* grad_weights) {
  active = 1 << s.lane_bits;
  const auto no_sync = [] {};
  bool conflicts = false;
  for (int64_t group = 0; group < call.n_groups; ++group) {
    std::vector<T> set(static_cast<size_t>(coefficients_size(s)));
    std::vector<double> scratch(static_cast<size_t>(2 * s.n_turns));
    prepare_weights(s, call, group, set.data(), scratch.data(), 0, 1, no_sync);
    const auto coefficients = coefficients_at<T>(s, set.data());
    EmulatedLanes<T> lanes(s, Complex ? 2 : 1);
    Group<EmulatedLanes<T>, Bits, Complex> circuit(s, coefficients, call, lanes);
    for (int64_t sample = 0; sample < call.n_samples; ++sample) {
      int64_t offset[kTensors] = {};
      add_offsets(call.groups, call.n_group_axes, group, offset);
      add_offsets(call.samples, call.n_sample_axes, sample, offset);
      if (grad_weights)
        circuit.backward(offset, true);
      else
        circuit.forward(offset, true);
    }
    conflicts |= lanes.conflicts;
    if (!grad_weights) continue;
    std::vector<double> columns(static_cast<size_t>(n_columns(s)));
    sum_slots(s, lanes.slots.data(), active, columns.data(), 0, 1);
    differentiate_weights(s, columns.data(), scratch.data(), grad_weights->data, grad_weights->dtype,
                          group * s.n_weights, 0, 1, no_sync);
  }
  return conflicts;
}

template <class T, int Bits>
bool run_bits(const Script& s, const Call& call, const View* grad_weights) {
  return s.complex ? run<T, Bits, true>(s, call, grad_weights) : run<T, Bits, false>(s, call, grad_weights);
}

template <class T>
bool run_registers(const Script& s, const Call& call, const View* grad_weights) {
  switch (s.register_bits) {
    case 2:
      return run_bits<T, 2>(s, call, grad_weights);
    case 3:
      return run_bits<T, 3>(s, call, grad_weights);
    case 4:
      return run_bits<T, 4>(s, call, grad_weights);
    default:
      return run_bits<T, 5>(s, call, grad_weights);
  }
}

std::string message;

}  // namespace
}  // namespace hqf::HQF_ARCH

using namespace hqf;
using namespace hqf::HQF_ARCH;

struct Tensor {
  void* data;
  int32_t dtype, ndim;
  const int64_t *sizes, *strides;

  View view() const { return {data, static_cast<DType>(dtype), ndim, sizes, strides}; }
};

// Runs a program with `register_bits` bits of the state in registers, 0 for those that the GPU takes; backward if
// grad_weights is given, then `output` is the gradient. Returns 0, or 1 if lanes of a warp met in a bank, or -1 if it
// threw (see hqf_message).
extern "C" int hqf_emulate(const char* text, int register_bits, const Tensor* inputs, int feature_dims,
                           const Tensor* weights, const Tensor* output, const Tensor* grad_inputs,
                           const Tensor* grad_weights) try {
  const bool wide = static_cast<DType>(inputs->dtype) == DType::f64;
  const Schedule schedule = register_bits ? Schedule(parse_program(text), register_bits) : Schedule::read(text, wide);
  const Script script = schedule.script(schedule.blob().data());
  const View to = grad_inputs ? grad_inputs->view() : View{}, sums = grad_weights ? grad_weights->view() : View{};
  const Batch batch(inputs->view(), feature_dims, output->view(), grad_inputs ? &to : nullptr, weights->view());
  const Call call = make_call(batch, inputs->ndim - feature_dims, weights->view());
  const View* gradient = grad_weights ? &sums : nullptr;
  return wide ? run_registers<double>(script, call, gradient) : run_registers<float>(script, call, gradient);
} catch (const std::exception& error) {
  message = error.what();
  return -1;
}

extern "C" void hqf_counts(int64_t* counts) {
  counts[0] = std::exchange(operations, 0);
  counts[1] = std::exchange(exchanged_numbers, 0);
}

extern "C" const char* hqf_message() { return message.c_str(); }
