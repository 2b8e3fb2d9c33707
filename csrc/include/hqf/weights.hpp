// What a group's weights come to before the lanes run, and what becomes of the gradients that the lanes have summed.
//
// Every function is run by `workers` threads of one block at once, of which the caller is number `worker`; `sync` waits
// for all of them. The order of every sum is fixed by the sizes alone.
#pragma once

#include "hqf/group.hpp"

namespace hqf::HQF_ARCH {

// Numbers in the coefficients of one set of weights.
HQF_INLINE int64_t coefficients_size(const Script& s) {
  return 2 * int64_t{s.n_turns} + s.n_segments + s.n_ops + (2 * int64_t{s.n_tables} << s.bits);
}

template <class T>
HQF_INLINE Coefficients<T> coefficients_at(const Script& s, const T* set) {
  Coefficients<T> w{};
  w.turns = set;
  w.segment_scale = w.turns + 2 * s.n_turns;
  w.slope_scale = w.segment_scale + s.n_segments;
  w.cosines = w.slope_scale + s.n_ops;
  w.sines = w.cosines + (int64_t{s.n_tables} << s.bits);
  return w;
}

HQF_INLINE bool opens_segment(const Op& op) { return op.kind == OpKind::table || op.kind == OpKind::rescale; }

// What the ops from `first` on, up to the end of their segment, were divided by.
HQF_INLINE double divided_out(const Script& s, const double* divisors, int first) {
  double product = 1;
  for (int k = first; k < s.n_evolve && !opens_segment(s.ops[k]); ++k)
    for (int t = s.ops[k].first; t < s.ops[k].first + s.ops[k].count; ++t) product *= divisors[t];
  return product;
}

// Computes the coefficients of set number `group`. scratch: two numbers for each turn.
template <class T, class Sync>
HQF_INLINE void prepare_weights(const Script& s, const Call& call, int64_t group, T* set, double* scratch, int worker,
                                int workers, const Sync& sync) {
  int64_t offset[kTensors] = {};
  add_offsets(call.groups, call.n_group_axes, group, offset);
  double *angles = scratch, *divisors = scratch + s.n_turns;
  T* turns = set;
  for (int t = worker; t < s.n_turns; t += workers) {
    const Turn& turn = s.turns[t];
    double angle = turn.constant;
    for (int k = turn.first_weight; k < turn.first_weight + turn.n_weights; ++k)
      angle +=
          s.weight_terms[k].factor * read_as<double>(call.weights, call.weight_dtype,
                                                     offset[kWeights] + s.weight_terms[k].index * call.weight_stride);
    const double c = cos(angle / 2), sine = sin(angle / 2);
    angles[t] = 2 * atan2(sine, c);  // reduced, so that sums of angles in a table lose nothing
    divisors[t] = 1;
    double first = c, second = sine;
    if (turn.form == TurnForm::offset) {
      first = angles[t] / 2;
    } else if (turn.form == TurnForm::ratio || turn.form == TurnForm::imaginary_ratio) {
      const bool swapped = fabs(sine) > fabs(c);
      const double ratio = swapped ? c / sine : sine / c;
      divisors[t] = swapped ? sine : c;
      first = ratio;
      second = swapped ? 1 : 0;
      if (turn.form == TurnForm::imaginary_ratio) {
        first = swapped ? ratio : 1;
        second = swapped ? 1 : ratio;
      }
    }
    turns[2 * t] = static_cast<T>(first);
    turns[2 * t + 1] = static_cast<T>(second);
  }
  sync();
  T* segment_scale = turns + 2 * s.n_turns;
  T* slope_scale = segment_scale + s.n_segments;
  if (worker == 0) segment_scale[0] = static_cast<T>(divided_out(s, divisors, 0));
  for (int k = worker; k < s.n_ops; k += workers) {
    const double later = k < s.n_evolve ? divided_out(s, divisors, k + 1) : 1;
    slope_scale[k] = static_cast<T>(later * later);
    if (k < s.n_evolve && opens_segment(s.ops[k])) segment_scale[s.ops[k].segment] = static_cast<T>(later);
  }
  T* cosines = slope_scale + s.n_ops;
  T* sines = cosines + (int64_t{s.n_tables} << s.bits);
  for (int k = 0; k < s.n_evolve; ++k) {
    const Op& op = s.ops[k];
    if (op.kind != OpKind::table) continue;
    const double scale = divided_out(s, divisors, k + 1);
    for (int i = worker; i < 1 << s.bits; i += workers) {
      double angle = 0;
      for (int t = op.first; t < op.first + op.count; ++t)
        angle += parity(static_cast<uint32_t>(i) & s.turns[t].mask) ? -angles[t] : angles[t];
      const int64_t at = (int64_t{op.table} << s.bits) + i;
      cosines[at] = static_cast<T>(scale * cos(angle / 2));
      sines[at] = static_cast<T>(-scale * sin(angle / 2));
    }
  }
}

// Sums that a block leaves: one for each slot of a turn, one for each entry of each table.
HQF_INLINE int64_t n_columns(const Script& s) { return s.n_slots + (int64_t{s.n_table_slots} << s.lane_bits); }

// Adds up the slots of the `lanes` lanes of a block; slots[k * lanes + lane].
template <class T>
HQF_INLINE void sum_slots(const Script& s, const T* slots, int lanes, double* columns, int worker, int workers) {
  const int own_lanes = 1 << s.lane_bits;
  for (int64_t column = worker; column < n_columns(s); column += workers) {
    double sum = 0;
    if (column < s.n_slots) {
      for (int k = 0; k < lanes; ++k)  // each column starts elsewhere, so that the workers read different banks
        sum += slots[column * lanes + (k + column) % lanes];
    } else {
      const int64_t entry = column - s.n_slots, table = entry >> s.bits;
      const int coordinate = static_cast<int>(entry & ((int64_t{1} << s.bits) - 1));
      const int64_t slot = s.n_slots + (table << s.register_bits) + (coordinate >> s.lane_bits);
      for (int k = coordinate & (own_lanes - 1); k < lanes; k += own_lanes) sum += slots[slot * lanes + k];
    }
    columns[column] = sum;
  }
}

// From the sums over all blocks to the gradients of the weights, written as numbers first ... first + n_weights - 1.
// scratch: one number for each turn.
template <class Sync>
HQF_INLINE void differentiate_weights(const Script& s, const double* columns, double* scratch, void* gradients,
                                      DType dtype, int64_t first, int worker, int workers, const Sync& sync) {
  for (int t = worker; t < s.n_turns; t += workers) {
    const Turn& turn = s.turns[t];
    if (!turn.n_weights) continue;
    if (turn.slot >= 0) {
      scratch[t] = columns[turn.slot];
      continue;
    }
    const int64_t table = (s.ops[turn.op].slot - s.n_slots) >> s.register_bits;
    const double* entries = columns + s.n_slots + (table << s.bits);
    double sum = 0;
    for (int i = 0; i < 1 << s.bits; ++i)
      sum += parity(static_cast<uint32_t>(i) & turn.mask) ? -entries[i] : entries[i];
    scratch[t] = sum;
  }
  sync();
  for (int k = worker; k < s.n_weights; k += workers) {
    double sum = 0;
    for (int i = s.weight_start[k]; i < s.weight_start[k + 1]; ++i)
      sum += s.weight_shares[i].factor * scratch[s.weight_shares[i].index];
    write_as<double>(gradients, dtype, first + k, sum);
  }
}

}  // namespace hqf::HQF_ARCH
