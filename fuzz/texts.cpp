// libFuzzer target: the texts in which programs, series and propagations reach the operators.
//
// Any text must be read or refused with std::invalid_argument, and what is read must run, forward and backward, on a
// small batch. The first byte of an input chooses what it is read as and run on; the rest is the text.
#include <cstdint>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <vector>

#include "hqf/engine.hpp"
#include "hqf/propagation.hpp"
#include "hqf/schedule.hpp"
#include "hqf/series.hpp"

namespace {

constexpr int64_t kSamples = 5;        // a vector of lanes and a rest
constexpr int64_t kLargest = 1 << 12;  // numbers in a sample; texts that ask for more are read, but not run
constexpr int kQubits = 6;             // likewise

void in_turn(int64_t count, int64_t, const std::function<void(int64_t, int64_t)>& body) {
  if (count) body(0, count);
}

// A contiguous tensor of double whose numbers are neither all equal nor special.
struct Numbers {
  std::vector<int64_t> sizes, strides;
  std::vector<double> data;

  explicit Numbers(std::vector<int64_t> shape) : sizes(std::move(shape)), strides(sizes.size(), 1) {
    int64_t count = 1;
    for (size_t d = sizes.size(); d-- > 0; count *= sizes[d]) strides[d] = count;
    data.resize(static_cast<size_t>(count) + 1);
    for (size_t k = 0; k < data.size(); ++k) data[k] = 0.1 * static_cast<double>(k % 37) - 1;
  }

  hqf::View view() {
    return {data.data(), hqf::DType::f64, static_cast<int>(sizes.size()), sizes.data(), strides.data()};
  }
};

using Forward = decltype(hqf::gate::forward);
using Backward = decltype(hqf::gate::backward);

void run(const std::string& text, int64_t n_inputs, int64_t n_parameters, int64_t n_outputs, Forward forward,
         Backward backward) {
  if (n_inputs > kLargest || n_parameters > kLargest || n_outputs > kLargest) return;
  Numbers inputs({kSamples, n_inputs}), parameters({n_parameters}), outputs({kSamples, n_outputs});
  Numbers grad_inputs({kSamples, n_inputs}), grad_parameters({n_parameters});
  forward(text, inputs.view(), 1, parameters.view(), outputs.view(), in_turn);
  backward(text, outputs.view(), inputs.view(), 1, parameters.view(), grad_inputs.view(), grad_parameters.view(),
           in_turn);
}

void run_program(const std::string& text) {
  const hqf::Program p = hqf::parse_program(text);
  if (p.n_qubits > kQubits) return;
  run(text, p.n_inputs, p.n_weights, p.n_outputs(), hqf::gate::forward, hqf::gate::backward);
}

void run_series(const std::string& text) {
  const hqf::Series s = hqf::parse_series(text);
  run(text, s.n_inputs, s.n_parameters, s.n_outputs, hqf::fourier::forward, hqf::fourier::backward);
}

void run_propagation(const std::string& text, int64_t n_weights) {
  const int64_t n_outputs = hqf::propagation::n_outputs(text);
  if (n_outputs > kLargest) return;
  Numbers weights({2, n_weights}), results({2, n_outputs}), grad_weights({2, n_weights});
  hqf::propagation::forward(text, weights.data.data(), 2, n_weights, results.data.data(), in_turn);
  hqf::propagation::backward(text, results.data.data(), weights.data.data(), 2, n_weights, grad_weights.data.data(),
                             in_turn);
}

// What a GPU would run.
void plan_for_gpu(const std::string& text) {
  if (hqf::parse_program(text).n_qubits > kQubits) return;
  hqf::Schedule::read(text, true);
  hqf::Schedule::read(text, false);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (!size) return 0;
  const std::string text(reinterpret_cast<const char*>(data) + 1, size - 1);
  try {
    switch (data[0]) {
      case 'p':
        run_program(text);
        break;
      case 'g':
        plan_for_gpu(text);
        break;
      case 's':
        run_series(text);
        break;
      case '0' ... '9':
        run_propagation(text, data[0] - '0');
        break;
    }
  } catch (const std::invalid_argument&) {
  }
  return 0;
}
