#include "hqf/propagation.hpp"

#include <cmath>
#include <utility>
#include <vector>

#include "hqf/program.hpp"
#include "hqf/recipes.hpp"
#include "hqf/words.hpp"

namespace hqf::propagation {
namespace {

struct Pair {
  int p, q;
  double sign;
};

struct Entry {
  int to, from;
  double factor;
};

// Either turns pairs by an angle, or replaces all numbers by sums of them.
struct Step {
  bool turns;
  Angle angle;
  std::vector<Pair> pairs;
  int size;  // how many numbers there are afterwards
  std::vector<Entry> entries;
};

struct Recipe {
  int n_weights;
  std::vector<double> initial;
  std::vector<Step> steps;
  std::vector<Angle> shifts;
  int n_coefficients;
};

Angle read_angle(Words& words, int n_weights) {
  Angle angle;
  angle.constant = words.real();
  angle.weights.resize(words.length(2));
  for (auto& term : angle.weights) {
    term.index = words.number<int>(0, n_weights - 1);
    term.factor = words.real();
  }
  return angle;
}

Recipe parse(const std::string& text) {
  constexpr int kMany = 1 << 24;  // also of all numbers at any time: the gradient keeps them
  Words words(text);
  if (words.word() != "propagation1") throw std::invalid_argument("propagation: unknown format");
  Recipe r{};
  r.n_weights = words.count(kMany);
  r.initial.resize(words.length(1));
  for (auto& number : r.initial) number = words.real();
  int size = static_cast<int>(r.initial.size());
  int64_t total = size;
  r.steps.resize(words.length(3));
  for (auto& step : r.steps) {
    const auto kind = words.word();
    step.turns = kind == "turn";
    if (step.turns) {
      step.angle = read_angle(words, r.n_weights);
      step.pairs.resize(words.length(3));
      for (auto& pair : step.pairs) {
        pair.p = words.number<int>(0, size - 1);
        pair.q = words.number<int>(0, size - 1);
        pair.sign = words.number<int>(-1, 1);
      }
    } else if (kind == "collect") {
      const int before = std::exchange(size, words.count(kMany));
      total += size;
      if (total > kMany) throw std::invalid_argument("propagation: too many numbers");
      step.entries.resize(words.length(3));
      for (auto& entry : step.entries) {
        entry.to = words.number<int>(0, size - 1);
        entry.from = words.number<int>(0, before - 1);
        entry.factor = words.real();
      }
    } else {
      throw std::invalid_argument("propagation: unknown step '" + std::string(kind) + "'");
    }
    step.size = size;
  }
  r.n_coefficients = size;
  r.shifts.resize(words.length(2));
  for (auto& shift : r.shifts) shift = read_angle(words, r.n_weights);
  words.finish();
  return r;
}

double value(const Angle& angle, const double* weights) {
  double sum = angle.constant;
  for (const auto& term : angle.weights) sum += term.factor * weights[term.index];
  return sum;
}

// (p, q) -> (c p - s q, c q + s p) for all pairs, s with the pair's sign.
void turn(const std::vector<Pair>& pairs, double c, double s, std::vector<double>& numbers) {
  for (const auto& pair : pairs) {
    const double p = numbers[pair.p], q = numbers[pair.q], along = pair.sign * s;
    numbers[pair.p] = c * p - along * q;
    numbers[pair.q] = c * q + along * p;
  }
}

// The coefficients; `before` gets the numbers that each collection replaced.
std::vector<double> run(const Recipe& r, const double* weights, std::vector<std::vector<double>>* before) {
  std::vector<double> numbers = r.initial;
  for (const auto& step : r.steps) {
    if (step.turns) {
      const double angle = value(step.angle, weights);
      turn(step.pairs, std::cos(angle), std::sin(angle), numbers);
      continue;
    }
    std::vector<double> sums(step.size);
    for (const auto& entry : step.entries) sums[entry.to] += entry.factor * numbers[entry.from];
    std::swap(numbers, sums);
    if (before) before->push_back(std::move(sums));
  }
  return numbers;
}

void check(const Recipe& r, int64_t n_weights) {
  if (n_weights != r.n_weights) throw std::invalid_argument("propagation: weights do not fit the text");
}

// What one set of weights takes, see ParallelFor; twice that backward.
int64_t cost(const Recipe& r) {
  int64_t numbers = 0;
  for (const auto& step : r.steps) numbers += static_cast<int64_t>(step.pairs.size() + step.entries.size());
  return 2 * numbers;
}

int64_t length(const Recipe& r) { return r.n_coefficients + static_cast<int64_t>(r.shifts.size()); }

void add(const Angle& angle, double slope, double* grad_weights) {
  for (const auto& term : angle.weights) grad_weights[term.index] += term.factor * slope;
}

}  // namespace

int64_t n_outputs(const std::string& text) { return length(*cached(text, parse)); }

void forward(const std::string& text, const double* weights, int64_t n_sets, int64_t n_weights, double* results,
             const ParallelFor& parallel_for) {
  const auto recipe = cached(text, parse);
  const Recipe& r = *recipe;
  check(r, n_weights);
  parallel_for(n_sets, cost(r), [&](int64_t begin, int64_t end) {
    for (int64_t set = begin; set < end; ++set) {
      const double* w = weights + set * n_weights;
      double* out = results + set * length(r);
      for (const double number : run(r, w, nullptr)) *out++ = number;
      for (const auto& shift : r.shifts) *out++ = value(shift, w);
    }
  });
}

void backward(const std::string& text, const double* grad, const double* weights, int64_t n_sets, int64_t n_weights,
              double* grad_weights, const ParallelFor& parallel_for) {
  const auto recipe = cached(text, parse);
  const Recipe& r = *recipe;
  check(r, n_weights);
  parallel_for(n_sets, 2 * cost(r), [&](int64_t begin, int64_t end) {
    for (int64_t set = begin; set < end; ++set) {
      const double *w = weights + set * n_weights, *g = grad + set * length(r);
      double* out = grad_weights + set * n_weights;
      std::fill_n(out, n_weights, 0.0);
      std::vector<std::vector<double>> before;
      std::vector<double> numbers = run(r, w, &before);
      std::vector<double> slopes(g, g + r.n_coefficients);
      for (size_t k = 0; k < r.shifts.size(); ++k) add(r.shifts[k], g[r.n_coefficients + k], out);
      for (auto step = r.steps.rbegin(); step != r.steps.rend(); ++step) {
        if (!step->turns) {
          numbers = std::move(before.back());
          before.pop_back();
          std::vector<double> earlier(numbers.size());
          for (const auto& entry : step->entries) earlier[entry.from] += entry.factor * slopes[entry.to];
          slopes = std::move(earlier);
          continue;
        }
        double slope = 0;
        for (const auto& pair : step->pairs)
          slope += pair.sign * (slopes[pair.q] * numbers[pair.p] - slopes[pair.p] * numbers[pair.q]);
        add(step->angle, slope, out);
        const double angle = value(step->angle, w), c = std::cos(angle), s = std::sin(angle);
        turn(step->pairs, c, -s, numbers);
        turn(step->pairs, c, -s, slopes);
      }
    }
  });
}

}  // namespace hqf::propagation
