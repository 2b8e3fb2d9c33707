// The host side of hqfkernels._C: what was compiled, and what this CPU runs of it. It keeps to Python's limited API, so
// that one library serves every version of Python.
#include <Python.h>
#include <torch/csrc/stable/version.h>

#include <stdexcept>
#include <string>

#include "hqf/capability.hpp"

namespace {

PyObject* build_info(PyObject*, PyObject*) {
  std::string names;
  for (hqf::Capability capability : hqf::compiled_capabilities()) names += hqf::name(capability) + " ";
  PyObject* text = PyUnicode_FromString(names.c_str());
  PyObject* variants = text ? PyUnicode_Split(text, nullptr, -1) : nullptr;
  Py_XDECREF(text);
  const std::string target =
      std::to_string(TORCH_TARGET_VERSION >> 56) + "." + std::to_string(TORCH_TARGET_VERSION >> 48 & 0xff);
  // N takes the reference over; a null pointer there becomes the exception that its maker has set.
  return Py_BuildValue("{s:s, s:s, s:s, s:s, s:l, s:N, s:O, s:s}", "version", HQF_VERSION, "torch", TORCH_VERSION,
                       "torch_target", target.c_str(), "compiler", HQF_COMPILER, "cxx_standard",
                       __cplusplus / 100 % 100, "cpu_variants", variants, "cuda", HQF_HAVE_CUDA ? Py_True : Py_False,
                       "build_type", HQF_BUILD_TYPE);
}

PyObject* cpu_capability(PyObject*, PyObject*) {
  try {
    return PyUnicode_FromString(hqf::name(hqf::cpu_capability()).c_str());
  } catch (const std::invalid_argument& error) {
    PyErr_SetString(PyExc_ValueError, error.what());
    return nullptr;
  }
}

PyMethodDef methods[] = {
    {"build_info", build_info, METH_NOARGS, "How this library was built."},
    {"cpu_capability", cpu_capability, METH_NOARGS,
     "The variant of the CPU kernels that runs here: 'baseline', 'avx2' or 'avx512'. The environment variable "
     "HQF_CPU_CAPABILITY chooses a lower one; ValueError if it names one that cannot run."},
    {},
};

PyModuleDef definition = {
    .m_base = PyModuleDef_HEAD_INIT,
    .m_name = "hqfkernels._C",
    .m_doc = "Compiled part of hqfkernels; importing it registers its operators with torch.",
    .m_size = 0,
    .m_methods = methods,
    .m_slots = nullptr,
    .m_traverse = nullptr,
    .m_clear = nullptr,
    .m_free = nullptr,
};

}  // namespace

PyMODINIT_FUNC PyInit__C() { return PyModuleDef_Init(&definition); }
