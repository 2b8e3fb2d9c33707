#include "cuda/gate.hpp"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <utility>

#include "cuda/kernels.hpp"
#include "hqf/recipes.hpp"
#include "hqf/weights.hpp"

namespace hqf::cuda {
namespace {

constexpr int kThreads = 128;  // of a block, unless a circuit takes more

void check(cudaError_t error) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // so that it is not reported again, by somebody else
  std::string message = std::string("CUDA gate engine: ") + cudaGetErrorString(error);
  if (error == cudaErrorNoKernelImageForDevice || error == cudaErrorInvalidDeviceFunction ||
      error == cudaErrorUnsupportedPtxVersion)
    message +=
        "; hqfkernels was not compiled for the compute capability of this device (see build_info() of "
        "hqfkernels._cuda): build it again with CUDAARCHS set";
  throw std::runtime_error(message);
}

int device_attribute(cudaDeviceAttr attribute) {
  int device = 0, value = 0;
  check(cudaGetDevice(&device));
  check(cudaDeviceGetAttribute(&value, attribute, device));
  return value;
}

// The schedule of a program in one of the precisions: a type of its own for each, by which `cached` tells them apart.
template <class T>
struct ScheduleFor : Schedule {
  static ScheduleFor read(const std::string& text) { return {Schedule::read(text, sizeof(T) == sizeof(double))}; }
};

std::shared_ptr<const Schedule> schedule_of(const std::string& text, bool double_precision) {
  if (double_precision) return cached(text, ScheduleFor<double>::read);
  return cached(text, ScheduleFor<float>::read);
}

// Parts of one allocation; every part is aligned for any number.
class Parts {
 public:
  size_t add(size_t bytes) { return std::exchange(size_, size_ + (bytes + 255) / 256 * 256); }
  size_t size() const { return std::max<size_t>(size_, 256); }

 private:
  size_t size_ = 0;
};

void upload(const std::vector<uint64_t>& blob, uint64_t* to, cudaStream_t stream) {
  for (size_t start = 0; start < blob.size(); start += Chunk::kWords) {
    Chunk chunk{};
    chunk.start = static_cast<int64_t>(start);
    chunk.count = static_cast<int32_t>(std::min<size_t>(Chunk::kWords, blob.size() - start));
    std::memcpy(chunk.words, &blob[start], sizeof(uint64_t) * static_cast<size_t>(chunk.count));
    launch_upload(chunk, to, stream);
    check(cudaGetLastError());
  }
}

void run(const std::string& text, const Batch& batch, int batch_dims, bool wide, const View& weights,
         const View* grad_weights, const Queue& queue) {
  const auto schedule = schedule_of(text, wide);
  Script script = schedule->script(nullptr);
  if (static_cast<int64_t>(batch.places[kInputs].size()) != script.n_inputs ||
      static_cast<int64_t>(batch.places[kOutput].size()) != schedule->n_outputs() ||
      weights.sizes[weights.ndim - 1] != script.n_weights)
    throw std::invalid_argument("engine: inputs, weights or output do not have the sizes that the text tells");
  Work work{};
  work.call = make_call(batch, batch_dims, weights);
  const bool adjoint = grad_weights != nullptr;
  const void* kernel = circuit_kernel(wide, script.register_bits, script.complex, adjoint);
  const size_t number = wide ? sizeof(double) : sizeof(float);

  // The block, and where its memory lies.
  const int lanes = 1 << script.lane_bits, threads = std::max(kThreads, lanes), circuits = threads / lanes;
  const bool exchanges = script.n_moves || script.parts || script.n_amplitudes || script.lane_bits > kWarpBits;
  work.share.exchange_size = exchanges ? circuits * (script.complex ? 2 : 1) << script.bits : 0;
  work.share.numbers_size = circuits * (3 * script.n_own + script.n_readings);
  work.share.slots_size = adjoint && script.n_weights ? threads * (script.n_slots + script.n_table_slots) : 0;
  constexpr size_t kStatic = 256;  // more than what the kernels declare themselves
  const auto limit = static_cast<size_t>(device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin)) - kStatic;
  size_t shared = number * static_cast<size_t>(work.share.exchange_size);
  if (shared > limit) throw std::runtime_error("CUDA gate engine: the device has too little shared memory per block");
  const auto fits = [&](int32_t numbers, size_t budget) {
    const size_t with = shared + number * static_cast<size_t>(numbers);
    if (with > budget) return false;
    shared = with;
    return true;
  };
  const bool shared_numbers = fits(work.share.numbers_size, limit);
  const bool shared_slots = fits(work.share.slots_size, limit / 2);  // a second block should find room beside it
  if (shared > (48 << 10) - kStatic)
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared)));

  // As many blocks as the device runs at once, each with as many samples.
  int resident = 0;
  check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&resident, kernel, threads, shared));
  const int64_t wanted = std::max<int64_t>(
      1, int64_t{std::max(resident, 1)} * device_attribute(cudaDevAttrMultiProcessorCount) / batch.n_groups);
  const int64_t rounds = (batch.n_samples + circuits - 1) / circuits;
  work.share.samples_per_block = (rounds + wanted - 1) / wanted * circuits;
  const int64_t per_group = (batch.n_samples + work.share.samples_per_block - 1) / work.share.samples_per_block;
  const int64_t blocks = per_group * batch.n_groups;
  if (blocks > (int64_t{1} << 31) - 1) throw std::invalid_argument("engine: too many groups of weights for one call");
  work.share.blocks_per_group = static_cast<int32_t>(per_group);

  // All memory of the call, in one piece.
  const auto groups = static_cast<size_t>(batch.n_groups), all_blocks = static_cast<size_t>(blocks);
  const auto turns = static_cast<size_t>(script.n_turns);
  const auto columns = static_cast<size_t>(adjoint && script.n_weights ? n_columns(script) : 0);
  work.share.set_size = coefficients_size(script);
  Parts parts;
  const size_t blob_at = parts.add(schedule->blob().size() * sizeof(uint64_t));
  const size_t sets_at = parts.add(groups * static_cast<size_t>(work.share.set_size) * number);
  const size_t scratch_at = parts.add(groups * 2 * turns * sizeof(double));
  const size_t columns_at = parts.add(all_blocks * columns * sizeof(double));
  const size_t sums_at = parts.add(groups * columns * sizeof(double));
  const size_t numbers_at =
      parts.add(shared_numbers ? 0 : all_blocks * static_cast<size_t>(work.share.numbers_size) * number);
  const size_t slots_at =
      parts.add(shared_slots ? 0 : all_blocks * static_cast<size_t>(work.share.slots_size) * number);
  auto* memory = static_cast<char*>(queue.allocate(parts.size()));
  auto* scratch = reinterpret_cast<double*>(memory + scratch_at);
  auto* column_sums = reinterpret_cast<double*>(memory + columns_at);
  work.script = schedule->script(memory + blob_at);
  work.share.sets = memory + sets_at;
  work.share.columns = columns ? column_sums : nullptr;
  work.share.numbers = shared_numbers ? nullptr : memory + numbers_at;
  work.share.slots = shared_slots ? nullptr : memory + slots_at;

  upload(schedule->blob(), reinterpret_cast<uint64_t*>(memory + blob_at), queue.stream);
  launch_prepare(wide, work.script, work.call, memory + sets_at, scratch, queue.stream);
  check(cudaGetLastError());
  void* arguments[] = {&work};
  check(cudaLaunchKernel(kernel, dim3(static_cast<unsigned>(blocks)), dim3(static_cast<unsigned>(threads)), arguments,
                         shared, queue.stream));
  if (!adjoint || !script.n_weights) return;
  launch_finish(work.script, column_sums, work.share.blocks_per_group, reinterpret_cast<double*>(memory + sums_at),
                scratch, batch.n_groups, *grad_weights, queue.stream);
  check(cudaGetLastError());
}

}  // namespace

int64_t n_outputs(const std::string& text) { return schedule_of(text, false)->n_outputs(); }

void forward(const std::string& text, const View& inputs, int feature_dims, const View& weights, const View& output,
             const Queue& queue) {
  const Batch batch(inputs, feature_dims, output, nullptr, weights);
  if (batch.n_groups * batch.n_samples == 0) return;
  run(text, batch, inputs.ndim - feature_dims, output.dtype == DType::f64, weights, nullptr, queue);
}

void backward(const std::string& text, const View& grad, const View& inputs, int feature_dims, const View& weights,
              const View& grad_inputs, const View& grad_weights, const Queue& queue) {
  const Batch batch(inputs, feature_dims, grad, &grad_inputs, weights);
  run(text, batch, inputs.ndim - feature_dims, inputs.dtype == DType::f64, weights, &grad_weights, queue);
}

}  // namespace hqf::cuda
