#include "hqf/plan.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <stdexcept>

namespace hqf {
namespace {

// Scales of this many rotations, each at least 1/sqrt(2), are made up for at once: 2^-20 squared is far from float's
// end.
constexpr int kSegmentRotations = 40;

bool commute(const Rotation& a, const Rotation& b) { return (parity(a.x & b.z) ^ parity(a.z & b.x)) == 0; }

bool imaginary(const Rotation& r) { return parity(r.x & r.z) == 0; }

// Whether r can join the block: its own x, dual to the others' z.
bool fits(const std::vector<Rotation>& block, const Rotation& r) {
  for (const auto& other : block)
    if (parity(r.z & other.x) || parity(r.x & other.z)) return false;
  std::array<uint32_t, 32> reduced{};
  auto reduce = [&](uint32_t mask) {
    while (mask && reduced[__builtin_ctz(mask)]) mask ^= reduced[__builtin_ctz(mask)];
    return mask;
  };
  for (const auto& other : block) {
    const uint32_t rest = reduce(other.x);
    reduced[__builtin_ctz(rest)] = rest;
  }
  return reduce(r.x) != 0;
}

class Planner {
 public:
  Planner(Program program, const PlanLimits& limits) {
    plan_.program = std::move(program);
    const auto& p = plan_.program;
    bits_ = p.n_amplitudes ? p.n_qubits : 0;
    std::vector<Rotation> pending(p.rotations.begin(), p.rotations.end());
    size_t next = 0;
    while (next < pending.size()) {
      const Rotation r = pending[next];
      if (!limits.grow_later && r.x != uint32_t{1} << bits_)
        for (const auto& later : pending) bits_ = std::max(bits_, static_cast<int>(std::bit_width(later.x)));
      if (r.x == 0 && r.angle.shared()) {
        Step& table = step(StepKind::table);
        table.table = plan_.n_tables++;
        open_segment(table);
        while (next < pending.size() && pending[next].x == 0 && pending[next].angle.shared())
          add(table, pending[next++]);
        complex_ = true;
      } else if (r.x == 0) {
        widen();
        add(step(StepKind::phase), r);
        ++next;
      } else if (r.x >> bits_ == 0) {
        std::vector<Rotation> block{r}, rest;
        const auto limit = static_cast<size_t>(imaginary(r) ? limits.imaginary_block : limits.block);
        for (size_t k = next + 1; k < pending.size(); ++k) {
          const auto& candidate = pending[k];
          const bool joins = block.size() < limit && candidate.x && candidate.x >> bits_ == 0 &&
                             candidate.angle.shared() == r.angle.shared() && imaginary(candidate) == imaginary(r) &&
                             fits(block, candidate) &&
                             std::all_of(rest.begin(), rest.end(), [&](auto& s) { return commute(s, candidate); });
          if (joins)
            block.push_back(candidate);
          else
            rest.push_back(candidate);
          if (block.size() == limit || rest.size() > 64) {
            rest.insert(rest.end(), pending.begin() + static_cast<int64_t>(k) + 1, pending.end());
            break;
          }
        }
        pending = std::move(rest);
        next = 0;
        add_block(block);
      } else if (r.x == uint32_t{1} << bits_) {
        if (imaginary(r)) widen();
        Step& grow = step(StepKind::grow);
        grow.imaginary = imaginary(r);
        grow.shared = r.angle.shared();
        add(grow, r);
        ++bits_;
        ++next;
      } else {
        throw std::invalid_argument("program: an x-mask leads to more than the next bit");
      }
    }
    if (p.measurement == Measurement::state) widen();
    plan_.bits = bits_;
    plan_.complex = complex_;
    plan_.n_segments = segment_ + 1;
    make_readout();
  }

  Plan take() { return std::move(plan_); }

 private:
  Step& step(StepKind kind) {
    Step s{};
    s.kind = kind;
    s.bits = bits_;
    s.complex = complex_;
    s.shared = kind == StepKind::table;
    s.first = static_cast<int>(plan_.rotations.size());
    s.segment = segment_;
    plan_.steps.push_back(std::move(s));
    return plan_.steps.back();
  }

  void open_segment(Step& step) {
    step.segment = ++segment_;
    scaled_ = 0;
  }

  void widen() {
    if (!complex_) step(StepKind::widen);
    complex_ = true;
  }

  // P = i^|x & z| X^x Z^z; the engine's forms have i^1 or i^0, so two more factors of i are a sign of the angle.
  void add(Step& step, const Rotation& r) {
    PlannedRotation planned{r.z, r.angle};
    if (__builtin_popcount(r.x & r.z) & 2) {
      planned.angle.constant *= -1;
      for (auto* terms : {&planned.angle.inputs, &planned.angle.weights})
        for (auto& term : *terms) term.factor *= -1;
    }
    plan_.rotations.push_back(std::move(planned));
    ++step.count;
  }

  void add_block(const std::vector<Rotation>& block) {
    const bool is_imaginary = imaginary(block[0]), is_shared = block[0].angle.shared();
    if (is_imaginary) widen();
    if (is_shared) {
      scaled_ += static_cast<int>(block.size());
      if (scaled_ > kSegmentRotations) {
        open_segment(step(StepKind::rescale));
        scaled_ = static_cast<int>(block.size());
      }
    }
    Step& s = step(StepKind::block);
    s.imaginary = is_imaginary;
    s.shared = is_shared;
    for (const auto& r : block) add(s, r);

    const int k = static_cast<int>(block.size());
    for (uint32_t j = 0; j < uint32_t{1} << k; ++j) {
      uint32_t offset = 0;
      for (int l = 0; l < k; ++l)
        if (j >> l & 1) offset ^= block[l].x;
      s.offsets.push_back(offset);
    }
    // One base per coset of the x masks: indices that are zero on pivot bits, shifted so that z_l sees parity 0.
    uint32_t pivots = 0;
    std::vector<uint32_t> rows;
    for (const auto& r : block) {
      uint32_t mask = r.x;
      for (const auto row : rows)
        if (mask & (row & -row)) mask ^= row;
      const uint32_t pivot = mask & -mask;
      for (auto& row : rows)
        if (row & pivot) row ^= mask;
      rows.push_back(mask);
      pivots |= pivot;
    }
    for (uint32_t index = 0; index < uint32_t{1} << bits_; ++index) {
      if (index & pivots) continue;
      uint32_t base = index;
      uint8_t sign = 0;
      for (int l = 0; l < k; ++l) {
        if (!parity(index & block[l].z)) continue;
        if (is_imaginary)
          sign |= static_cast<uint8_t>(1 << l);
        else
          base ^= block[l].x;
      }
      s.bases.push_back(base);
      if (is_imaginary) s.signs.push_back(sign);
    }
  }

  void make_readout() {
    const auto& p = plan_.program;
    auto& out = plan_.readout;
    const uint32_t size = uint32_t{1} << bits_;
    if (p.measurement != Measurement::expval) {
      out.targets.assign(size, -1);
      for (uint32_t logical = 0; logical < uint32_t{1} << p.n_qubits; ++logical) {
        uint32_t index = p.frame[0];
        for (int k = 0; k < p.n_qubits; ++k)
          if (logical >> k & 1) index ^= p.frame[1 + k];
        if (index < size) out.targets[index] = logical;
      }
      return;
    }
    std::vector<uint32_t> functionals;  // independent z masks: the bits of the tree's index, from the top
    std::array<uint32_t, 32> reduced{};
    auto independent = [&](uint32_t mask) {
      while (mask && reduced[__builtin_ctz(mask)]) mask ^= reduced[__builtin_ctz(mask)];
      if (mask) reduced[__builtin_ctz(mask)] = mask;
      return mask != 0;
    };
    for (int k = 0; k < static_cast<int>(p.observables.size()); ++k) {
      const auto& o = p.observables[k];
      if (o.x >= size)
        out.vanishing.push_back(k);
      else if (o.x == 0 && independent(o.z & (size - 1))) {
        out.tree.push_back(k);
        functionals.push_back(o.z & (size - 1));
      } else
        out.direct.push_back(k);
    }
    if (out.tree.empty()) return;
    for (int b = bits_ - 1; b >= 0; --b)
      if (independent(uint32_t{1} << b)) functionals.push_back(uint32_t{1} << b);
    // order inverts index -> v, bit (bits - 1 - k) of v = parity(index & functionals[k]).
    out.order.resize(size);
    for (uint32_t index = 0; index < size; ++index) {
      uint32_t v = 0;
      for (const auto z : functionals) v = v << 1 | static_cast<uint32_t>(parity(index & z));
      out.order[v] = index;
    }
  }

  Plan plan_{};
  int bits_ = 0;
  bool complex_ = false;
  int segment_ = 0;
  int scaled_ = 0;
};

}  // namespace

Plan make_plan(Program program, const PlanLimits& limits) { return Planner(std::move(program), limits).take(); }

}  // namespace hqf
