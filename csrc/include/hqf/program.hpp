// A lowered circuit, as hqfkernels/program.py writes it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace hqf {

struct Term {
  int index;
  double factor;
};

// constant + sum of factors times inputs + sum of factors times weights, in radians.
struct Angle {
  double constant = 0;
  std::vector<Term> inputs, weights;

  bool shared() const { return inputs.empty(); }  // the same for all samples that share the weights
};

// exp(-i angle P / 2), P the Hermitian Pauli string with X bits x and Z bits z.
struct Rotation {
  uint32_t x, z;
  Angle angle;
};

struct Observable {
  uint32_t x, z;
  int sign;
};

enum class Measurement { expval, probs, state };

struct Program {
  int n_qubits, n_inputs, n_weights;
  int first_amplitude, n_amplitudes;  // inputs that give the initial state; none: |0...0>
  std::vector<Rotation> rotations;
  Measurement measurement;
  std::vector<Observable> observables;
  std::vector<uint32_t> frame;  // offset, then the image of each bit: where logical basis states sit

  int64_t n_outputs() const;
};

// Throws std::invalid_argument for text that is not a program.
Program parse_program(const std::string& text);

}  // namespace hqf
