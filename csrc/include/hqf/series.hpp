// Trigonometric polynomials in several inputs: which products of cosines and sines they have.
//
// y_o(x) = sum over terms (a, b) of C[o, a, b] F_A[a](u) F_B[b](u) with u_j = unit_j x_j + shift_j. F_A holds all
// products of the features 1, cos u, sin u, cos 2u, sin 2u, ... of the first axes, F_B those of the others, the last
// axis running fastest. Terms that are known to be zero are left out.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace hqf {

// Cosine and sine of unit * input, shared by all axes that have them.
struct Wave {
  int input;
  double unit;
  int n_axes = 0;  // how many turn it
};

// An input of one circuit. Its features are numbered: cos u has the number first_feature, sin u the next one, then come
// cos 2u, sin 2u, ...
struct Axis {
  int input;
  double unit;
  int degree;  // features up to cos and sin of degree * u
  int wave;    // its index among the series' waves
  bool first_of_wave, first_of_input;
  int first_feature;
};

// Feature `result` is left * right. `first_left`: its gradient is the first that the feature `left` gets on the way
// back.
struct Product {
  int result, left, right;
  bool first_left, first_right;
};

// The terms of one output, sorted twice: a run has one a, a column one b.
struct Terms {
  struct Range {
    int feature;     // that of a run's a, or of a column's b
    int begin, end;  // of its terms
    bool first;      // its gradient is the first that the feature gets
  };
  int first = 0;            // of its coefficients, among those of the member
  std::vector<Range> runs;  // begin and end count coefficients
  std::vector<int> b;       // feature of each coefficient
  std::vector<Range> columns;
  std::vector<int> run, coefficient;  // of each entry of the columns
};

// The polynomials of one circuit.
struct Member {
  std::vector<Axis> axes;
  int n_features = 1;             // feature 0 is 1
  std::vector<Product> products;  // in the order of computation
  std::vector<Terms> terms;       // of each output
  int n_terms = 0;
  int64_t first_parameter = 0;  // of its coefficients, which its shifts follow
  int first_output = 0;
};

struct Series {
  int n_inputs, n_outputs = 0;
  int64_t n_parameters = 0;
  std::vector<Wave> waves;
  std::vector<Member> members;
};

// Reads what hqfkernels/series.py writes. Throws std::invalid_argument for other text.
Series parse_series(const std::string& text);

}  // namespace hqf
