// The operators of hqfkernels on CUDA tensors, registered through torch's stable ABI; and hqfkernels._cuda itself,
// whose import registers them. See csrc/bindings/ops.cpp, their counterpart for the CPU.

#include <Python.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>

#include <string>
#include <tuple>
#include <vector>

#include "bindings/tensors.hpp"
#include "cuda/gate.hpp"

namespace {

using hqf::Dims;
using hqf::Tensor;
using hqf::view_to_read;
using hqf::view_to_write;
using torch::stable::accelerator::DeviceGuard;

void check_device(const Tensor& tensor, const char* name, const Tensor& inputs) {
  STD_TORCH_CHECK(tensor.is_cuda() && tensor.get_device_index() == inputs.get_device_index(), name,
                  " must be on the device of the inputs, cuda:", inputs.get_device_index(), ", but is ",
                  tensor.is_cuda() ? "on cuda:" + std::to_string(tensor.get_device_index()) : "not on a GPU");
}

// Work on torch's current stream, with memory of torch's caching allocator, which gives it back when this is destroyed:
// what is queued on the same stream later may have it then.
class TorchQueue {
 public:
  explicit TorchQueue(const Tensor& like) {
    void* stream = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(like.get_device_index(), &stream));
    queue_.stream = static_cast<cudaStream_t>(stream);
    queue_.allocate = [this, &like](size_t bytes) {
      memory_.push_back(torch::stable::new_empty(like, {static_cast<int64_t>(bytes)}, hqf::ScalarType::Byte));
      return memory_.back().mutable_data_ptr();
    };
  }
  TorchQueue(const TorchQueue&) = delete;
  TorchQueue& operator=(const TorchQueue&) = delete;

  const hqf::cuda::Queue& queue() const { return queue_; }

 private:
  std::vector<Tensor> memory_;
  hqf::cuda::Queue queue_;
};

Tensor forward(const Tensor& inputs, const Tensor& weights, const std::string& text, int64_t feature_dims,
               const Dims& output_order) {
  check_device(weights, "weights", inputs);
  const DeviceGuard guard(inputs.get_device_index());
  Tensor output = hqf::empty_output(inputs, hqf::cuda::n_outputs(text), feature_dims, output_order);
  const TorchQueue work(inputs);
  hqf::cuda::forward(text, view_to_read(inputs), static_cast<int>(feature_dims), view_to_read(weights),
                     view_to_write(output), work.queue());
  return output;
}

std::tuple<Tensor, Tensor> backward(const Tensor& grad, const Tensor& inputs, const Tensor& weights,
                                    const std::string& text, int64_t feature_dims, const Dims& input_order) {
  check_device(weights, "weights", inputs);
  check_device(grad, "grad", inputs);
  const DeviceGuard guard(inputs.get_device_index());
  Tensor grad_inputs = hqf::empty(inputs, hqf::sizes(inputs), input_order, inputs.scalar_type());
  int64_t samples = 1;
  for (int64_t d = 0; d < inputs.dim() - feature_dims; ++d) samples *= inputs.sizes()[static_cast<size_t>(d)];
  if (samples == 0) return {grad_inputs, torch::stable::new_zeros(weights, hqf::sizes(weights))};
  Tensor grad_weights = hqf::empty(weights, hqf::sizes(weights), {}, weights.scalar_type());
  const TorchQueue work(inputs);
  hqf::cuda::backward(text, view_to_read(grad), view_to_read(inputs), static_cast<int>(feature_dims),
                      view_to_read(weights), view_to_write(grad_inputs), view_to_write(grad_weights), work.queue());
  return {grad_inputs, grad_weights};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(hqfkernels, CUDA, m) {
  m.impl("gate_forward", HQF_BOX(&forward));
  m.impl("gate_backward", HQF_BOX(&backward));
}

namespace {

PyObject* build_info(PyObject*, PyObject*) {
  return Py_BuildValue("{s:s, s:s, s:s}", "version", HQF_VERSION, "toolkit", HQF_CUDA_TOOLKIT, "architectures",
                       HQF_CUDA_ARCHITECTURES);
}

PyMethodDef methods[] = {
    {"build_info", build_info, METH_NOARGS,
     "How this library was built; architectures are CMake's names of compute capabilities."},
    {},
};

PyModuleDef definition = {
    .m_base = PyModuleDef_HEAD_INIT,
    .m_name = "hqfkernels._cuda",
    .m_doc = "CUDA part of hqfkernels; importing it registers its operators with torch.",
    .m_size = 0,
    .m_methods = methods,
    .m_slots = nullptr,
    .m_traverse = nullptr,
    .m_clear = nullptr,
    .m_free = nullptr,
};

}  // namespace

PyMODINIT_FUNC PyInit__cuda() { return PyModuleDef_Init(&definition); }
