// How a group of lanes runs a plan: every lane holds 2^register_bits amplitudes of one circuit in registers.
//
// A layout tells which amplitude a lane holds in which register: both are bits of a coordinate, the lane's the low
// ones, and index = columns[0] if bit 0 of the coordinate is set, xor columns[1] if bit 1 is set, and so on. Registers
// can only be indexed by constants, so a rotation runs in a layout in which its x mask is the column of a register bit
// and, in the real form, no other column has odd overlap with its z mask: then it pairs registers and has one sign
// throughout. Between layouts the amplitudes move through shared memory, at addresses chosen so that the lanes of a
// warp meet different banks both in writing and in reading.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "hqf/plan.hpp"

namespace hqf {

constexpr int kWarpBits = 5;

enum class OpKind : int32_t {
  grow,            // bit number `index of the op` of the coordinate begins to differ from zero
  grow_imaginary,  //
  move,            // to another layout
  turn,            // real rotations of the register bits in `registers`
  turn_imaginary,
  table,
  phase,
  rescale,
  read_diagonal,  // expectation values of strings of Z,
  read_even,      // of strings that flip register bit 0 and are real,
  read_odd,       // and of those that flip it and are imaginary
  read_probs,
  read_state,
};

struct Op {
  OpKind kind;
  int32_t first, count;  // turns, or readings; move: first column of the old layout, those of the new one follow
  uint32_t registers;
  int32_t own;    // turns: whether the angles differ from circuit to circuit
  int32_t table;  // table: its index
  int32_t slot;   // table: the first of 2^register_bits slots; -1: no weights in it
  int32_t segment;
};

enum class TurnForm : int32_t {
  exact,            // coefficients cos, sin
  ratio,            // Ratio: value, swapped
  imaginary_ratio,  // cos and sin with the larger divided out
  offset,           // half of the part of the angle that all circuits share
  none,             // part of a table
};

struct Turn {
  TurnForm form;
  uint32_t mask;  // z in the coordinates of its op
  int32_t own;    // number among the turns with angles of their own, or -1
  int32_t slot;   // where the gradient of a shared angle is summed, or -1
  int32_t op;
  int32_t first_input, n_inputs, first_weight, n_weights;  // terms of the angle
  int32_t unused;
  double constant;
};

// Where a term of an angle comes from, or where a share of a gradient goes to.
struct Share {
  int32_t index;
  int32_t unused;
  double factor;
};

struct Reading {
  int32_t output, sign;  // sign 0: a value that vanishes
  uint32_t mask;         // z in the coordinates of its op
};

// What the lanes read. The arrays lie in one block of memory, wherever that is.
struct Script {
  int32_t n_qubits, bits, lane_bits, register_bits, complex;
  int32_t grown;            // the first ops: grow, one for each of as many coordinate bits
  int32_t n_ops, n_evolve;  // ops before n_evolve make the state, the others read it
  int32_t n_turns, n_own, n_tables, n_segments, n_moves;
  int32_t n_slots;  // of turns; those of tables come after them
  int32_t n_table_slots;
  int32_t n_inputs, n_weights, first_amplitude, n_amplitudes;
  int32_t n_readings;  // expval: outputs
  int32_t parts;       // probs, state: numbers for each amplitude of the output; else 0
  int32_t n_frame;     // columns beyond the state, where probabilities are zero
  const Op* ops;
  const Turn* turns;
  const Share* input_terms;     // of turns: index is an input
  const Share* weight_terms;    // of turns: index is a weight
  const int32_t* own;           // the turn of each own angle
  const int32_t* input_start;   // n_inputs + 1
  const Share* input_shares;    // index is an own angle
  const int32_t* weight_start;  // n_weights + 1
  const Share* weight_shares;   // index is a turn
  const Reading* readings;
  const uint32_t* columns;
  const uint32_t*
      frame;  // probs, state: offset and columns of the output index over coordinates, then over n_frame bits
};

// Bits of the state that a GPU thread holds in registers: as many as fit there (two complex states in 255 registers),
// fewer where that takes fewer exchanges between lanes a layer.
int register_bits_for(int state_bits, bool double_precision);

constexpr int kMaxLaneBits = 8;  // a block of 256 threads

class Schedule {
 public:
  // Throws std::invalid_argument for text that is not a program.
  static Schedule read(const std::string& text, bool double_precision);

  // The state is padded to at least 2^register_bits amplitudes. Throws std::invalid_argument if it needs more than
  // 2^kMaxLaneBits lanes.
  Schedule(Program program, int register_bits);

  // The script with its arrays at `base`, a copy of blob().
  Script script(const void* base) const;
  const std::vector<uint64_t>& blob() const { return blob_; }
  int64_t n_outputs() const { return n_outputs_; }

 private:
  Script script_{};
  std::vector<uint64_t> blob_;
  int64_t n_outputs_;
};

}  // namespace hqf
