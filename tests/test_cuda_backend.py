"""Loading the CUDA library and what it says where it cannot run. What runs on a GPU is in `tests.test_gpu`."""

import importlib.util
import subprocess
import sys

import pytest
import torch

from hqfkernels.backends import cuda
from tests.test_build import run_python


@pytest.mark.parametrize(
    ("architectures", "capability", "runs"),
    [
        ("80-real;90", (8, 0), True),
        ("80-real;90", (8, 9), True),
        ("80-real;90", (9, 0), True),
        ("80-real;90", (12, 0), True),  # PTX of 9.0
        ("80-real;90", (7, 5), False),
        ("80-real", (9, 0), False),
        ("86-real", (8, 0), False),
        ("90-virtual", (8, 0), False),
        ("100-real", (10, 3), True),
        ("90a", (9, 0), True),
    ],
)
def test_architectures_cover_devices(architectures, capability, runs):
    assert cuda.covers(architectures, capability) is runs


@pytest.mark.parametrize(("n_qubits", "dtype"), [(14, torch.float32), (14, torch.bfloat16), (13, torch.float64)])
def test_too_many_qubits_are_refused(n_qubits, dtype):
    refusal = cuda.cuda_refusal(n_qubits, dtype)
    assert refusal is not None
    assert f"at most {n_qubits - 1} qubits" in refusal


def test_without_cuda_the_reason_is_told():
    done = run_python(
        "import torch; torch.version.cuda = None\n"
        "from hqfkernels.backends import cuda\n"
        "print(cuda.load_cuda()); print(cuda.cuda_refusal(4, torch.float32))"
    )
    reason = "the installed torch is built without CUDA"
    assert done.stdout.splitlines() == [f"(None, '{reason}')", reason], done.stderr
    done = run_python("from hqfkernels.backends import cuda; print(cuda.cuda_status())", HQF_DISABLE_NATIVE="1")
    assert done.stdout.strip() == "(False, 'HQF_DISABLE_NATIVE is set')", done.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="about machines without a GPU")
def test_without_a_gpu_the_reason_is_told():
    available, reason = cuda.cuda_status()
    assert not available
    assert reason


def test_the_cuda_library_is_not_loaded_by_the_import():
    done = run_python("import sys, hqfkernels; print('hqfkernels._cuda' in sys.modules)")
    assert done.stdout.strip() == "False", done.stderr


@pytest.mark.skipif(importlib.util.find_spec("hqfkernels._cuda") is None, reason="no CUDA library was built")
def test_the_cuda_library_registers_the_gate_engine():
    """It loads without a GPU, too: what it needs are torch and the CUDA runtime."""
    code = (
        "import torch, hqfkernels\n"
        "from hqfkernels.backends import cuda\n"
        "module, reason = cuda.load_cuda()\n"
        "assert module is not None, reason\n"
        "assert module.build_info()['version'] == hqfkernels.__version__\n"
        "for name in ('forward', 'backward'):\n"
        "    assert torch._C._dispatch_has_kernel_for_dispatch_key(f'hqfkernels::gate_{name}', 'CUDA')\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
