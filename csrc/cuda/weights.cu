// Kernels around the circuits: the script is brought to the device, weights become coefficients, slots gradients.
#include "cuda/kernels.hpp"
#include "hqf/weights.hpp"

namespace hqf::cuda {
namespace {

constexpr int kThreads = 256;

struct BlockSync {
  __device__ void operator()() const { __syncthreads(); }
};

__global__ void upload(const __grid_constant__ Chunk chunk, uint64_t* blob) {
  for (int k = static_cast<int>(threadIdx.x); k < chunk.count; k += kThreads) blob[chunk.start + k] = chunk.words[k];
}

template <class T>
__global__ void prepare(const __grid_constant__ Script script, const __grid_constant__ Call call, T* sets,
                        double* scratch) {
  const int64_t group = blockIdx.x;
  prepare_weights(script, call, group, sets + group * coefficients_size(script), scratch + group * 2 * script.n_turns,
                  static_cast<int>(threadIdx.x), kThreads, BlockSync());
}

// sums[group, column] = columns[group, 0, column] + columns[group, 1, column] + ...
__global__ void sum_columns(const double* columns, int64_t n_columns, int n_blocks, int64_t count, double* sums) {
  const int64_t k = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (k >= count) return;
  const double* first = columns + k / n_columns * n_columns * n_blocks + k % n_columns;
  double sum = 0;
  for (int block = 0; block < n_blocks; ++block) sum += first[block * n_columns];
  sums[k] = sum;
}

__global__ void differentiate(const __grid_constant__ Script script, const double* sums, double* scratch,
                              void* gradients, DType dtype) {
  const int64_t group = blockIdx.x;
  differentiate_weights(script, sums + group * n_columns(script), scratch + group * script.n_turns, gradients, dtype,
                        group * script.n_weights, static_cast<int>(threadIdx.x), kThreads, BlockSync());
}

}  // namespace

void launch_upload(const Chunk& chunk, uint64_t* blob, cudaStream_t stream) {
  upload<<<1, kThreads, 0, stream>>>(chunk, blob);
}

void launch_prepare(bool double_precision, const Script& script, const Call& call, void* sets, double* scratch,
                    cudaStream_t stream) {
  const auto groups = static_cast<unsigned>(call.n_groups);
  if (double_precision)
    prepare<<<groups, kThreads, 0, stream>>>(script, call, static_cast<double*>(sets), scratch);
  else
    prepare<<<groups, kThreads, 0, stream>>>(script, call, static_cast<float*>(sets), scratch);
}

void launch_finish(const Script& script, double* columns, int n_blocks, double* sums, double* scratch, int64_t n_groups,
                   const View& gradients, cudaStream_t stream) {
  const int64_t count = n_groups * n_columns(script);
  if (count)
    sum_columns<<<static_cast<unsigned>((count + kThreads - 1) / kThreads), kThreads, 0, stream>>>(
        columns, n_columns(script), n_blocks, count, sums);
  differentiate<<<static_cast<unsigned>(n_groups), kThreads, 0, stream>>>(script, sums, scratch, gradients.data,
                                                                          gradients.dtype);
}

}  // namespace hqf::cuda
