#include "hqf/series.hpp"

#include "hqf/words.hpp"

namespace hqf {

Series parse_series(const std::string& text) {
  constexpr int kMany = 1 << 24;
  Words words(text);
  if (words.word() != "series1") throw std::invalid_argument("series: unknown format, expected series1");
  Series s{};
  s.size_a = s.size_b = 1;
  s.n_inputs = words.count(kMany);
  s.n_outputs = words.number<int>(1, kMany);
  s.axes.resize(words.count(64));
  s.split = words.count(static_cast<int>(s.axes.size()));
  for (size_t k = 0; k < s.axes.size(); ++k) {
    auto& axis = s.axes[k];
    axis.input = words.number<int>(0, s.n_inputs - 1);
    axis.unit = words.real();
    axis.degree = words.number<int>(1, 1 << 10);
    int& size = static_cast<int>(k) < s.split ? s.size_a : s.size_b;
    if (size > kMany / axis.size()) throw std::invalid_argument("series: too many features");
    size *= axis.size();
  }
  s.row_b.resize(words.count(kMany));
  s.row_start.assign(s.size_a + 1, 0);
  int last = 0;
  for (auto& b : s.row_b) {
    const int a = words.number<int>(last, s.size_a - 1);
    b = words.number<int>(0, s.size_b - 1);
    ++s.row_start[a + 1];
    last = a;
  }
  for (int a = 0; a < s.size_a; ++a) s.row_start[a + 1] += s.row_start[a];
  return s;
}

}  // namespace hqf
