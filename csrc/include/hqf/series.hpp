// A trigonometric polynomial in several inputs: which products of cosines and sines it has.
//
// y_o(x) = sum over rows r of C[r, o] F_A[a_r](x) F_B[b_r](x). F_A holds all products of the features
// 1, cos(u x), sin(u x), cos(2 u x), sin(2 u x), ... of the first axes, F_B those of the others, the last axis running
// fastest. Rows that are known to be zero are left out.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace hqf {

struct Axis {
  int input;
  double unit;  // u
  int degree;   // features up to cos and sin of degree * u * x

  int size() const { return 2 * degree + 1; }
};

struct Series {
  int n_inputs, n_outputs;
  std::vector<Axis> axes;
  int split;                   // axes before it belong to A
  int size_a = 1, size_b = 1;  // lengths of F_A and F_B
  std::vector<int> row_b;      // b of each row, rows sorted by a
  std::vector<int> row_start;  // row_start[a] .. row_start[a + 1]: the rows of a

  int n_rows() const { return static_cast<int>(row_b.size()); }
};

// Reads what hqfkernels.engines.fourier writes. Throws std::invalid_argument for other text.
Series parse_series(const std::string& text);

}  // namespace hqf
