// What the gate engine does with a program: a list of steps over a state whose amplitudes are vectors of lanes.
//
// The state grows: after k rotations about independent strings it lives in the first 2^k amplitudes, so a rotation
// either doubles the state (grow) or mixes amplitudes inside it (block). Phases with shared angles that stand together
// are one multiplication by a table; phases with an angle per sample (phase) are applied one by one.
#pragma once

#include <cstdint>
#include <vector>

#include "hqf/portable.hpp"
#include "hqf/program.hpp"

namespace hqf {

constexpr int kMaxBlock = 3;           // a block of real rotations holds 2^3 amplitudes in registers ...
constexpr int kMaxImaginaryBlock = 2;  // ... and one of imaginary rotations 2^2 complex ones

enum class StepKind {
  grow,     // one rotation about a string that leads out of the state so far
  block,    // up to kMaxBlock commuting rotations inside the state
  table,    // all shared phases up to the next other rotation
  phase,    // one phase with an angle per sample
  widen,    // the amplitudes turn complex: clears the imaginary parts
  rescale,  // multiplies by the pending scale (see Plan::segments)
};

struct Step {
  StepKind kind;
  int bits;          // the state has 2^bits amplitudes before this step
  bool complex;      // and they are complex
  bool shared;       // the angles are the same for all lanes
  bool imaginary;    // grow, block: the generator has an even number of Y, so that real and imaginary parts mix
  int first, count;  // rotations of the plan
  int table;         // table: its index
  int segment;       // the segment of scales that this step is in; a table or rescale opens the one it names
  // block: amplitude j of the block at base b is bases[b] ^ offsets[j]; bit l of j is the side of rotation l.
  std::vector<uint32_t> bases, offsets;
  std::vector<uint8_t> signs;  // imaginary block: bit l says that rotation l has the opposite sign at this base
};

// Rotation l of a step, its angle negated where that makes the generator i^(0 or 1) (-1)^parity(index & z) X^x.
struct PlannedRotation {
  uint32_t z;
  Angle angle;
};

// Expectation values of diagonal strings whose z are linearly independent come from a tree of partial sums: with
// index = order[v], string k has the sign of bit bits - 1 - k of v.
struct Readout {
  std::vector<int> tree;         // observables read by the tree
  std::vector<uint32_t> order;   // for the tree; empty without one
  std::vector<int> direct;       // observables summed term by term
  std::vector<int> vanishing;    // observables that lead out of the state: zero
  std::vector<int64_t> targets;  // probs, state: the output index of each amplitude; -1 where there is none
};

struct Plan {
  Program program;
  std::vector<PlannedRotation> rotations;
  std::vector<Step> steps;
  Readout readout;
  int bits;      // the final state has 2^bits amplitudes
  bool complex;  // and they are complex
  int n_tables;
  int n_segments;  // rotations by shared angles are applied up to a factor; each segment makes up for its own
};

struct PlanLimits {
  int block = kMaxBlock, imaginary_block = kMaxImaginaryBlock;  // rotations in a block
  bool grow_later = true;  // false: from the first step that is not a grow, the state has all its amplitudes
};

// Throws std::invalid_argument for a program whose strings do not grow the state bit by bit.
Plan make_plan(Program program, const PlanLimits& limits = {});

}  // namespace hqf
