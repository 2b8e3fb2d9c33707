// The products of the unitary engine: states times a matrix that the batch shares, measured; and their gradients.
// Compiled once per instruction set.
#include "hqf/unitary.hpp"

#include <algorithm>
#include <cstring>
#include <vector>

#include "hqf/portable.hpp"
#include "hqf/products.hpp"

namespace hqf::HQF_ARCH {
namespace {

constexpr int64_t kChunkNumbers = 1 << 16;            // of a chunk of samples: they stay in the cache
constexpr int64_t kMostRows = 384, kFewestRows = 48;  // of a chunk
constexpr int64_t kChunks = 16;                       // at least, where there are samples enough
constexpr int64_t kSmallMatrix = 1 << 15;             // entries of a matrix of which each task adds up its own
constexpr int64_t kTasks = 64, kChunksPerTask = 4;    // at most and at least, for such a matrix
constexpr int64_t kSpanChunks = 32;                   // chunks that are kept together for a larger one
constexpr int64_t kProductsPerNanosecond = 32;        // multiply-adds of a core, for the cost of a task
constexpr int64_t kManySamples = 4096;                // from here on threads share the samples of a group

void on_this_thread(int64_t count, int64_t, const std::function<void(int64_t, int64_t)>& body) { body(0, count); }

// Panels of the matrix are J vectors wide: real parts of the amplitudes of kStates states, then their imaginary parts.
template <class V, int J>
class Products {
  using T = ScalarOf<V>;
  static constexpr int kHalf = J / 2;
  static constexpr int64_t W = kLanes<V>, kStates = kHalf * W, kWide = J * W;

 public:
  Products(const Born& born, const ParallelFor& parallel_for)
      : born_(born),
        parallel_for_(parallel_for),
        depth_(born.amplitudes),
        outputs_(born.outputs()),
        panels_((born.states + kStates - 1) / kStates),
        rows_(chunk_rows()),
        chunks_((born.samples + rows_ - 1) / rows_) {}

  void forward(const T* psi, const T* matrix, T* output) {
    const Memory<T> signs(signs_size());
    if (!born_.strings.empty()) fill_signs(signs.get());
    each_group([&](int64_t g, const ParallelFor& spread) {
      const Memory<T> packed(panels_ * depth_ * kWide);
      pack(matrix + g * depth_ * 2 * born_.states, packed.get(), spread);
      spread(chunks_, chunk_cost(), [&](int64_t begin, int64_t end) {
        const Memory<T> probabilities(panels_ * rows_ * kStates);
        for (int64_t c = begin; c < end; ++c) {
          const int64_t first = g * born_.samples + c * rows_;
          forward_chunk(psi + first * depth_, count_of(c), packed.get(), signs.get(), probabilities.get(),
                        output + first * outputs_);
        }
      });
    });
  }

  void backward(const T* grad, const T* psi, const T* matrix, T* grad_psi, T* grad_matrix) {
    const Memory<T> signs(panels_ * std::max<int64_t>(1, outputs_) * kStates);
    if (!born_.strings.empty()) fill_sign_rows(signs.get());
    const int64_t size = panels_ * depth_ * kWide;
    // A large matrix is added up by all threads together, a small one by each task for itself.
    const bool small = size <= kSmallMatrix;
    const int64_t per_task =
        small ? std::max(kChunksPerTask, (chunks_ + kTasks - 1) / kTasks) : std::max<int64_t>(1, chunks_);
    const int64_t tasks = (chunks_ + per_task - 1) / per_task;
    each_group([&](int64_t g, const ParallelFor& spread) {
      const Memory<T> packed(size), transposed(transposed_size());
      const T* own = matrix + g * depth_ * 2 * born_.states;
      pack(own, packed.get(), spread);
      pack_transposed(own, transposed.get(), spread);
      const Memory<double> sums(tasks * size);
      const int64_t start = g * born_.samples;
      const Chunks work{grad + start * outputs_, psi + start * depth_, grad_psi + start * depth_, packed.get(),
                        transposed.get(),        signs.get()};
      auto run = [&](int64_t begin, int64_t end, const ParallelFor& inner) {
        const int64_t span = small ? 1 : std::min(kSpanChunks, per_task);
        const Memory<T> slopes(span * rows_ * panels_ * kWide);
        for (int64_t task = begin; task < end; ++task) {
          double* sum = sums.get() + task * size;
          std::fill_n(sum, size, 0.0);
          const int64_t last = std::min(chunks_, (task + 1) * per_task);
          for (int64_t c = task * per_task; c < last; c += span)
            add_span(work, c, std::min(last, c + span), slopes.get(), sum, inner);
        }
      };
      if (small)
        spread(tasks, 3 * per_task * chunk_cost(),
               [&](int64_t begin, int64_t end) { run(begin, end, on_this_thread); });
      else
        run(0, tasks, spread);
      write_sums(sums.get(), tasks, grad_matrix + g * depth_ * 2 * born_.states);
    });
  }

 private:
  struct Chunks {
    const T *grad, *psi;
    T* grad_psi;
    const T *packed, *transposed, *signs;
  };

  int64_t chunk_rows() const {
    const int64_t per_sample = 2 * panels_ * kStates + depth_;
    const int64_t rows = std::clamp(kChunkNumbers / per_sample, kFewestRows, kMostRows);
    return rounded_up(std::clamp<int64_t>((born_.samples + kChunks - 1) / kChunks, 1, rows), kTileRows);
  }

  int64_t count_of(int64_t chunk) const { return std::min(rows_, born_.samples - chunk * rows_); }

  int64_t chunk_cost() const { return rows_ * depth_ * 2 * born_.states / kProductsPerNanosecond; }

  int64_t signs_size() const { return (outputs_ + W - 1) / W * W * panels_ * kStates; }

  // Columns of a panel of the transposed matrix.
  int64_t back() const { return depth_ <= W ? W : kWide; }

  int64_t transposed_size() const { return rounded_up(depth_, back()) * panels_ * kWide; }

  // Calls body for every group with what spreads its work: where a group has few samples, groups are spread instead.
  template <class Body>
  void each_group(const Body& body) {
    if (born_.groups == 1 || born_.samples >= kManySamples) {
      for (int64_t g = 0; g < born_.groups; ++g) body(g, parallel_for_);
      return;
    }
    const ParallelFor alone = on_this_thread;
    const int64_t cost = (born_.samples + 4) * depth_ * 4 * born_.states / kProductsPerNanosecond;
    parallel_for_(born_.groups, cost, [&](int64_t begin, int64_t end) {
      for (int64_t g = begin; g < end; ++g) body(g, alone);
    });
  }

  // Entry k, s of the matrix in its panel: real parts of kStates states, then their imaginary parts; zeros beyond.
  void pack(const T* matrix, T* packed, const ParallelFor& spread) const {
    spread(panels_, depth_ * kWide, [&](int64_t begin, int64_t end) {
      for (int64_t p = begin; p < end; ++p)
        for (int64_t k = 0; k < depth_; ++k)
          pack_row(matrix + 2 * k * born_.states, p, packed + (p * depth_ + k) * kWide);
    });
  }

  void pack_row(const T* row, int64_t panel, T* to) const {
    const int64_t first = panel * kStates, count = std::min(kStates, born_.states - first);
    for (int64_t j = 0; j < count; ++j) {
      to[j] = row[2 * (first + j)];
      to[kStates + j] = row[2 * (first + j) + 1];
    }
    for (int64_t j = count; j < kStates; ++j) to[j] = to[kStates + j] = 0;
  }

  // The transposed matrix, whose rows come in the order in which slopes are stored.
  void pack_transposed(const T* matrix, T* packed, const ParallelFor& spread) const {
    const int64_t order = panels_ * kWide, columns = back();
    spread(rounded_up(depth_, columns) / columns, order * columns, [&](int64_t begin, int64_t end) {
      std::vector<T> row(static_cast<size_t>(kWide));
      for (int64_t k = begin * columns; k < end * columns; ++k)
        for (int64_t p = 0; p < panels_; ++p) {
          if (k < depth_)
            pack_row(matrix + 2 * k * born_.states, p, row.data());
          else
            std::fill(row.begin(), row.end(), T{});
          T* to = packed + (k / columns * order + p * kWide) * columns + k % columns;
          for (int64_t d = 0; d < kWide; ++d) to[d * columns] = row[static_cast<size_t>(d)];
        }
    });
  }

  T sign(int64_t state, int64_t output) const {
    const auto bits = static_cast<uint32_t>(state & born_.strings[static_cast<size_t>(output)]);
    return static_cast<T>(parity(bits) ? -1 : 1);
  }

  // (outputs / W, states, W): a row of signs for each state.
  void fill_signs(T* signs) const {
    for (int64_t block = 0; block * W < outputs_; ++block)
      for (int64_t s = 0; s < panels_ * kStates; ++s)
        for (int64_t o = block * W; o < (block + 1) * W; ++o)
          *signs++ = s < born_.states && o < outputs_ ? sign(s, o) : T{};
  }

  // (panels, outputs, kStates): a row of signs for each output.
  void fill_sign_rows(T* signs) const {
    for (int64_t p = 0; p < panels_; ++p)
      for (int64_t o = 0; o < outputs_; ++o)
        for (int64_t s = p * kStates; s < (p + 1) * kStates; ++s) *signs++ = s < born_.states ? sign(s, o) : T{};
  }

  T norm(const T* row) const {
    V sum{};
    int64_t k = 0;
    for (; k + W <= depth_; k += W) {
      const V v = load<V>(row + k);
      sum += v * v;
    }
    T result = static_cast<T>(lane_sum<V>(sum));
    for (; k < depth_; ++k) result += row[k] * row[k];
    return result;
  }

  void forward_chunk(const T* psi, int64_t count, const T* packed, const T* signs, T* probabilities, T* output) const {
    T norms[kMostRows + kTileRows];
    for (int64_t r = 0; r < count; ++r) norms[r] = norm(psi + r * depth_);
    for (int64_t p = 0; p < panels_; ++p)
      for (int64_t r = 0; r < count; r += kTileRows) {
        V amplitude[kTileRows][J] = {};
        add_products<V>(RowPointers<T>(psi + r * depth_, depth_, count - r), 1, packed + p * depth_ * kWide, depth_,
                        amplitude);
        T* to = probabilities + (p * rows_ + r) * kStates;
        for (int i = 0; i < kTileRows; ++i)
          for (int h = 0; h < kHalf; ++h)
            store<V>(to + i * kStates + h * W,
                     amplitude[i][h] * amplitude[i][h] + amplitude[i][kHalf + h] * amplitude[i][kHalf + h]);
      }
    if (born_.strings.empty()) {
      for (int64_t r = 0; r < count; ++r)
        for (int64_t s = 0; s < outputs_; ++s)
          output[r * outputs_ + s] = probabilities[(s / kStates * rows_ + r) * kStates + s % kStates] / norms[r];
      return;
    }
    for (int64_t o = 0; o < outputs_; o += W)
      for (int64_t r = 0; r < count; r += kTileRows) {
        V value[kTileRows][1] = {};
        for (int64_t p = 0; p < panels_; ++p)
          add_products<V>(RowPointers<T>(probabilities + (p * rows_ + r) * kStates, kStates, count - r), 1,
                          signs + (o * panels_ + p * W) * kStates, kStates, value);
        for (int64_t i = 0; i < std::min<int64_t>(kTileRows, count - r); ++i)
          for (int64_t k = 0; k < std::min(W, outputs_ - o); ++k)
            output[(r + i) * outputs_ + o + k] = value[i][0][k] / norms[r + i];
      }
  }

  // Gradients of the states of chunks, and what they add to that of the matrix.
  void add_span(const Chunks& work, int64_t begin, int64_t end, T* slopes, double* sums,
                const ParallelFor& spread) const {
    const int64_t chunk_slopes = rows_ * panels_ * kWide;
    spread(end - begin, 2 * chunk_cost(), [&](int64_t first, int64_t last) {
      for (int64_t c = first; c < last; ++c) backward_chunk(work, begin + c, slopes + c * chunk_slopes);
    });
    const int64_t blocks = (depth_ + kTileRows - 1) / kTileRows;
    spread(panels_ * blocks, (end - begin) * rows_ * kTileRows * kWide / kProductsPerNanosecond,
           [&](int64_t first, int64_t last) {
             for (int64_t at = first; at < last; ++at) {
               const int64_t p = at / blocks, k = at % blocks * kTileRows;
               V sum[kTileRows][J] = {};
               for (int64_t c = begin; c < end; ++c)
                 add_products<V>(RowPointers<T>(work.psi + c * rows_ * depth_ + k, 1, depth_ - k), depth_,
                                 slopes + (c - begin) * chunk_slopes + p * rows_ * kWide, count_of(c), sum);
               for (int64_t i = 0; i < std::min<int64_t>(kTileRows, depth_ - k); ++i)
                 for (int j = 0; j < J; ++j)
                   for (int64_t lane = 0; lane < W; ++lane)
                     sums[(p * depth_ + k + i) * kWide + j * W + lane] += static_cast<double>(sum[i][j][lane]);
             }
           });
  }

  // slopes (panels, rows, kWide): the gradient of the amplitudes behind the matrix.
  void backward_chunk(const Chunks& work, int64_t chunk, T* slopes) const {
    const int64_t count = count_of(chunk), first = chunk * rows_;
    const T *psi = work.psi + first * depth_, *grad = work.grad + first * outputs_;
    T norms[kMostRows + kTileRows];
    for (int64_t r = 0; r < count; ++r) norms[r] = norm(psi + r * depth_);
    // Gradients over norms, one row for each sample; probabilities are padded to whole panels.
    const bool probabilities = born_.strings.empty();
    const int64_t width = probabilities ? panels_ * kStates : outputs_;
    const Memory<T> scaled(count * width);
    for (int64_t r = 0; r < count; ++r) {
      for (int64_t o = 0; o < outputs_; ++o) scaled.get()[r * width + o] = grad[r * outputs_ + o] / norms[r];
      std::fill_n(scaled.get() + r * width + outputs_, width - outputs_, T{});
    }
    V along_norm[kMostRows + kTileRows];
    std::fill_n(along_norm, rounded_up(count, kTileRows), V{});
    for (int64_t p = 0; p < panels_; ++p)
      for (int64_t r = 0; r < count; r += kTileRows) {
        V amplitude[kTileRows][J] = {}, along[kTileRows][kHalf] = {};
        add_products<V>(RowPointers<T>(psi + r * depth_, depth_, count - r), 1, work.packed + p * depth_ * kWide,
                        depth_, amplitude);
        const RowPointers<T> own(scaled.get() + r * width, width, count - r);
        if (probabilities)
          for (int i = 0; i < kTileRows; ++i)
            for (int h = 0; h < kHalf; ++h) along[i][h] = load<V>(own.row[i] + p * kStates + h * W);
        else
          add_products<V>(own, 1, work.signs + p * outputs_ * kStates, outputs_, along);
        T* to = slopes + (p * rows_ + r) * kWide;
        for (int i = 0; i < kTileRows; ++i)
          for (int h = 0; h < kHalf; ++h) {
            const V re = amplitude[i][h] * along[i][h], im = amplitude[i][kHalf + h] * along[i][h];
            along_norm[r + i] += amplitude[i][h] * re + amplitude[i][kHalf + h] * im;
            store<V>(to + i * kWide + h * W, re + re);
            store<V>(to + i * kWide + (kHalf + h) * W, im + im);
          }
      }
    T shrink[kMostRows];
    for (int64_t r = 0; r < count; ++r) shrink[r] = 2 * static_cast<T>(lane_sum<V>(along_norm[r])) / norms[r];
    T* grad_psi = work.grad_psi + first * depth_;
    if (back() == W)
      pull_back<1>(work.transposed, slopes, psi, shrink, count, grad_psi);
    else
      pull_back<J>(work.transposed, slopes, psi, shrink, count, grad_psi);
  }

  // Through the matrix from slopes to the states, less what their norms make of it. Panels are C vectors wide.
  template <int C>
  void pull_back(const T* transposed, const T* slopes, const T* psi, const T* shrink, int64_t count,
                 T* grad_psi) const {
    constexpr int64_t columns = C * W;
    const int64_t order = panels_ * kWide;
    for (int64_t k = 0; k < depth_; k += columns)
      for (int64_t r = 0; r < count; r += kTileRows) {
        V sum[kTileRows][C] = {};
        for (int64_t p = 0; p < panels_; ++p)
          add_products<V>(RowPointers<T>(slopes + (p * rows_ + r) * kWide, kWide, count - r), 1,
                          transposed + k * order + p * kWide * columns, kWide, sum);
        for (int64_t i = 0; i < std::min<int64_t>(kTileRows, count - r); ++i) {
          T row[columns];
          for (int j = 0; j < C; ++j) store<V>(row + j * W, sum[i][j]);
          T* to = grad_psi + (r + i) * depth_ + k;
          const T* from = psi + (r + i) * depth_ + k;
          for (int64_t j = 0; j < std::min(columns, depth_ - k); ++j) to[j] = row[j] - shrink[r + i] * from[j];
        }
      }
  }

  void write_sums(double* sums, int64_t tasks, T* grad_matrix) const {
    const int64_t size = panels_ * depth_ * kWide;
    if (tasks == 0) std::memset(grad_matrix, 0, static_cast<size_t>(2 * depth_ * born_.states) * sizeof(T));
    for (int64_t task = 1; task < tasks; ++task)
      for (int64_t k = 0; k < size; ++k) sums[k] += sums[task * size + k];
    if (tasks == 0) return;
    for (int64_t k = 0; k < depth_; ++k)
      for (int64_t s = 0; s < born_.states; ++s) {
        const double* from = sums + (s / kStates * depth_ + k) * kWide + s % kStates;
        *grad_matrix++ = static_cast<T>(from[0]);
        *grad_matrix++ = static_cast<T>(from[kStates]);
      }
  }

  const Born& born_;
  const ParallelFor& parallel_for_;
  const int64_t depth_, outputs_, panels_, rows_, chunks_;
};

template <class V>
void multiply(int64_t rows, int64_t depth, int64_t columns, const ScalarOf<V>* left, const ScalarOf<V>* right,
              ScalarOf<V>* result, const ParallelFor& parallel_for) {
  using T = ScalarOf<V>;
  constexpr int64_t kWide = kPanel<V>, W = kLanes<V>;
  const int64_t panels = (columns + kWide - 1) / kWide;
  const Memory<T> packed(panels * depth * kWide);
  for (int64_t p = 0; p < panels; ++p)
    for (int64_t k = 0; k < depth; ++k)
      for (int64_t j = 0; j < kWide; ++j)
        packed.get()[(p * depth + k) * kWide + j] = p * kWide + j < columns ? right[k * columns + p * kWide + j] : T{};
  const int64_t blocks = (rows + kTileRows - 1) / kTileRows;
  parallel_for(blocks, kTileRows * panels * kWide * depth / kProductsPerNanosecond, [&](int64_t begin, int64_t end) {
    for (int64_t p = 0; p < panels; ++p)
      for (int64_t r = begin * kTileRows; r < std::min(rows, end * kTileRows); r += kTileRows) {
        V sum[kTileRows][kTileVectors] = {};
        add_products<V>(RowPointers<T>(left + r * depth, depth, rows - r), 1, packed.get() + p * depth * kWide, depth,
                        sum);
        for (int64_t i = 0; i < std::min<int64_t>(kTileRows, rows - r); ++i)
          for (int64_t j = 0; j < std::min(kWide, columns - p * kWide); ++j)
            result[(r + i) * columns + p * kWide + j] = sum[i][j / W][j % W];
      }
  });
}

// The narrowest panels that hold all states, or the widest.
template <class T, class Body>
void with_products(const Born& born, const ParallelFor& parallel_for, const Body& body) {
  using V = Vector<T, HQF_WIDEST>;
  if (born.states <= kLanes<V>)
    body(Products<V, 2>(born, parallel_for));
  else
    body(Products<V, kTileVectors>(born, parallel_for));
}

}  // namespace

#define HQF_DEFINE_PRODUCTS(T)                                                                                     \
  void born_forward(const Born& born, const T* psi, const T* matrix, T* output, const ParallelFor& parallel_for) { \
    with_products<T>(born, parallel_for, [&](auto products) { products.forward(psi, matrix, output); });           \
  }                                                                                                                \
  void born_backward(const Born& born, const T* grad, const T* psi, const T* matrix, T* grad_psi, T* grad_matrix,  \
                     const ParallelFor& parallel_for) {                                                            \
    with_products<T>(born, parallel_for,                                                                           \
                     [&](auto products) { products.backward(grad, psi, matrix, grad_psi, grad_matrix); });         \
  }                                                                                                                \
  void product(int64_t rows, int64_t depth, int64_t columns, const T* left, const T* right, T* result,             \
               const ParallelFor& parallel_for) {                                                                  \
    multiply<Vector<T, HQF_WIDEST>>(rows, depth, columns, left, right, result, parallel_for);                      \
  }

HQF_DEFINE_PRODUCTS(float)
HQF_DEFINE_PRODUCTS(double)

#undef HQF_DEFINE_PRODUCTS

}  // namespace hqf::HQF_ARCH
