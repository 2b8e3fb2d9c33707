#include "hqf/program.hpp"

#include <stdexcept>

#include "hqf/words.hpp"

namespace hqf {
namespace {

constexpr int kMaxQubits = 20;  // two states of 2^20 amplitudes per lane are the most this engine will hold

std::vector<Term> read_terms(Words& words, int limit) {
  std::vector<Term> terms(words.length(2));
  for (auto& term : terms) {
    term.index = words.number<int>(0, limit - 1);
    term.factor = words.real();
  }
  return terms;
}

}  // namespace

int64_t Program::n_outputs() const {
  switch (measurement) {
    case Measurement::expval:
      return static_cast<int64_t>(observables.size());
    case Measurement::probs:
      return int64_t{1} << n_qubits;
    default:
      return int64_t{2} << n_qubits;
  }
}

Program parse_program(const std::string& text) {
  constexpr int kMany = 1 << 24;
  Words words(text);
  if (words.word() != "hqf1") throw std::invalid_argument("program: unknown format, expected hqf1");
  Program p{};
  p.n_qubits = words.number<int>(1, kMaxQubits);
  p.n_inputs = words.count(kMany);
  p.n_weights = words.count(kMany);
  p.first_amplitude = words.count(kMany);
  p.n_amplitudes = words.count(1 << p.n_qubits);
  if (p.n_amplitudes && p.first_amplitude + p.n_amplitudes > p.n_inputs)
    throw std::invalid_argument("program: amplitudes beyond the inputs");
  const uint32_t masks = (uint32_t{1} << p.n_qubits) - 1;
  p.rotations.resize(words.length(5));
  for (auto& r : p.rotations) {
    r.x = words.number<uint32_t>(0, masks);
    r.z = words.number<uint32_t>(0, masks);
    r.angle.constant = words.real();
    r.angle.inputs = read_terms(words, p.n_inputs);
    r.angle.weights = read_terms(words, p.n_weights);
  }
  const auto measurement = words.word();
  if (measurement == "expval")
    p.measurement = Measurement::expval;
  else if (measurement == "probs")
    p.measurement = Measurement::probs;
  else if (measurement == "state")
    p.measurement = Measurement::state;
  else
    throw std::invalid_argument("program: unknown measurement '" + std::string(measurement) + "'");
  p.observables.resize(words.length(3));
  for (auto& o : p.observables) {
    o.x = words.number<uint32_t>(0, masks);
    o.z = words.number<uint32_t>(0, masks);
    o.sign = words.number<int>(-1, 1);
    if (!o.sign) throw std::invalid_argument("program: an observable has the sign 0");
  }
  if (p.measurement != Measurement::expval) {
    p.frame.resize(1 + p.n_qubits);
    for (auto& mask : p.frame) mask = words.number<uint32_t>(0, masks);
  }
  words.finish();
  return p;
}

}  // namespace hqf
