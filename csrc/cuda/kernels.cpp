#include "cuda/kernels.hpp"

namespace hqf::cuda {

// Defined by circuits.cu, which is compiled once for each.
const void* float_2(bool complex, bool adjoint);
const void* float_3(bool complex, bool adjoint);
const void* float_4(bool complex, bool adjoint);
const void* float_5(bool complex, bool adjoint);
const void* double_2(bool complex, bool adjoint);
const void* double_3(bool complex, bool adjoint);
const void* double_4(bool complex, bool adjoint);

const void* circuit_kernel(bool double_precision, int register_bits, bool complex, bool adjoint) {
  switch (register_bits) {
    case 2:
      return double_precision ? double_2(complex, adjoint) : float_2(complex, adjoint);
    case 3:
      return double_precision ? double_3(complex, adjoint) : float_3(complex, adjoint);
    case 4:
      return double_precision ? double_4(complex, adjoint) : float_4(complex, adjoint);
    default:
      return float_5(complex, adjoint);
  }
}

}  // namespace hqf::cuda
