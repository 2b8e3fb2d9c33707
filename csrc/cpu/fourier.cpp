// The Fourier contraction: trigonometric polynomials of a batch of samples, and their gradients. Compiled once per
// instruction set.
#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "hqf/lanes.hpp"
#include "hqf/variants.hpp"

namespace hqf::HQF_ARCH {
namespace {

constexpr int kVectors = 8;  // vectors of samples that are handled together, so that coefficients are read once for all
constexpr int kSeriesTasks = 64;
constexpr int kTilesPerTask = 4;  // at least: the end of a task sums over lanes, for every coefficient

// For the vectors of a tile. They lie next to each other: vector v of item k of an array is at [k * kVectors + v].
#define HQF_EACH(v) _Pragma("GCC unroll 8") for (int v = 0; v < kVectors; ++v)

// One set of parameters, ready for the kernels.
template <class T>
struct ParameterSet {
  std::vector<T> coefficients;  // of all members
  std::vector<T> turns;         // cosine and sine of the shift of each axis of all members

  void prepare(const Series& series, const View& parameters, int64_t offset, int64_t stride) {
    coefficients.clear(), turns.clear();
    auto next = [&, k = int64_t{0}]() mutable { return read(parameters, offset + stride * k++); };
    for (const auto& member : series.members) {
      for (int k = 0; k < member.n_terms; ++k) coefficients.push_back(static_cast<T>(next()));
      for (size_t k = 0; k < member.axes.size(); ++k) {
        const double shift = next();
        turns.push_back(static_cast<T>(std::cos(shift)));
        turns.push_back(static_cast<T>(std::sin(shift)));
      }
    }
  }
};

// kVectors vectors of samples on their way through the members of a series.
template <class V>
class Tile {
  using T = ScalarOf<V>;

 public:
  Tile(const Series& series, bool adjoint, Scratch& scratch) : series_(series) {
    size_t features = 0, runs = 0;
    for (const auto& member : series.members) {
      features += member.n_features;
      for (const auto& terms : member.terms) runs = std::max(runs, terms.runs.size());
    }
    const size_t n_inputs = series.n_inputs, n_outputs = series.n_outputs, n_waves = 2 * series.waves.size();
    const size_t slopes = adjoint ? static_cast<size_t>(series.n_parameters) : 0;
    const size_t tiles = n_inputs + n_outputs + n_waves + features + (adjoint ? n_inputs + features + runs : 0);
    V* next = scratch.reserve<V>(slopes + kVectors * tiles);
    auto take = [&](size_t count) { return std::exchange(next, next + count); };
    inputs = take(kVectors * n_inputs);
    outputs = take(kVectors * n_outputs);
    waves_ = take(kVectors * n_waves);
    features_ = take(kVectors * features);
    V* ones = features_;
    for (const auto& member : series.members) {
      std::fill_n(ones, kVectors, splat<V>(1));
      ones += kVectors * member.n_features;
    }
    if (!adjoint) return;
    grad_inputs = take(kVectors * n_inputs);
    grad_features_ = take(kVectors * features);
    std::fill_n(grad_inputs, kVectors * n_inputs, V{});  // where no gradient ever comes, zeros stay
    std::fill_n(grad_features_, kVectors * features, V{});
    run_slopes_ = take(kVectors * runs);
    slopes_ = take(slopes);
  }

  V *inputs, *outputs;  // outputs: results after forward(); their gradients before backward()
  V* grad_inputs = nullptr;

  void forward(const ParameterSet<T>& set) {
    const T *coefficients = set.coefficients.data(), *turns = set.turns.data();
    V* features = features_;
    for (const auto& member : series_.members) {
      make_features(member, turns, features);
      contract(member, coefficients, features);
      coefficients += member.n_terms, turns += 2 * member.axes.size(), features += kVectors * member.n_features;
    }
  }

  void backward(const ParameterSet<T>& set) {
    const T *coefficients = set.coefficients.data(), *turns = set.turns.data();
    V *features = features_, *grads = grad_features_;
    for (const auto& member : series_.members) {
      make_features(member, turns, features);
      V* slopes = slopes_ + member.first_parameter;
      contract_adjoint(member, coefficients, features, grads, slopes);
      features_adjoint(member, features, grads, slopes + member.n_terms);
      coefficients += member.n_terms, turns += 2 * member.axes.size(), features += kVectors * member.n_features;
      grads += kVectors * member.n_features;
    }
  }

  void clear_slopes() { std::fill_n(slopes_, series_.n_parameters, V{}); }

  void collect_slopes(double* sums) const {
    for (int64_t k = 0; k < series_.n_parameters; ++k) sums[k] = lane_sum<V>(slopes_[k]);
  }

 private:
  void make_features(const Member& member, const T* turns, V* features) {
    for (const auto& axis : member.axes) {
      V* wave = waves_ + 2 * kVectors * axis.wave;
      if (axis.first_of_wave) {
        const V* input = inputs + axis.input * kVectors;
        for (int v = 0; v < kVectors; ++v)
          sincos<V>(tame_angle<V>(input[v] * static_cast<T>(axis.unit)), wave[kVectors + v], wave[v]);
      }
      const T cosine = *turns++, sine = *turns++;
      V *c = features + axis.first_feature * kVectors, *s = c + kVectors;
      HQF_EACH(v) {
        c[v] = wave[v] * cosine - wave[kVectors + v] * sine;
        s[v] = wave[kVectors + v] * cosine + wave[v] * sine;
      }
      for (int m = 2; m <= axis.degree; ++m) {  // turned on by the angle of the first
        const V *last_c = c + 2 * (m - 2) * kVectors, *last_s = last_c + kVectors;
        V *next_c = c + 2 * (m - 1) * kVectors, *next_s = next_c + kVectors;
        HQF_EACH(v) {
          next_c[v] = last_c[v] * c[v] - last_s[v] * s[v];
          next_s[v] = last_s[v] * c[v] + last_c[v] * s[v];
        }
      }
    }
    for (const auto& product : member.products) {
      const V *left = features + product.left * kVectors, *right = features + product.right * kVectors;
      V* result = features + product.result * kVectors;
      HQF_EACH(v) result[v] = left[v] * right[v];
    }
  }

  void features_adjoint(const Member& member, const V* features, V* grads, V* slopes) {
    for (auto product = member.products.rbegin(); product != member.products.rend(); ++product) {
      const V *left = features + product->left * kVectors, *right = features + product->right * kVectors;
      const V* grad = grads + product->result * kVectors;
      add_product(grads + product->left * kVectors, grad, right, product->first_left);
      add_product(grads + product->right * kVectors, grad, left, product->first_right);
    }
    for (const auto& axis : member.axes) {
      V slope[kVectors] = {};
      for (int m = 1; m <= axis.degree; ++m) {
        const int64_t place = (axis.first_feature + 2 * (m - 1)) * kVectors;
        const V *c = features + place, *s = c + kVectors, *grad_c = grads + place, *grad_s = grad_c + kVectors;
        HQF_EACH(v) slope[v] += (grad_s[v] * c[v] - grad_c[v] * s[v]) * static_cast<T>(m);
      }
      V* grad_input = grad_inputs + axis.input * kVectors;
      const T unit = static_cast<T>(axis.unit);
      V sum = {};
      if (axis.first_of_input)
        HQF_EACH(v) grad_input[v] = slope[v] * unit;
      else
        HQF_EACH(v) grad_input[v] += in_register<V>(slope[v]) * unit;
      HQF_EACH(v) sum += slope[v];
      *slopes++ += sum;
    }
  }

  // Compilers must not see that both branches begin with the same product: they would compute it ahead of the branch
  // for some of the vectors, and only for the others fuse it with the addition, so that results depended on the vector.
  static HQF_INLINE void add_product(V* to, const V* x, const V* y, bool first) {
    if (first)
      HQF_EACH(v) to[v] = x[v] * y[v];
    else
      HQF_EACH(v) to[v] += in_register<V>(x[v]) * y[v];
  }

  void contract(const Member& member, const T* coefficients, const V* features) {
    V* output = outputs + member.first_output * kVectors;
    for (const auto& terms : member.terms) {
      const T* c = coefficients + terms.first;
      V total[kVectors] = {};
      for (const auto& run : terms.runs) {
        V inner[kVectors] = {};
        for (int k = run.begin; k < run.end; ++k) {
          const V* b = features + terms.b[k] * kVectors;
          HQF_EACH(v) inner[v] += b[v] * c[k];
        }
        const V* a = features + run.feature * kVectors;
        HQF_EACH(v) total[v] += a[v] * inner[v];
      }
      HQF_EACH(v) output[v] = total[v];
      output += kVectors;
    }
  }

  // From outputs as gradients: those of the features, and those of the coefficients are added up in slopes.
  void contract_adjoint(const Member& member, const T* coefficients, const V* features, V* grads, V* slopes) {
    const V* g = outputs + member.first_output * kVectors;
    for (const auto& terms : member.terms) {
      const T* c = coefficients + terms.first;
      V *slope = slopes + terms.first, *run_slope = run_slopes_;
      for (const auto& run : terms.runs) {
        const V* a = features + run.feature * kVectors;
        V along[kVectors], inner[kVectors] = {};
        HQF_EACH(v) along[v] = g[v] * a[v];
        for (int k = run.begin; k < run.end; ++k) {
          const V* b = features + terms.b[k] * kVectors;
          V sum[2] = {};
          HQF_EACH(v) {
            const V factor = in_register<V>(b[v]);
            inner[v] += factor * c[k];
            sum[v % 2] += factor * along[v];
          }
          slope[k] += sum[0] + sum[1];
        }
        if (run.feature) add_product(grads + run.feature * kVectors, g, inner, run.first);
        HQF_EACH(v) run_slope[v] = along[v];
        run_slope += kVectors;
      }
      for (const auto& column : terms.columns) {
        V* grad = grads + column.feature * kVectors;
        V total[kVectors] = {};
        if (!column.first) HQF_EACH(v) total[v] = grad[v];
        for (int k = column.begin; k < column.end; ++k) {
          const V* along = run_slopes_ + terms.run[k] * kVectors;
          const T factor = c[terms.coefficient[k]];
          HQF_EACH(v) total[v] += along[v] * factor;
        }
        HQF_EACH(v) grad[v] = total[v];
      }
      g += kVectors;
    }
  }

  const Series& series_;
  V *waves_, *features_, *grad_features_ = nullptr, *run_slopes_ = nullptr, *slopes_ = nullptr;
};

#undef HQF_EACH

template <class V>
void run(const Series& series, const Batch& batch, const View& parameters, const View* grad_parameters,
         const ParallelFor& parallel_for) {
  constexpr int W = kLanes<V>;
  const Cut cut(batch, W, kSeriesTasks, kVectors * kTilesPerTask);
  const auto count = static_cast<size_t>(series.n_parameters);

  std::vector<ParameterSet<ScalarOf<V>>> sets(static_cast<size_t>(batch.n_groups));
  auto prepare = [&](int64_t begin, int64_t end) {
    for (int64_t g = begin; g < end; ++g)
      sets[g].prepare(series, parameters, Cursor(batch.groups, g).offset[kWeights], batch.weight_stride);
  };
  if (batch.n_groups > 1)
    parallel_for(batch.n_groups, 10 * series.n_parameters, prepare);
  else
    prepare(0, 1);

  const int64_t tasks = batch.n_groups * cut.tasks_per_group;
  std::vector<double> slopes(grad_parameters ? static_cast<size_t>(tasks) * count : 0);
  const int64_t cost = cut.per_task * (8 * series.n_inputs + series.n_parameters / 3) * (grad_parameters ? 3 : 1);
  parallel_for(tasks, cost, [&](int64_t begin, int64_t end) {
    Tile<V> tile(series, grad_parameters != nullptr, thread_scratch());
    for (int64_t task = begin; task < end; ++task) {
      const int64_t group = task / cut.tasks_per_group, first = task % cut.tasks_per_group * cut.per_task;
      const int64_t last = std::min(first + cut.per_task, cut.vectors);
      const auto start = Cursor(batch.groups, group).offset;
      Cursor cursor(batch.samples, first * W);
      if (grad_parameters) tile.clear_slopes();
      for (int64_t vector = first; vector < last; vector += kVectors) {
        const int used = static_cast<int>(std::min<int64_t>(kVectors, last - vector));
        Lanes<W> lanes[kVectors];
        for (int v = 0; v < used; ++v) {
          lanes[v].fill(batch, start, cursor, vector + v);
          gather<V>(batch, kInputs, lanes[v], tile.inputs + v, kVectors);
          if (!grad_parameters) continue;
          gather<V>(batch, kOutput, lanes[v], tile.outputs + v, kVectors);
          for (int o = 0; o < series.n_outputs; ++o)
            for (int lane = lanes[v].count; lane < W; ++lane) tile.outputs[o * kVectors + v][lane] = 0;
        }
        for (int v = used; v < kVectors; ++v) {  // beyond the batch: no angles, and no gradients
          for (int k = 0; k < series.n_inputs; ++k) tile.inputs[k * kVectors + v] = V{};
          for (int o = 0; o < series.n_outputs; ++o) tile.outputs[o * kVectors + v] = V{};
        }
        if (grad_parameters) {
          tile.backward(sets[group]);
          for (int v = 0; v < used; ++v) scatter<V>(batch, kGradInputs, lanes[v], tile.grad_inputs + v, kVectors);
        } else {
          tile.forward(sets[group]);
          for (int v = 0; v < used; ++v) scatter<V>(batch, kOutput, lanes[v], tile.outputs + v, kVectors);
        }
      }
      if (grad_parameters) tile.collect_slopes(slopes.data() + static_cast<size_t>(task) * count);
    }
    thread_scratch().release_large();
  });
  if (!grad_parameters) return;

  for (int64_t group = 0; group < batch.n_groups; ++group) {
    double* sum = slopes.data() + static_cast<size_t>(group * cut.tasks_per_group) * count;
    for (int64_t task = 1; task < cut.tasks_per_group; ++task)
      for (size_t k = 0; k < count; ++k) sum[k] += sum[static_cast<size_t>(task) * count + k];
    for (size_t k = 0; k < count; ++k)
      write(*grad_parameters, group * static_cast<int64_t>(count) + static_cast<int64_t>(k), sum[k]);
  }
}

}  // namespace

void forward(const Series& series, const Batch& batch, const View& parameters, const ParallelFor& parallel_for) {
  if (batch.tensor[kOutput].dtype == DType::f64)
    run<Vector<double, HQF_WIDEST>>(series, batch, parameters, nullptr, parallel_for);
  else
    run<Vector<float, HQF_WIDEST>>(series, batch, parameters, nullptr, parallel_for);
}

void backward(const Series& series, const Batch& batch, const View& parameters, const View& grad_parameters,
              const ParallelFor& parallel_for) {
  if (batch.tensor[kInputs].dtype == DType::f64)
    run<Vector<double, HQF_WIDEST>>(series, batch, parameters, &grad_parameters, parallel_for);
  else
    run<Vector<float, HQF_WIDEST>>(series, batch, parameters, &grad_parameters, parallel_for);
}

}  // namespace hqf::HQF_ARCH
