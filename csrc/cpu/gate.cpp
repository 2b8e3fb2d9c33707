// The gate engine: runs a plan over a batch, a vector of samples at a time. Compiled once per instruction set.
#include <algorithm>
#include <utility>
#include <vector>

#include "hqf/kernels.hpp"
#include "hqf/lanes.hpp"
#include "hqf/variants.hpp"

namespace hqf::HQF_ARCH {
namespace {

constexpr int64_t kTasks = 64;  // into how many pieces a batch is cut, whatever the number of threads

// --- what depends on the weights alone ---

// In place: values[i] becomes the sum over z of values[z] (-1)^parity(i & z).
void walsh_hadamard(double* values, uint32_t size) {
  for (uint32_t half = 1; half < size; half *= 2)
    for (uint32_t i = 0; i < size; i += 2 * half)
      for (uint32_t k = i; k < i + half; ++k) {
        const double a = values[k], b = values[k + half];
        values[k] = a + b;
        values[k + half] = a - b;
      }
}

// cosines and sines of -values / 2, times scale.
template <class T>
void phase_table(const double* values, uint32_t size, double scale, T* cosines, T* sines) {
  using D = Vector<double, HQF_WIDEST>;
  for (uint32_t i = 0; i < size; i += kLanes<D>) {
    double lanes[kLanes<D>] = {};
    const uint32_t count = std::min<uint32_t>(kLanes<D>, size - i);
    for (uint32_t k = 0; k < count; ++k) lanes[k] = -0.5 * values[i + k];
    D s, c;
    sincos<D>(reduce_angle<D>(load<D>(lanes)), s, c);
    for (uint32_t k = 0; k < count; ++k) {
      cosines[i + k] = static_cast<T>(scale * c[k]);
      sines[i + k] = static_cast<T>(scale * s[k]);
    }
  }
}

// One set of weights, ready for the kernels.
template <class T>
struct WeightSet {
  // Per rotation: cos and sin of half a shared angle, as they are and with the larger divided out; or, where the angle
  // has inputs, half of the part that has none.
  std::vector<T> cosine, sine, half_offset;
  std::vector<Ratio<T>> ratio;
  std::vector<T> table_cosine, table_sine;  // all tables, one after the other
  std::vector<T> segment_scale;             // what a segment's shared rotations were divided by
  std::vector<T> slope_scale;               // per step: makes up for it in gradients

  void prepare(const Plan& plan, const View& weights, int64_t offset, int64_t stride) {
    const size_t count = plan.rotations.size();
    cosine.resize(count), sine.resize(count), half_offset.resize(count), ratio.resize(count);
    std::vector<double> divisor(count, 1.0), angle(count);
    for (size_t r = 0; r < count; ++r) {
      const Angle& expression = plan.rotations[r].angle;
      double value = expression.constant;
      for (const auto& term : expression.weights) value += term.factor * read(weights, offset + term.index * stride);
      const double c = std::cos(value / 2), s = std::sin(value / 2);
      angle[r] = 2 * std::atan2(s, c);  // reduced, so that sums of angles in a table lose nothing
      half_offset[r] = static_cast<T>(angle[r] / 2);
      cosine[r] = static_cast<T>(c);
      sine[r] = static_cast<T>(s);
      const bool swapped = std::abs(s) > std::abs(c);
      ratio[r] = {static_cast<T>(swapped ? c / s : s / c), swapped};
      divisor[r] = swapped ? s : c;
    }
    std::vector<double> segment(plan.n_segments, 1.0), scale(plan.steps.size(), 1.0);
    for (size_t k = plan.steps.size(); k-- > 0;) {
      const Step& step = plan.steps[k];
      if (step.kind == StepKind::table || step.kind == StepKind::rescale) continue;
      scale[k] = segment[step.segment] * segment[step.segment];
      if (step.kind == StepKind::block && step.shared)
        for (int r = step.first; r < step.first + step.count; ++r) segment[step.segment] *= divisor[r];
    }
    segment_scale.assign(segment.begin(), segment.end());
    slope_scale.assign(scale.begin(), scale.end());

    table_cosine.clear(), table_sine.clear();
    std::vector<double> phases;
    for (const auto& step : plan.steps) {
      if (step.kind != StepKind::table) continue;
      const uint32_t size = uint32_t{1} << step.bits;
      phases.assign(size, 0.0);
      for (int r = step.first; r < step.first + step.count; ++r) phases[plan.rotations[r].z & (size - 1)] += angle[r];
      walsh_hadamard(phases.data(), size);
      const size_t start = table_cosine.size();
      table_cosine.resize(start + size), table_sine.resize(start + size);
      phase_table(phases.data(), size, segment[step.segment], &table_cosine[start], &table_sine[start]);
    }
  }
};

// --- one vector of samples ---

template <class V>
class Machine {
  using T = ScalarOf<V>;

 public:
  Machine(const Plan& plan, bool adjoint, Scratch& scratch) : plan_(plan) {
    const size_t size = size_t{1} << plan.bits, planes = plan.complex ? 2 : 1, rotations = plan.rotations.size();
    n_inputs_ = static_cast<size_t>(plan.program.n_inputs);
    n_outputs_ = static_cast<size_t>(plan.program.n_outputs());
    n_table_entries_ = 0;
    for (const auto& step : plan.steps)
      if (step.kind == StepKind::table) n_table_entries_ += size_t{1} << step.bits;
    const size_t states = size * planes * (adjoint ? 2 : 1), tree = plan.readout.order.empty() ? 0 : size;
    const size_t total =
        states + tree + 2 * n_inputs_ + n_outputs_ + 2 * rotations + (adjoint ? rotations + n_table_entries_ : 0);
    V* next = scratch.reserve<V>(total);
    auto take = [&](size_t count) { return std::exchange(next, next + count); };
    re_ = take(size);
    im_ = planes == 2 ? take(size) : nullptr;
    if (adjoint) {
      lre_ = take(size);
      lim_ = planes == 2 ? take(size) : nullptr;
      rotation_slopes_ = take(rotations);
      table_slopes_ = take(n_table_entries_);
    }
    tree_ = take(tree);
    inputs_ = take(n_inputs_);
    grad_inputs_ = take(n_inputs_);
    outputs_ = take(n_outputs_);
    cosines_ = take(rotations);
    sines_ = take(rotations);
  }

  V* inputs() { return inputs_; }
  V* outputs() { return outputs_; }  // results after measure(); their gradients before adjoint()
  V* grad_inputs() { return grad_inputs_; }

  // Runs the circuit on inputs().
  void evolve(const WeightSet<T>& w) {
    const V start = splat<V>(w.segment_scale[0]);
    const auto& p = plan_.program;
    if (p.n_amplitudes) {
      const V* a = inputs_ + p.first_amplitude;
      amplitude_scale_ = V{};
      for (int k = 0; k < p.n_amplitudes; ++k) {
        const V size = a[k] < 0 ? -a[k] : a[k];
        amplitude_scale_ = amplitude_scale_ > size ? amplitude_scale_ : size;
      }
      V norm2 = {};
      for (int k = 0; k < p.n_amplitudes; ++k) {
        re_[k] = a[k] / amplitude_scale_;  // squares of what came could over- or underflow
        norm2 += re_[k] * re_[k];
      }
      for (int lane = 0; lane < kLanes<V>; ++lane) amplitude_norm_[lane] = std::sqrt(norm2[lane]);
      const V factor = start / amplitude_norm_;
      for (uint32_t i = 0; i < uint32_t{1} << p.n_qubits; ++i)
        re_[i] = (static_cast<int>(i) < p.n_amplitudes ? re_[i] : V{}) * factor;
    } else {
      re_[0] = start;
    }
    size_t table_start = 0;
    for (const auto& step : plan_.steps) {
      prepare_angles(step, w);
      const uint32_t size = uint32_t{1} << step.bits;
      V *c = cosines_ + step.first, *s = sines_ + step.first;
      switch (step.kind) {
        case StepKind::grow: {
          const uint32_t z = plan_.rotations[step.first].z;
          if (step.imaginary) {
            grow_imaginary<V>(re_, im_, step.bits, z, *c, *s);
          } else {
            grow_real<V>(re_, step.bits, z, *c, *s);
            if (step.complex) grow_real<V>(im_, step.bits, z, *c, *s);
          }
          break;
        }
        case StepKind::block:
          with_block(step, [&](auto k) {
            constexpr int K = decltype(k)::value;
            if constexpr (K <= kMaxImaginaryBlock)
              if (step.imaginary) return imaginary_block<K, V>(re_, im_, step, c, s);
            for (V* plane : {re_, step.complex ? im_ : nullptr}) {
              if (!plane) continue;
              if (step.shared)
                real_block<K>(plane, step, SharedRotations<K, V>(&w.ratio[step.first]));
              else
                real_block<K>(plane, step, LaneRotations<K, V>(c, s));
            }
          });
          break;
        case StepKind::table:
          if (step.complex)
            table<V>(re_, im_, size, &w.table_cosine[table_start], &w.table_sine[table_start]);
          else
            table_from_real<V>(re_, im_, size, &w.table_cosine[table_start], &w.table_sine[table_start]);
          table_start += size;
          break;
        case StepKind::phase:
          phase<V>(re_, im_, size, plan_.rotations[step.first].z, *c, *s);
          break;
        case StepKind::widen:
          std::fill_n(im_, size, V{});
          break;
        case StepKind::rescale:
          rescale(re_, step, w);
          if (step.complex) rescale(im_, step, w);
          break;
      }
    }
  }

  // Fills outputs() from the final state.
  void measure() {
    const auto& readout = plan_.readout;
    const uint32_t size = uint32_t{1} << plan_.bits;
    if (plan_.program.measurement == Measurement::expval) {
      for (const int k : readout.vanishing) outputs_[k] = V{} * re_[0];  // a NaN sample stays NaN
      for (const int k : readout.direct) outputs_[k] = direct_value(plan_.program.observables[k]);
      if (!readout.tree.empty()) measure_tree();
      return;
    }
    std::fill_n(outputs_, n_outputs_, V{});
    const bool probs = plan_.program.measurement == Measurement::probs;
    for (uint32_t i = 0; i < size; ++i) {
      const int64_t target = readout.targets[i];
      if (target < 0) continue;
      if (probs)
        outputs_[target] = probability(i);
      else
        outputs_[2 * target] = re_[i], outputs_[2 * target + 1] = im_[i];
    }
  }

  // From outputs() as gradients: adds to the slopes of rotations and tables, and fills grad_inputs(). Needs evolve().
  void adjoint(const WeightSet<T>& w) {
    start_adjoint();
    std::fill_n(grad_inputs_, n_inputs_, V{});
    size_t table_end = n_table_entries_;
    for (size_t index = plan_.steps.size(); index-- > 0;) {
      const auto& step = plan_.steps[index];
      const uint32_t size = uint32_t{1} << step.bits;
      const V *c = cosines_ + step.first, *s = sines_ + step.first;
      V slopes[kMaxBlock] = {};
      switch (step.kind) {
        case StepKind::grow: {
          const uint32_t z = plan_.rotations[step.first].z;
          if (step.imaginary) {
            slopes[0] = grow_imaginary_adjoint<V>(re_, im_, lre_, lim_, step.bits, z, *c, *s);
          } else {
            slopes[0] = grow_real_adjoint<V>(re_, lre_, step.bits, z, *c, *s);
            if (step.complex) slopes[0] += grow_real_adjoint<V>(im_, lim_, step.bits, z, *c, *s);
          }
          break;
        }
        case StepKind::block:
          with_block(step, [&](auto k) {
            constexpr int K = decltype(k)::value;
            if constexpr (K <= kMaxImaginaryBlock)
              if (step.imaginary) return imaginary_block_adjoint<K, V>(re_, im_, lre_, lim_, step, c, s, slopes);
            for (int plane = 0; plane < (step.complex ? 2 : 1); ++plane) {
              V *psi = plane ? im_ : re_, *lam = plane ? lim_ : lre_;
              if (step.shared)
                real_block_adjoint<K>(psi, lam, step, SharedRotations<K, V>(&w.ratio[step.first]), slopes);
              else
                real_block_adjoint<K>(psi, lam, step, LaneRotations<K, V>(c, s), slopes);
            }
          });
          break;
        case StepKind::table:
          table_end -= size;
          if (step.complex)
            table_adjoint<V>(re_, im_, lre_, lim_, size, &w.table_cosine[table_end], &w.table_sine[table_end],
                             table_slopes_ + table_end);
          else
            table_from_real_adjoint<V>(re_, im_, lre_, lim_, size, &w.table_cosine[table_end], &w.table_sine[table_end],
                                       table_slopes_ + table_end);
          continue;
        case StepKind::phase:
          slopes[0] = phase_adjoint<V>(re_, im_, lre_, lim_, size, plan_.rotations[step.first].z, *c, *s);
          break;
        case StepKind::widen:
          continue;
        case StepKind::rescale:
          for (V* plane : {re_, lre_}) rescale(plane, step, w);
          if (step.complex)
            for (V* plane : {im_, lim_}) rescale(plane, step, w);
          continue;
      }
      for (int l = 0; l < step.count; ++l) {
        const V slope = slopes[l] * w.slope_scale[index];
        rotation_slopes_[step.first + l] += slope;
        for (const auto& term : plan_.rotations[step.first + l].angle.inputs)
          grad_inputs_[term.index] += slope * static_cast<T>(term.factor);
      }
    }
    if (plan_.program.n_amplitudes) amplitude_gradient(w);
  }

  void clear_slopes() {
    std::fill_n(rotation_slopes_, plan_.rotations.size(), V{});
    std::fill_n(table_slopes_, n_table_entries_, V{});
  }

  // Gradients of all rotation angles, summed over the lanes since clear_slopes().
  void collect_slopes(double* sums) const {
    std::vector<double> phases;
    size_t start = 0;
    for (const auto& step : plan_.steps) {
      if (step.kind != StepKind::table) {
        for (int r = step.first; r < step.first + step.count; ++r) sums[r] = lane_sum<V>(rotation_slopes_[r]);
        continue;
      }
      const uint32_t size = uint32_t{1} << step.bits;
      phases.resize(size);
      for (uint32_t i = 0; i < size; ++i) phases[i] = lane_sum<V>(table_slopes_[start + i]);
      walsh_hadamard(phases.data(), size);
      for (int r = step.first; r < step.first + step.count; ++r) sums[r] = phases[plan_.rotations[r].z & (size - 1)];
      start += size;
    }
  }

 private:
  template <class Body>
  static void with_block(const Step& step, const Body& body) {
    static_assert(kMaxBlock == 3);
    switch (step.count) {
      case 1:
        return body(std::integral_constant<int, 1>{});
      case 2:
        return body(std::integral_constant<int, 2>{});
      default:
        return body(std::integral_constant<int, 3>{});
    }
  }

  void rescale(V* plane, const Step& step, const WeightSet<T>& w) const {
    for (uint32_t i = 0; i < uint32_t{1} << step.bits; ++i) plane[i] *= w.segment_scale[step.segment];
  }

  // The coefficients c, s of the step's rotations for every lane. Tables and real shared blocks have theirs in
  // WeightSet.
  void prepare_angles(const Step& step, const WeightSet<T>& w) {
    if (step.kind == StepKind::table || (step.kind == StepKind::block && step.shared && !step.imaginary)) return;
    for (int r = step.first; r < step.first + step.count; ++r) {
      if (!step.shared) {
        const Angle& angle = plan_.rotations[r].angle;
        V half = splat<V>(w.half_offset[r]);
        for (const auto& term : angle.inputs)
          half += reduce_angle<V>(inputs_[term.index] * static_cast<T>(0.5 * term.factor));
        sincos<V>(half, sines_[r], cosines_[r]);
      } else if (step.kind == StepKind::block) {
        const auto [value, swapped] = w.ratio[r];
        cosines_[r] = splat<V>(swapped ? value : T(1));
        sines_[r] = splat<V>(swapped ? T(1) : value);
      } else {
        cosines_[r] = splat<V>(w.cosine[r]);
        sines_[r] = splat<V>(w.sine[r]);
      }
    }
  }

  HQF_INLINE V probability(uint32_t i) const {
    return plan_.complex ? re_[i] * re_[i] + im_[i] * im_[i] : re_[i] * re_[i];
  }

  // Sums of many small terms, in chunks so that rounding grows with neither their number nor the register.
  template <class Term>
  HQF_INLINE static V sum_in_chunks(uint32_t count, const Term& term) {
    V sum = {};
    in_chunks(count, [&](size_t begin, size_t end) {
      V part = {};
      for (size_t i = begin; i < end; ++i) part += term(static_cast<uint32_t>(i));
      sum += part;
    });
    return sum;
  }

  // Sums of probabilities, halved level by level: the top bit of the tree's index is the sign of the first string.
  void measure_tree() {
    const auto& readout = plan_.readout;
    uint32_t half = uint32_t{1} << plan_.bits;
    for (size_t level = 0; level < readout.tree.size(); ++level) {
      half /= 2;
      const V sum = sum_in_chunks(half, [&](uint32_t v) {
        const V a = level ? tree_[v] : probability(readout.order[v]);
        const V b = level ? tree_[v | half] : probability(readout.order[v | half]);
        tree_[v] = a + b;
        return a - b;
      });
      const int k = readout.tree[level];
      outputs_[k] = plan_.program.observables[k].sign < 0 ? -sum : sum;
    }
  }

  // i^|x & z| (-1)^parity(i & z) is the coefficient that takes amplitude i to i ^ x.
  V direct_value(const Observable& o) const {
    const uint32_t size = uint32_t{1} << plan_.bits;
    const int power = __builtin_popcount(o.x & o.z) & 3;
    const V sum = sum_in_chunks(size, [&](uint32_t i) {
      const uint32_t k = i ^ o.x;
      V value;
      if (power & 1)  // real part of i conj(psi_k) psi_i
        value = plan_.complex ? im_[k] * re_[i] - re_[k] * im_[i] : V{} * re_[i];
      else
        value = plan_.complex ? re_[k] * re_[i] + im_[k] * im_[i] : re_[k] * re_[i];
      return parity(i & o.z) ? -value : value;
    });
    return (o.sign < 0) != (power >= 2) ? -sum : sum;
  }

  // lambda = sum over observables of gradient times O psi; for probabilities, gradient times psi; for a state, half the
  // gradient, since a change of psi by d changes the loss by 2 Re <lambda|d>.
  void start_adjoint() {
    const auto& readout = plan_.readout;
    const uint32_t size = uint32_t{1} << plan_.bits;
    if (plan_.program.measurement == Measurement::state) {
      for (uint32_t i = 0; i < size; ++i) {
        const int64_t target = readout.targets[i];
        lre_[i] = target < 0 ? V{} : outputs_[2 * target] * ScalarOf<V>(0.5);
        lim_[i] = target < 0 ? V{} : outputs_[2 * target + 1] * ScalarOf<V>(0.5);
      }
      return;
    }
    if (plan_.program.measurement == Measurement::probs) {
      for (uint32_t i = 0; i < size; ++i) {
        const V g = readout.targets[i] < 0 ? V{} : outputs_[readout.targets[i]];
        lre_[i] = g * re_[i];
        if (plan_.complex) lim_[i] = g * im_[i];
      }
      return;
    }
    if (readout.tree.empty()) {
      std::fill_n(lre_, size, V{});
      if (plan_.complex) std::fill_n(lim_, size, V{});
    } else {
      start_adjoint_tree();
    }
    for (const int k : readout.direct) add_direct(plan_.program.observables[k], outputs_[k]);
  }

  // The tree of measure_tree, from its root: tree_[v] = sum of +-gradients.
  void start_adjoint_tree() {
    const auto& readout = plan_.readout;
    const uint32_t size = uint32_t{1} << plan_.bits;
    const size_t levels = readout.tree.size();
    uint32_t half = size >> levels;
    for (uint32_t v = 0; v < half; ++v) tree_[v] = V{};
    for (size_t level = levels; level-- > 0; half *= 2) {
      const int k = readout.tree[level];
      const V g = plan_.program.observables[k].sign < 0 ? -outputs_[k] : outputs_[k];
      if (level > 0) {
        for (uint32_t v = 0; v < half; ++v) {
          const V base = tree_[v];
          tree_[v | half] = base - g;
          tree_[v] = base + g;
        }
        continue;
      }
      for (uint32_t v = 0; v < half; ++v) {
        const V base = tree_[v];
        const uint32_t above = readout.order[v], below = readout.order[v | half];
        lre_[above] = (base + g) * re_[above];
        lre_[below] = (base - g) * re_[below];
        if (!plan_.complex) continue;
        lim_[above] = (base + g) * im_[above];
        lim_[below] = (base - g) * im_[below];
      }
    }
  }

  void add_direct(const Observable& o, V g) {
    const uint32_t size = uint32_t{1} << plan_.bits;
    const int power = __builtin_popcount(o.x & o.z) & 3;
    if ((o.sign < 0) != (power >= 2)) g = -g;
    for (uint32_t i = 0; i < size; ++i) {
      const uint32_t k = i ^ o.x;
      const V t = parity(i & o.z) ? -g : g;
      if (power & 1) {  // times i; a real state has no imaginary adjoint that matters: its rotations are real
        if (!plan_.complex) continue;
        lre_[k] -= t * im_[i];
        lim_[k] += t * re_[i];
      } else {
        lre_[k] += t * re_[i];
        if (plan_.complex) lim_[k] += t * im_[i];
      }
    }
  }

  // psi = x / |x|: the gradient of x is (g - psi (psi . g)) / |x| with g = 2 Re lambda.
  void amplitude_gradient(const WeightSet<T>& w) {
    const auto& p = plan_.program;
    const V restore = splat<V>(w.segment_scale[0] * T(2));
    const V* a = inputs_ + p.first_amplitude;
    V along = {};
    for (int k = 0; k < p.n_amplitudes; ++k) along += lre_[k] * restore * (a[k] / amplitude_scale_);
    along /= amplitude_norm_ * amplitude_norm_;
    for (int k = 0; k < p.n_amplitudes; ++k)
      grad_inputs_[p.first_amplitude + k] +=
          (lre_[k] * restore - along * (a[k] / amplitude_scale_)) / amplitude_norm_ / amplitude_scale_;
  }

  const Plan& plan_;
  size_t n_inputs_, n_outputs_, n_table_entries_;
  V *re_, *im_, *lre_ = nullptr, *lim_ = nullptr, *tree_, *inputs_, *grad_inputs_, *outputs_, *cosines_, *sines_;
  V *rotation_slopes_ = nullptr, *table_slopes_ = nullptr;
  V amplitude_scale_ = {},
    amplitude_norm_ = {};  // the largest amplitude that came; the norm of them all, in units of it
};

// --- a batch ---

// Of the states of one sample.
int64_t numbers(const Plan& plan, bool adjoint) {
  return int64_t{plan.complex ? 2 : 1} * (adjoint ? 2 : 1) << plan.bits;
}

template <class V>
void run(const Plan& plan, const Batch& batch, const View& weights, const View* grad_weights,
         const ParallelFor& parallel_for) {
  using T = ScalarOf<V>;
  constexpr int W = kLanes<V>;
  const Cut cut(batch, W, kTasks, 1);
  const size_t rotations = plan.rotations.size();

  std::vector<WeightSet<T>> sets(static_cast<size_t>(batch.n_groups));
  auto prepare = [&](int64_t begin, int64_t end) {
    for (int64_t g = begin; g < end; ++g)
      sets[g].prepare(plan, weights, Cursor(batch.groups, g).offset[kWeights], batch.weight_stride);
  };
  if (batch.n_groups > 1)
    parallel_for(batch.n_groups, 50 * static_cast<int64_t>(rotations), prepare);
  else
    prepare(0, 1);

  const int64_t tasks = batch.n_groups * cut.tasks_per_group;
  std::vector<double> slopes(grad_weights ? static_cast<size_t>(tasks) * rotations : 0);
  const int64_t cost = cut.per_task * numbers(plan, grad_weights) * (static_cast<int64_t>(rotations) + 1) / 4;
  parallel_for(tasks, cost, [&](int64_t begin, int64_t end) {
    Machine<V> machine(plan, grad_weights != nullptr, thread_scratch());
    for (int64_t task = begin; task < end; ++task) {
      const int64_t group = task / cut.tasks_per_group, first = task % cut.tasks_per_group * cut.per_task;
      const auto& set = sets[group];
      const auto start = Cursor(batch.groups, group).offset;
      Cursor cursor(batch.samples, first * W);
      if (grad_weights) machine.clear_slopes();
      for (int64_t vector = first; vector < std::min(first + cut.per_task, cut.vectors); ++vector) {
        Lanes<W> lanes;
        lanes.fill(batch, start, cursor, vector);
        gather<V>(batch, kInputs, lanes, machine.inputs());
        machine.evolve(set);
        if (!grad_weights) {
          machine.measure();
          scatter<V>(batch, kOutput, lanes, machine.outputs());
          continue;
        }
        gather<V>(batch, kOutput, lanes, machine.outputs());
        for (size_t k = 0; k < batch.places[kOutput].size(); ++k)
          for (int lane = lanes.count; lane < W; ++lane) machine.outputs()[k][lane] = 0;
        machine.adjoint(set);
        scatter<V>(batch, kGradInputs, lanes, machine.grad_inputs());
      }
      if (grad_weights) machine.collect_slopes(slopes.data() + static_cast<size_t>(task) * rotations);
    }
    thread_scratch().release_large();
  });
  if (!grad_weights) return;

  const int n_weights = plan.program.n_weights;
  std::vector<double> sums(n_weights);
  for (int64_t g = 0; g < batch.n_groups; ++g) {
    std::fill(sums.begin(), sums.end(), 0.0);
    for (size_t r = 0; r < rotations; ++r) {
      if (plan.rotations[r].angle.weights.empty()) continue;
      double slope = 0;
      for (int64_t task = g * cut.tasks_per_group; task < (g + 1) * cut.tasks_per_group; ++task)
        slope += slopes[static_cast<size_t>(task) * rotations + r];
      for (const auto& term : plan.rotations[r].angle.weights) sums[term.index] += term.factor * slope;
    }
    for (int k = 0; k < n_weights; ++k) write(*grad_weights, g * n_weights + k, sums[k]);
  }
}

// Narrower vectors where the states of all lanes would leave the cache, or the batch would leave lanes empty.
template <class T>
void run_with_lanes(const Plan& plan, const Batch& batch, const View& weights, const View* grad_weights,
                    const ParallelFor& parallel_for) {
  constexpr int64_t kCache = int64_t{1} << 20;
  int bytes = HQF_WIDEST;
  auto too_wide = [&] {
    return numbers(plan, grad_weights) * bytes > kCache ||
           batch.n_samples * static_cast<int64_t>(sizeof(T)) <= bytes / 2;
  };
  while (bytes > 16 && too_wide()) bytes /= 2;
#if HQF_WIDEST >= 64
  if (bytes == 64) return run<Vector<T, 64>>(plan, batch, weights, grad_weights, parallel_for);
#endif
#if HQF_WIDEST >= 32
  if (bytes == 32) return run<Vector<T, 32>>(plan, batch, weights, grad_weights, parallel_for);
#endif
  run<Vector<T, 16>>(plan, batch, weights, grad_weights, parallel_for);
}

}  // namespace

void forward(const Plan& plan, const Batch& batch, const View& weights, const ParallelFor& parallel_for) {
  if (batch.tensor[kOutput].dtype == DType::f64)
    run_with_lanes<double>(plan, batch, weights, nullptr, parallel_for);
  else
    run_with_lanes<float>(plan, batch, weights, nullptr, parallel_for);
}

void backward(const Plan& plan, const Batch& batch, const View& weights, const View& grad_weights,
              const ParallelFor& parallel_for) {
  if (batch.tensor[kInputs].dtype == DType::f64)
    run_with_lanes<double>(plan, batch, weights, &grad_weights, parallel_for);
  else
    run_with_lanes<float>(plan, batch, weights, &grad_weights, parallel_for);
}

}  // namespace hqf::HQF_ARCH
