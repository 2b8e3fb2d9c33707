// The kernels of the CUDA gate engine, as the host launches them.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "hqf/call.hpp"
#include "hqf/schedule.hpp"

namespace hqf::cuda {

// What a launch of a circuit kernel shares out among its blocks. Every block takes samples_per_block consecutive
// samples of one group. Sizes and offsets in shared memory count numbers.
struct BlockShare {
  const void* sets;  // coefficients, set by set
  int64_t set_size;
  double* columns;  // adjoint: sums that the blocks leave, block by block
  void* slots;      // adjoint: of all threads, block by block; null if they lie in shared memory
  void* numbers;    // memory of the circuits, likewise
  int64_t samples_per_block;
  int32_t blocks_per_group;
  int32_t exchange_size, numbers_size, slots_size;
};

// The parameters of a circuit kernel.
struct Work {
  Script script;
  Call call;
  BlockShare share;
};

// What of a script travels with one launch: the parameters of a kernel are limited to 4 KiB.
struct Chunk {
  static constexpr int kWords = 480;
  int64_t start;
  int32_t count;
  uint64_t words[kWords];
};
static_assert(sizeof(Work) <= 4096 && sizeof(Chunk) <= 4080);

// The kernel, with the parameter Work, that runs circuits with 2^register_bits amplitudes in the registers of a thread:
// 2 ... 5 bits, in double precision 2 ... 4 (see register_bits_for).
const void* circuit_kernel(bool double_precision, int register_bits, bool complex, bool adjoint);

void launch_upload(const Chunk& chunk, uint64_t* blob, cudaStream_t stream);
void launch_prepare(bool double_precision, const Script& script, const Call& call, void* sets, double* scratch,
                    cudaStream_t stream);
// columns: n_blocks rows of sums for each group; gradients: (n_groups, n_weights), contiguous.
void launch_finish(const Script& script, double* columns, int n_blocks, double* sums, double* scratch, int64_t n_groups,
                   const View& gradients, cudaStream_t stream);

}  // namespace hqf::cuda
