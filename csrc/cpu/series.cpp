#include "hqf/series.hpp"

#include <algorithm>
#include <map>
#include <numeric>
#include <stdexcept>

#include "hqf/words.hpp"

namespace hqf {
namespace {

constexpr int kMany = 1 << 24;
constexpr int kManyFeatures = 1 << 20;  // of all members: a tile holds eight vectors of each

// Features of a member by what they are made of, so that only those that terms need are computed.
class Features {
 public:
  explicit Features(Member& member) : member_(member) {}

  // The product that `index` stands for among all those of the axes from first to last.
  int find(int index, int first, int last) {
    int feature = 0;
    for (int k = last; k-- > first;) {
      const Axis& axis = member_.axes[k];
      const int size = 2 * axis.degree + 1, own = index % size;
      index /= size;
      if (own) feature = times(axis.first_feature + own - 1, feature);
    }
    return feature;
  }

 private:
  int times(int left, int right) {
    if (right == 0) return left;
    const auto [found, fresh] = made_.try_emplace({left, right}, member_.n_features);
    if (fresh) member_.products.push_back({member_.n_features++, left, right, false, false});
    return found->second;
  }

  Member& member_;
  std::map<std::pair<int, int>, int> made_;
};

Terms read_terms(Words& words, const Member& member, int split, int size_a, int size_b, Features& features) {
  Terms terms;
  const int count = words.length(2), n_axes = static_cast<int>(member.axes.size());
  int last = 0;
  std::vector<int> run_of(count);
  for (int t = 0; t < count; ++t) {
    const int a = words.number<int>(last, size_a - 1);
    if (t == 0 || a != last) terms.runs.push_back({features.find(a, 0, split), t, t, false});
    terms.b.push_back(features.find(words.number<int>(0, size_b - 1), split, n_axes));
    terms.runs.back().end = t + 1;
    run_of[t] = static_cast<int>(terms.runs.size()) - 1;
    last = a;
  }
  std::vector<int> order(count);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int s, int t) { return terms.b[s] < terms.b[t]; });
  for (const int t : order) {
    const int b = terms.b[t];
    if (b == 0) continue;  // the feature 1 has no gradient
    if (terms.columns.empty() || b != terms.columns.back().feature) {
      const int begin = static_cast<int>(terms.run.size());
      terms.columns.push_back({b, begin, begin, false});
    }
    terms.run.push_back(run_of[t]);
    terms.coefficient.push_back(t);
    ++terms.columns.back().end;
  }
  return terms;
}

// Tells which gradient is the first that reaches a feature, in the order of the backward pass.
void mark_first(Member& member) {
  std::vector<bool> reached(member.n_features);
  auto first = [&](int feature) {
    const bool fresh = !reached[feature];
    reached[feature] = true;
    return fresh;
  };
  for (auto& terms : member.terms) {
    for (auto& run : terms.runs) run.first = first(run.feature);
    for (auto& column : terms.columns) column.first = first(column.feature);
  }
  for (auto product = member.products.rbegin(); product != member.products.rend(); ++product) {
    product->first_left = first(product->left);
    product->first_right = first(product->right);
  }
}

int find_wave(std::vector<Wave>& waves, int input, double unit) {
  const auto found =
      std::find_if(waves.begin(), waves.end(), [&](const Wave& w) { return w.input == input && w.unit == unit; });
  const int index = static_cast<int>(found - waves.begin());
  if (found == waves.end()) waves.push_back({input, unit});
  return index;
}

}  // namespace

Series parse_series(const std::string& text) {
  Words words(text);
  if (words.word() != "series2") throw std::invalid_argument("series: unknown format, expected series2");
  Series s{};
  s.n_inputs = words.count(kMany);
  std::vector<bool> seen(s.n_inputs);
  s.members.resize(words.length(4));
  int64_t n_features = 0;
  for (auto& member : s.members) {
    member.axes.resize(words.length(3));
    const int split = words.count(static_cast<int>(member.axes.size()));
    int size_a = 1, size_b = 1;
    for (size_t k = 0; k < member.axes.size(); ++k) {
      auto& axis = member.axes[k];
      axis.input = words.number<int>(0, s.n_inputs - 1);
      axis.unit = words.real();
      axis.degree = words.number<int>(1, 1 << 10);
      axis.wave = find_wave(s.waves, axis.input, axis.unit);
      axis.first_of_wave = s.waves[axis.wave].n_axes++ == 0;
      axis.first_of_input = !seen[axis.input];
      seen[axis.input] = true;
      axis.first_feature = member.n_features;
      member.n_features += 2 * axis.degree;
      int& size = static_cast<int>(k) < split ? size_a : size_b;
      if (size > kMany / (2 * axis.degree + 1)) throw std::invalid_argument("series: too many features");
      size *= 2 * axis.degree + 1;
    }
    member.first_parameter = s.n_parameters;
    member.first_output = s.n_outputs;
    Features features(member);
    for (int left = words.length(1); left-- > 0;) {
      auto& terms = member.terms.emplace_back(read_terms(words, member, split, size_a, size_b, features));
      terms.first = member.n_terms;
      member.n_terms += static_cast<int>(terms.b.size());
    }
    n_features += member.n_features;
    if (n_features > kManyFeatures) throw std::invalid_argument("series: too many features");
    mark_first(member);
    s.n_parameters += member.n_terms + static_cast<int64_t>(member.axes.size());
    s.n_outputs += static_cast<int>(member.terms.size());
  }
  words.finish();
  if (!s.n_outputs) throw std::invalid_argument("series: there are no outputs");
  return s;
}

}  // namespace hqf
