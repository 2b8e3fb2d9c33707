// The circuit kernels for one number type and one count of amplitudes in registers. Compiled once for each pair, with
// HQF_NUMBER, HQF_BITS and HQF_KERNELS, the name of the function that hands out the kernels.
#include "cuda/kernels.hpp"
#include "cuda/lanes.cuh"
#include "hqf/weights.hpp"

namespace hqf::cuda {
namespace {

using Number = HQF_NUMBER;

// At most 256 threads, with at most 128 registers each where 2^HQF_BITS amplitudes of two states fit in so few.
constexpr int kBlocksPerSm = (sizeof(Number) << HQF_BITS) > 32 ? 1 : 2;

template <bool Complex, bool Adjoint>
__global__ void __launch_bounds__(256, kBlocksPerSm) run_circuits(const __grid_constant__ Work work) {
  const Script& s = work.script;
  const BlockShare& share = work.share;
  extern __shared__ double shared[];
  __shared__ Number warp_sums[8];
  const int threads = static_cast<int>(blockDim.x), thread = static_cast<int>(threadIdx.x);
  const int circuits = threads >> s.lane_bits, circuit = thread >> s.lane_bits;

  Number* exchange = reinterpret_cast<Number*>(shared);
  Number* numbers = share.numbers ? static_cast<Number*>(share.numbers) + int64_t{blockIdx.x} * share.numbers_size
                                  : exchange + share.exchange_size;
  Number* slots = share.slots ? static_cast<Number*>(share.slots) + int64_t{blockIdx.x} * share.slots_size
                              : exchange + share.exchange_size + (share.numbers ? 0 : share.numbers_size);
  ThreadLanes<Number> lanes;
  lanes.lane_bits = s.lane_bits;
  lanes.lane = static_cast<uint32_t>(thread) & ((uint32_t{1} << s.lane_bits) - 1);
  lanes.numbers = numbers + circuit;
  lanes.numbers_stride = circuits;
  lanes.shift = s.lane_bits < kWarpBits ? kWarpBits - s.lane_bits : 0;
  lanes.circuit = static_cast<uint32_t>(circuit) & ((uint32_t{1} << lanes.shift) - 1);
  lanes.plane_size = uint32_t{1} << (s.bits + lanes.shift);
  lanes.planes = exchange + static_cast<size_t>(circuit >> lanes.shift) * (Complex ? 2 : 1) * lanes.plane_size;
  lanes.slots = slots + thread;
  lanes.slot_stride = threads;
  lanes.warp_sums = warp_sums + (s.lane_bits > kWarpBits ? circuit << (s.lane_bits - kWarpBits) : 0);

  if constexpr (Adjoint)
    for (int k = thread; k < share.slots_size; k += threads) slots[k] = Number(0);
  __syncthreads();

  const int64_t group = blockIdx.x / share.blocks_per_group;
  const auto coefficients = coefficients_at(s, static_cast<const Number*>(share.sets) + group * share.set_size);
  int64_t group_offset[kTensors] = {};
  add_offsets(work.call.groups, work.call.n_group_axes, group, group_offset);
  Group<ThreadLanes<Number>, HQF_BITS, Complex> circuit_run(s, coefficients, work.call, lanes);

  const int64_t first = blockIdx.x % share.blocks_per_group * share.samples_per_block;
  const int64_t end =
      first + share.samples_per_block < work.call.n_samples ? first + share.samples_per_block : work.call.n_samples;
  // The whole block goes through as many circuits; those beyond the end repeat the last one and write nothing.
  for (int64_t base = first; base < end; base += circuits) {
    const bool valid = base + circuit < end;
    int64_t offset[kTensors];
    for (int t = 0; t < kTensors; ++t) offset[t] = group_offset[t];
    add_offsets(work.call.samples, work.call.n_sample_axes, valid ? base + circuit : end - 1, offset);
    if constexpr (Adjoint)
      circuit_run.backward(offset, valid);
    else
      circuit_run.forward(offset, valid);
  }
  if constexpr (Adjoint) {
    __syncthreads();
    if (share.columns) sum_slots(s, slots, threads, share.columns + blockIdx.x * n_columns(s), thread, threads);
  }
}

template <class Kernel>
const void* entry(Kernel* kernel) {
  return reinterpret_cast<const void*>(kernel);
}

}  // namespace

const void* HQF_KERNELS(bool complex, bool adjoint) {
  if (complex) return adjoint ? entry(run_circuits<true, true>) : entry(run_circuits<true, false>);
  return adjoint ? entry(run_circuits<false, true>) : entry(run_circuits<false, false>);
}

}  // namespace hqf::cuda
