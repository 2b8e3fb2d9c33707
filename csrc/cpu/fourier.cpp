// The Fourier contraction: trigonometric polynomials of a batch of samples, and their gradients. Compiled once per
// instruction set.
#include <algorithm>
#include <utility>
#include <vector>

#include "hqf/lanes.hpp"
#include "hqf/variants.hpp"

namespace hqf::HQF_ARCH {
namespace {

constexpr int kVectors = 8;  // vectors of samples that are handled together, so that coefficients are read once for all
constexpr int kSeriesTasks = 64;

// Features and gradients of kVectors vectors; entry k of vector v is at [k * kVectors + v].
template <class V>
class Tile {
  using T = ScalarOf<V>;

 public:
  Tile(const Series& series, bool gradients, Scratch& scratch) : series_(series), n_outputs_(series.n_outputs) {
    int waves = 0;
    for (const auto& axis : series.axes) waves += axis.size();
    const size_t coefficients = gradients ? static_cast<size_t>(series.n_rows()) * n_outputs_ : 0;
    const size_t features = series.size_a + series.size_b;
    V* next = scratch.reserve<V>(coefficients + series.n_inputs + n_outputs_ +
                                 kVectors * (waves + (gradients ? 2 : 1) * features + n_outputs_));
    auto take = [&](size_t count) { return std::exchange(next, next + count); };
    waves_ = take(kVectors * waves);
    a_ = take(kVectors * series.size_a);
    b_ = take(kVectors * series.size_b);
    outputs_ = take(kVectors * n_outputs_);
    inputs = take(series.n_inputs);
    lane_outputs = take(n_outputs_);
    if (!gradients) return;
    grad_a_ = take(kVectors * series.size_a);
    grad_b_ = take(kVectors * series.size_b);
    grad_coefficients_ = take(coefficients);
  }

  V* inputs;        // of one vector, before set_inputs
  V* lane_outputs;  // of one vector, after get_outputs or before set_outputs

  // Features of vector v from inputs.
  void set_inputs(int v) {
    V* wave = waves_ + v;
    for (int k = 0; k < static_cast<int>(series_.axes.size()); ++k) {
      const Axis& axis = series_.axes[k];
      V s, c;
      sincos<V>(reduce_angle<V>(inputs[axis.input] * static_cast<T>(axis.unit)), s, c);
      wave[0] = splat<V>(1);
      wave[kVectors] = c;
      wave[2 * kVectors] = s;
      for (int m = 2; m <= axis.degree; ++m) {  // turned on by the angle of the first
        const V last_c = wave[(2 * m - 3) * kVectors], last_s = wave[(2 * m - 2) * kVectors];
        wave[(2 * m - 1) * kVectors] = last_c * c - last_s * s;
        wave[2 * m * kVectors] = last_s * c + last_c * s;
      }
      wave += axis.size() * kVectors;
    }
    products(a_ + v, waves_ + v, 0, series_.split);
    products(b_ + v, wave_of(series_.split) + v, series_.split, static_cast<int>(series_.axes.size()));
  }

  void set_outputs(int v) {
    for (int o = 0; o < n_outputs_; ++o) outputs_[o * kVectors + v] = lane_outputs[o];
  }

  void get_outputs(int v) {
    for (int o = 0; o < n_outputs_; ++o) lane_outputs[o] = outputs_[o * kVectors + v];
  }

  void contract(const T* coefficients) {
    blocks_of_outputs([&](auto block, int first) {
      for (int v = 0; v < kVectors; v += 2) contract_block<decltype(block)::value>(coefficients, first, v);
    });
  }

  // From outputs as gradients: gradients of the features, and those of the coefficients are added up.
  void adjoint(const T* coefficients) {
    std::fill_n(grad_a_, kVectors * series_.size_a, V{});
    std::fill_n(grad_b_, kVectors * series_.size_b, V{});
    blocks_of_outputs([&](auto block, int first) {
      for (int v = 0; v < kVectors; v += 2) feature_gradients<decltype(block)::value>(coefficients, first, v);
      coefficient_gradients<decltype(block)::value>(first);
    });
  }

  // Gradients of the inputs of vector v, into inputs.
  void get_grad_inputs(int v) {
    std::fill_n(inputs, series_.n_inputs, V{});
    input_gradients(grad_a_ + v, a_ + v, v, 0, series_.split, series_.size_a);
    input_gradients(grad_b_ + v, b_ + v, v, series_.split, static_cast<int>(series_.axes.size()), series_.size_b);
  }

  void clear_slopes() { std::fill_n(grad_coefficients_, series_.n_rows() * n_outputs_, V{}); }

  void collect_slopes(double* sums) const {
    for (int k = 0; k < series_.n_rows() * n_outputs_; ++k) sums[k] = lane_sum<V>(grad_coefficients_[k]);
  }

 private:
  V* wave_of(int axis) const {
    V* wave = waves_;
    for (int k = 0; k < axis; ++k) wave += series_.axes[k].size() * kVectors;
    return wave;
  }

  // All products of one feature of each axis; those of the first axes alone stay in place as multiples of constants 1.
  void products(V* out, const V* wave, int first, int last) {
    out[0] = splat<V>(1);
    int count = 1;
    for (int k = first; k < last; ++k) {
      const int size = series_.axes[k].size();
      for (int i = count; i-- > 0;) {
        const V base = out[i * kVectors];
        out[i * size * kVectors] = base;
        for (int j = 1; j < size; ++j) out[(i * size + j) * kVectors] = base * wave[j * kVectors];
      }
      count *= size;
      wave += size * kVectors;
    }
  }

  // Reverse of products() and of the features: adds to inputs.
  void input_gradients(V* grad, const V* feature, int v, int first, int last, int count) {
    int stride = 1;  // of the products of the axes up to k among those of all
    for (int k = last; k-- > first;) {
      const Axis& axis = series_.axes[k];
      const int size = axis.size();
      const V* wave = wave_of(k) + v;
      count /= size;
      V slope = {};
      for (int m = 1; m <= axis.degree; ++m) {
        V along_cos = {}, along_sin = {};
        for (int i = 0; i < count; ++i) {
          const V base = feature[i * size * stride * kVectors];
          along_cos += grad[(i * size + 2 * m - 1) * kVectors] * base;
          along_sin += grad[(i * size + 2 * m) * kVectors] * base;
        }
        slope += (along_sin * wave[(2 * m - 1) * kVectors] - along_cos * wave[2 * m * kVectors]) *
                 static_cast<T>(m * axis.unit);
      }
      inputs[axis.input] += slope;
      for (int i = 0; i < count; ++i) {
        V sum = grad[i * size * kVectors];
        for (int j = 1; j < size; ++j) sum += grad[(i * size + j) * kVectors] * wave[j * kVectors];
        grad[i * kVectors] = sum;
      }
      stride *= size;
    }
  }

  template <class Body>
  void blocks_of_outputs(const Body& body) {
    int first = 0;
    for (; first + 4 <= n_outputs_; first += 4) body(std::integral_constant<int, 4>{}, first);
    for (; first + 2 <= n_outputs_; first += 2) body(std::integral_constant<int, 2>{}, first);
    if (first < n_outputs_) body(std::integral_constant<int, 1>{}, first);
  }

  template <int N>
  void contract_block(const T* coefficients, int first, int v) {
    V sum[N][2] = {};
    for (int a = 0; a < series_.size_a; ++a) {
      const int begin = series_.row_start[a], end = series_.row_start[a + 1];
      if (begin == end) continue;
      V inner[N][2] = {};
      for (int r = begin; r < end; ++r) {
        const V* b = b_ + series_.row_b[r] * kVectors + v;
        const T* c = coefficients + static_cast<int64_t>(r) * n_outputs_ + first;
#pragma GCC unroll 4
        for (int o = 0; o < N; ++o) {
          inner[o][0] += b[0] * c[o];
          inner[o][1] += b[1] * c[o];
        }
      }
      const V* f = a_ + a * kVectors + v;
#pragma GCC unroll 4
      for (int o = 0; o < N; ++o) {
        sum[o][0] += f[0] * inner[o][0];
        sum[o][1] += f[1] * inner[o][1];
      }
    }
    for (int o = 0; o < N; ++o)
      for (int k = 0; k < 2; ++k) outputs_[(first + o) * kVectors + v + k] = sum[o][k];
  }

  template <int N>
  void feature_gradients(const T* coefficients, int first, int v) {
    V g[N][2];
    for (int o = 0; o < N; ++o)
      for (int k = 0; k < 2; ++k) g[o][k] = outputs_[(first + o) * kVectors + v + k];
    for (int a = 0; a < series_.size_a; ++a) {
      const int begin = series_.row_start[a], end = series_.row_start[a + 1];
      if (begin == end) continue;
      const V f0 = a_[a * kVectors + v], f1 = a_[a * kVectors + v + 1];
      V sum0 = {}, sum1 = {};
      for (int r = begin; r < end; ++r) {
        const T* c = coefficients + static_cast<int64_t>(r) * n_outputs_ + first;
        V t0 = g[0][0] * c[0], t1 = g[0][1] * c[0];
#pragma GCC unroll 4
        for (int o = 1; o < N; ++o) {
          t0 += g[o][0] * c[o];
          t1 += g[o][1] * c[o];
        }
        const int b = series_.row_b[r] * kVectors + v;
        sum0 += t0 * b_[b];
        sum1 += t1 * b_[b + 1];
        grad_b_[b] += t0 * f0;
        grad_b_[b + 1] += t1 * f1;
      }
      grad_a_[a * kVectors + v] += sum0;
      grad_a_[a * kVectors + v + 1] += sum1;
    }
  }

  template <int N>
  void coefficient_gradients(int first) {
    for (int a = 0; a < series_.size_a; ++a) {
      const int end = series_.row_start[a + 1];
      int r = series_.row_start[a];
      for (; r + 2 <= end; r += 2) coefficient_rows<N, 2>(first, a, r);
      if (r < end) coefficient_rows<N, 1>(first, a, r);
    }
  }

  // Two rows at once share their loads of f and g.
  template <int N, int Rows>
  void coefficient_rows(int first, int a, int r) {
    const V *f = a_ + a * kVectors, *g = outputs_ + first * kVectors;
    const V* b[Rows];
    for (int k = 0; k < Rows; ++k) b[k] = b_ + series_.row_b[r + k] * kVectors;
    V sum[Rows][N] = {};
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      V product[Rows];
#pragma GCC unroll 2
      for (int k = 0; k < Rows; ++k) product[k] = f[v] * b[k][v];
#pragma GCC unroll 4
      for (int o = 0; o < N; ++o) {
#pragma GCC unroll 2
        for (int k = 0; k < Rows; ++k) sum[k][o] += product[k] * g[o * kVectors + v];
      }
    }
    for (int k = 0; k < Rows; ++k)
      for (int o = 0; o < N; ++o) grad_coefficients_[static_cast<int64_t>(r + k) * n_outputs_ + first + o] += sum[k][o];
  }

  const Series& series_;
  const int n_outputs_;
  V *waves_, *a_, *b_, *outputs_, *grad_a_ = nullptr, *grad_b_ = nullptr, *grad_coefficients_ = nullptr;
};

template <class V>
void run(const Series& series, const Batch& batch, const View& coefficients, const View* grad_coefficients,
         const ParallelFor& parallel_for) {
  using T = ScalarOf<V>;
  constexpr int W = kLanes<V>;
  const Cut cut(batch, W, kSeriesTasks, kVectors);
  const size_t entries = static_cast<size_t>(series.n_rows()) * series.n_outputs;

  std::vector<T> sets(static_cast<size_t>(batch.n_groups) * entries);
  for (int64_t group = 0; group < batch.n_groups; ++group) {
    const int64_t offset = Cursor(batch.groups, group).offset[kWeights];
    for (size_t k = 0; k < entries; ++k)
      sets[group * entries + k] =
          static_cast<T>(read(coefficients, offset + static_cast<int64_t>(k) * batch.weight_stride));
  }

  const int64_t tasks = batch.n_groups * cut.tasks_per_group;
  std::vector<double> slopes(grad_coefficients ? static_cast<size_t>(tasks) * entries : 0);
  parallel_for(tasks, [&](int64_t begin, int64_t end) {
    Tile<V> tile(series, grad_coefficients != nullptr, thread_scratch());
    for (int64_t task = begin; task < end; ++task) {
      const int64_t group = task / cut.tasks_per_group, first = task % cut.tasks_per_group * cut.per_task;
      const int64_t last = std::min(first + cut.per_task, cut.vectors);
      const T* set = &sets[group * entries];
      const auto start = Cursor(batch.groups, group).offset;
      Cursor cursor(batch.samples, first * W);
      if (grad_coefficients) tile.clear_slopes();
      for (int64_t vector = first; vector < last; vector += kVectors) {
        const int count = static_cast<int>(std::min<int64_t>(kVectors, last - vector));
        LaneOffsets<W> lanes[kVectors];
        for (int v = 0; v < kVectors; ++v) {
          if (v < count) {
            lanes[v].fill(batch, start, cursor, vector + v);
            gather<V>(batch.tensor[kInputs], lanes[v].at[kInputs], batch.places[kInputs], tile.inputs);
          } else {
            std::fill_n(tile.inputs, series.n_inputs, V{});
          }
          tile.set_inputs(v);
          if (!grad_coefficients) continue;
          if (v < count) {
            gather<V>(batch.tensor[kOutput], lanes[v].at[kOutput], batch.places[kOutput], tile.lane_outputs);
            for (int o = 0; o < series.n_outputs; ++o)
              for (int lane = lanes[v].count; lane < W; ++lane) tile.lane_outputs[o][lane] = 0;
          } else {
            std::fill_n(tile.lane_outputs, series.n_outputs, V{});
          }
          tile.set_outputs(v);
        }
        if (!grad_coefficients) {
          tile.contract(set);
          for (int v = 0; v < count; ++v) {
            tile.get_outputs(v);
            scatter<V>(batch.tensor[kOutput], lanes[v].at[kOutput], lanes[v].count, batch.places[kOutput],
                       tile.lane_outputs);
          }
          continue;
        }
        tile.adjoint(set);
        for (int v = 0; v < count; ++v) {
          tile.get_grad_inputs(v);
          scatter<V>(batch.tensor[kGradInputs], lanes[v].at[kGradInputs], lanes[v].count, batch.places[kGradInputs],
                     tile.inputs);
        }
      }
      if (grad_coefficients) tile.collect_slopes(&slopes[static_cast<size_t>(task) * entries]);
    }
    thread_scratch().release_large();
  });
  if (!grad_coefficients) return;

  for (int64_t group = 0; group < batch.n_groups; ++group) {
    double* sum = &slopes[static_cast<size_t>(group * cut.tasks_per_group) * entries];
    for (int64_t task = 1; task < cut.tasks_per_group; ++task)
      for (size_t k = 0; k < entries; ++k) sum[k] += sum[static_cast<size_t>(task) * entries + k];
    for (size_t k = 0; k < entries; ++k)
      write(*grad_coefficients, group * static_cast<int64_t>(entries) + static_cast<int64_t>(k), sum[k]);
  }
}

}  // namespace

void forward(const Series& series, const Batch& batch, const View& coefficients, const ParallelFor& parallel_for) {
  if (batch.tensor[kOutput].dtype == DType::f64)
    run<Vector<double, HQF_WIDEST>>(series, batch, coefficients, nullptr, parallel_for);
  else
    run<Vector<float, HQF_WIDEST>>(series, batch, coefficients, nullptr, parallel_for);
}

void backward(const Series& series, const Batch& batch, const View& coefficients, const View& grad_coefficients,
              const ParallelFor& parallel_for) {
  if (batch.tensor[kInputs].dtype == DType::f64)
    run<Vector<double, HQF_WIDEST>>(series, batch, coefficients, &grad_coefficients, parallel_for);
  else
    run<Vector<float, HQF_WIDEST>>(series, batch, coefficients, &grad_coefficients, parallel_for);
}

}  // namespace hqf::HQF_ARCH
