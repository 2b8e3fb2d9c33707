#include "hqf/schedule.hpp"

#include <algorithm>
#include <bit>
#include <cstring>
#include <stdexcept>
#include <string>
#include <utility>

namespace hqf {
namespace {

using Columns = std::vector<uint32_t>;

// Linear algebra over bits: a set of independent vectors, each known as a combination of the ones that were added.
class Span {
 public:
  // Adds v as number `count so far`; false if it depends on those before.
  bool add(uint32_t v) {
    auto [rest, combination] = reduce(v);
    if (!rest) return false;
    rows_.push_back({rest, combination | uint32_t{1} << rows_.size()});
    return true;
  }

  // What is left of v, and which of the added vectors were taken away.
  std::pair<uint32_t, uint32_t> reduce(uint32_t v) const {
    uint32_t combination = 0;
    for (const auto& [row, taken] : rows_)
      if (v & std::bit_floor(row)) v ^= row, combination ^= taken;
    return {v, combination};
  }

 private:
  std::vector<std::pair<uint32_t, uint32_t>> rows_;
};

// The coordinates of a mask of z: bit b is the parity of its overlap with column b.
uint32_t coordinates_of_mask(const Columns& layout, uint32_t z) {
  uint32_t result = 0;
  for (size_t b = 0; b < layout.size(); ++b) result |= static_cast<uint32_t>(parity(layout[b] & z)) << b;
  return result;
}

Columns identity(int bits) {
  Columns columns;
  for (int b = 0; b < bits; ++b) columns.push_back(uint32_t{1} << b);
  return columns;
}

class Builder {
 public:
  Builder(const Plan& plan, int register_bits) : plan_(plan), program_(plan.program) {
    auto& s = script;
    s.n_qubits = program_.n_qubits;
    s.register_bits = register_bits;
    s.bits = std::max(plan.bits, register_bits);
    s.lane_bits = s.bits - register_bits;
    if (s.lane_bits > kMaxLaneBits)
      throw std::invalid_argument("program: a state of " + std::to_string(s.bits) +
                                  " qubits is too large for the CUDA kernels (13, or 12 in float64)");
    s.complex = plan.complex;
    s.n_tables = plan.n_tables;
    s.n_segments = plan.n_segments;
    s.n_inputs = program_.n_inputs;
    s.n_weights = program_.n_weights;
    s.first_amplitude = program_.first_amplitude;
    s.n_amplitudes = program_.n_amplitudes;
    layout_ = identity(s.bits);
    for (const auto& step : plan.steps) add(step);
    s.n_evolve = static_cast<int>(ops.size());
    if (program_.measurement == Measurement::expval)
      read_observables();
    else
      read_basis();
    s.n_ops = static_cast<int>(ops.size());
    s.n_turns = static_cast<int>(turns.size());
    s.n_own = static_cast<int>(own.size());
    for (auto& op : ops)
      if (op.kind == OpKind::table && op.slot >= 0) op.slot += s.n_slots;
    share_gradients();
  }

  Script script{};
  std::vector<Op> ops;
  std::vector<Turn> turns;
  std::vector<Share> input_terms, weight_terms, input_shares, weight_shares;
  std::vector<int32_t> own, input_start, weight_start;
  std::vector<Reading> readings;
  std::vector<uint32_t> columns, frame;

 private:
  Op& add_op(OpKind kind, int segment) {
    Op op{};
    op.kind = kind;
    op.first = static_cast<int>(turns.size());
    op.slot = -1;
    op.segment = segment;
    ops.push_back(op);
    return ops.back();
  }

  void add_turn(int rotation, TurnForm form, uint32_t mask) {
    const Angle& angle = plan_.rotations[rotation].angle;
    Turn turn{};
    turn.form = angle.shared() ? form : TurnForm::offset;
    turn.mask = mask;
    turn.own = turn.slot = -1;
    turn.op = static_cast<int>(ops.size()) - 1;
    turn.constant = angle.constant;
    turn.first_input = static_cast<int>(input_terms.size());
    turn.n_inputs = static_cast<int>(angle.inputs.size());
    for (const auto& term : angle.inputs) input_terms.push_back({term.index, 0, term.factor});
    turn.first_weight = static_cast<int>(weight_terms.size());
    turn.n_weights = static_cast<int>(angle.weights.size());
    for (const auto& term : angle.weights) weight_terms.push_back({term.index, 0, term.factor});
    if (!angle.shared()) {
      turn.own = static_cast<int>(own.size());
      own.push_back(static_cast<int>(turns.size()));
    }
    // Own angles may have weights too, whose gradients are summed over the batch like any other.
    if (turn.n_weights && form != TurnForm::none) turn.slot = script.n_slots++;
    turns.push_back(turn);
    ++ops.back().count;
  }

  void add(const Step& step) {
    const uint32_t all = (uint32_t{1} << script.bits) - 1;
    const auto z = [&](int rotation) { return plan_.rotations[rotation].z; };
    switch (step.kind) {
      case StepKind::grow: {
        add_op(step.imaginary ? OpKind::grow_imaginary : OpKind::grow, step.segment).own = !step.shared;
        add_turn(step.first, TurnForm::exact, z(step.first) & ((uint32_t{1} << step.bits) - 1));
        ++script.grown;
        return;
      }
      case StepKind::block:
        return add_block(step);
      case StepKind::table: {
        Op& op = add_op(OpKind::table, step.segment);
        op.table = step.table;
        bool weights = false;
        for (int r = step.first; r < step.first + step.count; ++r) {
          add_turn(r, TurnForm::none, coordinates_of_mask(layout_, z(r) & all));
          weights |= !plan_.rotations[r].angle.weights.empty();
        }
        if (weights) {
          ops.back().slot = script.n_table_slots;
          script.n_table_slots += 1 << script.register_bits;
        }
        return;
      }
      case StepKind::phase:
        add_op(OpKind::phase, step.segment).own = true;
        return add_turn(step.first, TurnForm::exact, coordinates_of_mask(layout_, z(step.first) & all));
      case StepKind::widen:
        return;  // a state that turns complex is complex from the start
      case StepKind::rescale:
        add_op(OpKind::rescale, step.segment);
        return;
    }
  }

  void add_block(const Step& step) {
    const uint32_t all = (uint32_t{1} << script.bits) - 1;
    std::vector<uint32_t> x, z;
    for (int l = 0; l < step.count; ++l) {
      x.push_back(step.offsets[size_t{1} << l]);
      z.push_back(plan_.rotations[step.first + l].z & all);
    }
    if (!serves(x, z, !step.imaginary)) move_to(layout_for(x, z, !step.imaginary), step.segment);
    Op& op = add_op(step.imaginary ? OpKind::turn_imaginary : OpKind::turn, step.segment);
    op.own = !step.shared;
    const auto form = step.imaginary ? TurnForm::imaginary_ratio : TurnForm::ratio;
    for (int b = 0; b < script.register_bits; ++b)
      for (int l = 0; l < step.count; ++l)
        if (x[l] == layout_[script.lane_bits + b]) {
          ops.back().registers |= uint32_t{1} << b;
          add_turn(step.first + l, form, coordinates_of_mask(layout_, z[l]));
        }
  }

  // Whether the rotations can run in the present layout.
  bool serves(const std::vector<uint32_t>& x, const std::vector<uint32_t>& z, bool real) const {
    for (size_t l = 0; l < x.size(); ++l) {
      const auto at = std::find(layout_.begin() + script.lane_bits, layout_.end(), x[l]);
      if (at == layout_.end()) return false;
      if (real && coordinates_of_mask(layout_, z[l]) != uint32_t{1} << (at - layout_.begin())) return false;
    }
    return true;
  }

  // A layout with the x masks as its first register columns. For real rotations, whose z masks are dual to the x masks,
  // the other columns are freed of their overlap.
  Columns layout_for(const std::vector<uint32_t>& x, const std::vector<uint32_t>& z, bool real) const {
    Span span;
    for (const auto mask : x) span.add(mask);
    Columns registers = x, lanes;
    for (int b = script.bits - 1; b >= 0; --b) {
      uint32_t column = uint32_t{1} << b;
      if (real)
        for (size_t l = 0; l < x.size(); ++l)
          if (parity((uint32_t{1} << b) & z[l])) column ^= x[l];
      if (!span.add(column)) continue;
      if (static_cast<int>(registers.size()) < script.register_bits)
        registers.push_back(column);
      else
        lanes.push_back(column);
    }
    lanes.insert(lanes.end(), registers.begin(), registers.end());
    return lanes;
  }

  // The amplitude with coordinate c of the old layout is kept at address c, with some of its high bits added to the low
  // ones, which choose the bank: lanes that differ in the new layout must differ there, too.
  void move_to(const Columns& next, int segment) {
    Span old;
    for (const auto column : layout_) old.add(column);
    Columns read;  // the new columns in coordinates of the old layout
    for (const auto column : next) read.push_back(old.reduce(column).second);

    const int banks = std::min(script.lane_bits, kWarpBits);
    const uint32_t low = (uint32_t{1} << banks) - 1;
    // The lanes of a warp in the new layout, reduced until each has a low bit of its own or none at all.
    std::vector<uint32_t> rows(read.begin(), read.begin() + banks);
    uint32_t covered = 0;
    const auto eliminate = [&](size_t pivot_row, uint32_t bit) {
      for (size_t r = 0; r < rows.size(); ++r)
        if (r != pivot_row && rows[r] & bit) rows[r] ^= rows[pivot_row];
    };
    std::vector<bool> done(rows.size());
    for (size_t r = 0; r < rows.size(); ++r)
      if (rows[r] & low) {
        const uint32_t bit = (rows[r] & low) & -(rows[r] & low);
        covered |= bit;
        done[r] = true;
        eliminate(r, bit);
      }
    std::vector<std::pair<uint32_t, uint32_t>> swizzle;  // high bit, low bit that it is added to
    uint32_t missing = low & ~covered;
    for (size_t r = 0; r < rows.size(); ++r) {
      if (done[r]) continue;
      const uint32_t high = rows[r] & -rows[r], bit = missing & -missing;
      missing ^= bit;
      swizzle.emplace_back(high, bit);
      for (size_t q = 0; q < rows.size(); ++q)
        if (q != r && !done[q] && rows[q] & high) rows[q] ^= rows[r];
    }
    const auto address = [&](uint32_t coordinate) {
      uint32_t result = coordinate;
      for (const auto& [high, bit] : swizzle)
        if (coordinate & high) result ^= bit;
      return result;
    };
    add_op(OpKind::move, segment).first = static_cast<int>(columns.size());
    for (int b = 0; b < script.bits; ++b) columns.push_back(address(uint32_t{1} << b));
    for (const auto column : read) columns.push_back(address(column));
    layout_ = next;
    ++script.n_moves;
  }

  void read_observables() {
    const uint32_t all = (uint32_t{1} << script.bits) - 1;
    std::vector<int> rest;
    add_op(OpKind::read_diagonal, 0).first = static_cast<int>(readings.size());
    for (int k = 0; k < static_cast<int>(program_.observables.size()); ++k) {
      const auto& o = program_.observables[k];
      const bool odd = parity(o.x & o.z);
      if (o.x >> plan_.bits || (odd && !plan_.complex))
        readings.push_back({k, 0, 0});
      else if (o.x == 0)
        readings.push_back({k, o.sign, coordinates_of_mask(layout_, o.z & all)});
      else
        rest.push_back(k);
    }
    ops.back().count = static_cast<int>(readings.size());
    script.n_readings = static_cast<int>(program_.observables.size());
    while (!rest.empty()) {
      const auto& first = program_.observables[rest[0]];
      const bool odd = parity(first.x & first.z);
      if (layout_[script.lane_bits] != first.x) move_to(layout_for({first.x}, {}, false), 0);
      Op& op = add_op(odd ? OpKind::read_odd : OpKind::read_even, 0);
      op.first = static_cast<int>(readings.size());
      std::vector<int> others;
      for (const int k : rest) {
        const auto& o = program_.observables[k];
        if (o.x != first.x || parity(o.x & o.z) != odd) {
          others.push_back(k);
          continue;
        }
        const int power = std::popcount(o.x & o.z) & 3;
        readings.push_back({k, power >= 2 ? -o.sign : o.sign, coordinates_of_mask(layout_, o.z & all)});
      }
      ops.back().count = static_cast<int>(readings.size()) - op.first;
      rest = std::move(others);
    }
  }

  // The output index of an amplitude is linear in its coordinate.
  void read_basis() {
    script.parts = program_.measurement == Measurement::probs ? 1 : 2;
    add_op(script.parts == 1 ? OpKind::read_probs : OpKind::read_state, 0);
    Span images;  // where the bits of the output index sit
    for (int k = 0; k < program_.n_qubits; ++k) images.add(program_.frame[1 + k]);
    const auto output = [&](uint32_t index) {
      const uint32_t inside = index & ((uint32_t{1} << program_.n_qubits) - 1);
      return images.reduce(inside).second | (index ^ inside);  // bits of the padding: beyond all outputs
    };
    frame.push_back(output(program_.frame[0]));
    for (const auto column : layout_) frame.push_back(output(column));
    for (int b = script.bits; b < program_.n_qubits; ++b) frame.push_back(output(uint32_t{1} << b));
    script.n_frame = std::max(0, program_.n_qubits - script.bits);
  }

  void share_gradients() {
    std::vector<std::vector<Share>> inputs(script.n_inputs), weights(script.n_weights);
    for (int t = 0; t < script.n_turns; ++t) {
      const auto& turn = turns[t];
      for (int k = turn.first_input; k < turn.first_input + turn.n_inputs; ++k)
        inputs[input_terms[k].index].push_back({turn.own, 0, input_terms[k].factor});
      for (int k = turn.first_weight; k < turn.first_weight + turn.n_weights; ++k)
        weights[weight_terms[k].index].push_back({t, 0, weight_terms[k].factor});
    }
    const auto flatten = [](const auto& lists, auto& start, auto& flat) {
      start.push_back(0);
      for (const auto& list : lists) {
        flat.insert(flat.end(), list.begin(), list.end());
        start.push_back(static_cast<int>(flat.size()));
      }
    };
    flatten(inputs, input_start, input_shares);
    flatten(weights, weight_start, weight_shares);
  }

  const Plan& plan_;
  const Program& program_;
  Columns layout_;
};

// Calls visit(pointer member of the script, vector of the builder) for every array.
template <class S, class B, class Visit>
void for_each_array(S& script, B& builder, const Visit& visit) {
  visit(script.ops, builder.ops);
  visit(script.turns, builder.turns);
  visit(script.input_terms, builder.input_terms);
  visit(script.weight_terms, builder.weight_terms);
  visit(script.own, builder.own);
  visit(script.input_start, builder.input_start);
  visit(script.input_shares, builder.input_shares);
  visit(script.weight_start, builder.weight_start);
  visit(script.weight_shares, builder.weight_shares);
  visit(script.readings, builder.readings);
  visit(script.columns, builder.columns);
  visit(script.frame, builder.frame);
}

}  // namespace

namespace {

// Of the state that the program reaches.
int state_bits(const Program& program) {
  int bits = program.n_amplitudes ? program.n_qubits : 0;
  for (const auto& r : program.rotations) bits = std::max(bits, static_cast<int>(std::bit_width(r.x)));
  return bits;
}

Plan plan_for(Program program, int register_bits) {
  PlanLimits limits;
  limits.block = limits.imaginary_block = register_bits;
  limits.grow_later = false;
  return make_plan(std::move(program), limits);
}

}  // namespace

int register_bits_for(int state_bits, bool double_precision) {
  const bool five = !double_precision && (state_bits == 5 || state_bits == 9 || state_bits == 10 || state_bits > 12);
  return five ? 5 : std::clamp(state_bits, 2, 4);
}

Schedule Schedule::read(const std::string& text, bool double_precision) {
  Program program = parse_program(text);
  const int bits = register_bits_for(state_bits(program), double_precision);
  return {std::move(program), bits};
}

Schedule::Schedule(Program program, int register_bits) {
  const Plan plan = plan_for(std::move(program), register_bits);
  Builder builder(plan, register_bits);
  n_outputs_ = plan.program.n_outputs();
  script_ = builder.script;
  // Until there is a base, pointers count bytes from it.
  for_each_array(script_, builder, [&](auto& pointer, const auto& array) {
    using T = typename std::remove_reference_t<decltype(array)>::value_type;
    const size_t start = blob_.size(), bytes = array.size() * sizeof(T);
    blob_.resize(start + (bytes + 7) / 8);
    if (bytes) std::memcpy(&blob_[start], array.data(), bytes);
    pointer = reinterpret_cast<const T*>(start * 8);
  });
}

Script Schedule::script(const void* base) const {
  Script script = script_;
  for_each_array(script, script, [&](auto& pointer, const auto&) {
    using P = std::remove_reference_t<decltype(pointer)>;
    pointer = reinterpret_cast<P>(reinterpret_cast<uintptr_t>(base) + reinterpret_cast<uintptr_t>(pointer));
  });
  return script;
}

}  // namespace hqf
