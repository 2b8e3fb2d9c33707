// Many threads in the same kernels at once, for the sanitizers: several callers, each of which spreads every call over
// threads of its own, as torch does. Free of Python, torch and OpenMP, whose own threads ThreadSanitizer cannot see
// into. `make sanitize` builds and runs it.
//
// Reads lines "engine n_inputs n_parameters text" from standard input; `python -m tests.kernel_texts` writes them.
// Every result must be equal, bit for bit, to that of one thread.
#include <atomic>
#include <cstdio>
#include <functional>
#include <iostream>
#include <random>
#include <sstream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "hqf/engine.hpp"
#include "hqf/propagation.hpp"

namespace {

constexpr int kCallers = 3, kThreads = 3, kRounds = 3;
constexpr int64_t kGroups = 2, kSamples = 150;  // weights differ between groups

struct Case {
  std::string engine, text;
  int64_t n_inputs, n_parameters, n_outputs;
};

int64_t n_outputs(const std::string& engine, const std::string& text) {
  if (engine == "propagation") return hqf::propagation::n_outputs(text);
  return engine == "gate" ? hqf::gate::n_outputs(text) : hqf::fourier::n_outputs(text);
}

void on_this_thread(int64_t count, int64_t, const std::function<void(int64_t, int64_t)>& body) { body(0, count); }

void on_threads(int64_t count, int64_t, const std::function<void(int64_t, int64_t)>& body) {
  std::atomic<int64_t> next{0};
  std::vector<std::thread> threads;
  for (int k = 0; k < kThreads; ++k)
    threads.emplace_back([&] {
      for (int64_t at = next++; at < count; at = next++) body(at, at + 1);
    });
  for (auto& thread : threads) thread.join();
}

std::vector<double> numbers(int64_t count) {
  std::mt19937 generator(static_cast<uint32_t>(count));
  std::normal_distribution<double> normal;
  std::vector<double> result(static_cast<size_t>(count));
  for (auto& number : result) number = normal(generator);
  return result;
}

// A contiguous tensor that owns its numbers.
struct Tensor {
  Tensor(std::vector<int64_t> shape, std::vector<double> from)
      : sizes(std::move(shape)), strides(sizes.size(), 1), data(std::move(from)) {
    for (size_t d = sizes.size() - 1; d-- > 0;) strides[d] = strides[d + 1] * sizes[d + 1];
  }

  hqf::View view() {
    return {data.data(), hqf::DType::f64, static_cast<int>(sizes.size()), sizes.data(), strides.data()};
  }

  std::vector<int64_t> sizes, strides;
  std::vector<double> data;
};

// Forward and backward; all results one after the other.
std::vector<double> run(const Case& c, const std::string& text, const hqf::ParallelFor& parallel_for) {
  const auto n_weights = kGroups * c.n_parameters, n_outputs = kGroups * c.n_outputs;
  if (c.engine == "propagation") {
    const auto weights = numbers(n_weights), grad = numbers(n_outputs);
    std::vector<double> results(static_cast<size_t>(n_outputs + n_weights));
    hqf::propagation::forward(text, weights.data(), kGroups, c.n_parameters, results.data(), parallel_for);
    hqf::propagation::backward(text, grad.data(), weights.data(), kGroups, c.n_parameters, results.data() + n_outputs,
                               parallel_for);
    return results;
  }
  const auto forward = c.engine == "gate" ? hqf::gate::forward : hqf::fourier::forward;
  const auto backward = c.engine == "gate" ? hqf::gate::backward : hqf::fourier::backward;
  Tensor inputs({kSamples, kGroups, c.n_inputs}, numbers(kSamples * kGroups * c.n_inputs));
  Tensor weights({kGroups, c.n_parameters}, numbers(n_weights));
  Tensor grad({kSamples, kGroups, c.n_outputs}, numbers(kSamples * n_outputs));
  Tensor output = grad, grad_inputs = inputs, grad_weights = weights;
  forward(text, inputs.view(), 1, weights.view(), output.view(), parallel_for);
  backward(text, grad.view(), inputs.view(), 1, weights.view(), grad_inputs.view(), grad_weights.view(), parallel_for);
  std::vector<double> results = output.data;
  results.insert(results.end(), grad_inputs.data.begin(), grad_inputs.data.end());
  results.insert(results.end(), grad_weights.data.begin(), grad_weights.data.end());
  return results;
}

std::vector<Case> read_cases() {
  std::vector<Case> cases;
  for (std::string line; std::getline(std::cin, line);) {
    Case c;
    std::istringstream words(line);
    words >> c.engine >> c.n_inputs >> c.n_parameters >> std::ws;
    std::getline(words, c.text);
    c.n_outputs = n_outputs(c.engine, c.text);
    cases.push_back(std::move(c));
  }
  return cases;
}

}  // namespace

int main() {
  const auto cases = read_cases();
  std::vector<std::vector<double>> expected;
  for (const auto& c : cases) expected.push_back(run(c, c.text, on_this_thread));

  std::atomic<int> calls{0}, wrong{0};
  std::vector<std::thread> callers;
  for (int caller = 0; caller < kCallers; ++caller)
    callers.emplace_back([&, caller] {
      for (int round = 0; round < kRounds; ++round)
        for (size_t k = 0; k < cases.size(); ++k) {
          const size_t at = (k + static_cast<size_t>(caller)) % cases.size();
          // In the first round all callers read the same new texts; later each adds texts of its own to what is kept.
          const std::string blanks(static_cast<size_t>(round ? 1 + caller + kCallers * round : 1), ' ');
          wrong += run(cases[at], cases[at].text + blanks, on_threads) != expected[at];
          ++calls;
        }
      // More texts than are kept, so that some are dropped while others use them.
      for (size_t k = 0; k < 300; ++k) {
        const auto& c = cases[k % cases.size()];
        n_outputs(c.engine, c.text + std::string(20 + k, ' '));
      }
    });
  for (auto& caller : callers) caller.join();
  std::printf("%zu texts, %d calls of forward and backward on %d x %d threads, %d not equal to one thread's\n",
              cases.size(), calls.load(), kCallers, kThreads, wrong.load());
  return cases.empty() || wrong ? 1 : 0;
}
