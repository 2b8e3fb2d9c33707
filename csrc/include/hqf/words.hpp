// Reading texts of words separated by blanks.
#pragma once

#include <locale.h>
#include <stdlib.h>
#if __has_include(<xlocale.h>)
#include <xlocale.h>
#endif

#include <algorithm>
#include <charconv>
#include <limits>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>

namespace hqf {

// Whether all of the text is a number that a T can hold.
template <class T>
bool read(std::string_view text, T& value) {
#ifdef _LIBCPP_VERSION
  // Its from_chars reads floating-point numbers since version 20 only, and on a Mac not even then.
  if constexpr (std::is_floating_point_v<T>) {
    static const locale_t plain = newlocale(LC_ALL_MASK, "C", nullptr);
    const std::string copy(text);
    char* end = nullptr;
    value = static_cast<T>(strtod_l(copy.c_str(), &end, plain));
    return end == copy.c_str() + copy.size();
  } else
#endif
  {
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    return error == std::errc() && end == text.data() + text.size();
  }
}

class Words {
 public:
  explicit Words(std::string_view text) : rest_(text) {}

  std::string_view word() {
    const auto begin = rest_.find_first_not_of(' ');
    if (begin == std::string_view::npos) throw std::invalid_argument("program: text ends too early");
    const auto end = std::min(rest_.find(' ', begin), rest_.size());
    const auto result = rest_.substr(begin, end - begin);
    rest_.remove_prefix(end);
    return result;
  }

  template <class T>
  T number(T low, T high) {
    const auto text = word();
    T value{};
    if (!read(text, value) || !(value >= low && value <= high))
      throw std::invalid_argument("program: unexpected word '" + std::string(text) + "'");
    return value;
  }

  int count(int high) { return number<int>(0, high); }

  // How many items of at least so many words follow: refused if the rest of the text cannot hold them, so that no
  // memory is taken for items that never come.
  int length(size_t words_per_item) {
    const int value = count(std::numeric_limits<int>::max());
    if (static_cast<size_t>(value) > rest_.size() / (2 * words_per_item))  // a word comes with a blank
      throw std::invalid_argument("program: text ends too early");
    return value;
  }

  // Throws unless all words are read.
  void finish() const {
    if (rest_.find_first_not_of(' ') != std::string_view::npos)
      throw std::invalid_argument("program: text goes on after its end");
  }

  double real() { return number<double>(std::numeric_limits<double>::lowest(), std::numeric_limits<double>::max()); }

 private:
  std::string_view rest_;
};

}  // namespace hqf
