"""Loading the CUDA library and what it says where it cannot run. What runs on a GPU is in `tests.test_gpu`."""

import importlib.util
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

import hqfkernels as hqf
from hqfkernels import ansatz, planner
from hqfkernels.backends import cuda, custatevec, triton
from tests.test_build import run_python


@pytest.mark.parametrize(
    ("architectures", "capability", "runs"),
    [
        ("80-real,90", (8, 0), True),
        ("80-real,90", (8, 9), True),
        ("80-real,90", (9, 0), True),
        ("80-real,90", (12, 0), True),  # PTX of 9.0
        ("80-real,90", (7, 5), False),
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


@pytest.mark.parametrize(("capability", "runs"), [((8, 6), True), ((7, 5), False)])
def test_devices_that_the_library_has_code_for(capability, runs, monkeypatch, caplog):
    """Of a library for 8.0 alone; a refusal is told once and says how to build for the device."""
    library = SimpleNamespace(build_info=lambda: {"architectures": "80-real"})
    monkeypatch.setattr(cuda, "load_cuda", lambda: (library, "loaded"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: capability)
    available, reason = cuda.cuda_status.__wrapped__(0)
    assert available is runs
    assert len(caplog.records) == (not runs)
    if runs:
        assert reason == "loaded"
    else:
        assert "none of which runs on a device of compute capability 7.5: build it again with CUDAARCHS=75" in reason
        assert reason in caplog.text


def test_the_cuda_library_is_not_loaded_by_the_import():
    done = run_python("import sys, hqfkernels; print('hqfkernels._cuda' in sys.modules)")
    assert done.stdout.strip() == "False", done.stderr


@pytest.mark.skipif(importlib.util.find_spec("hqfkernels._cuda") is None, reason="no CUDA library was built")
@pytest.mark.skipif(torch.version.cuda is None, reason="torch was built without CUDA")
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


# --- what the planner makes of it -------------------------------------------------------------------------------------


def choice(n_qubits: int, double: bool = False, engine: str = "auto", backend: str = "auto") -> tuple[str, str]:
    circuit = ansatz.local_circuit((1, n_qubits), 1)
    schedule = planner.choose((circuit.text,), "expval", ("cuda", 0, double), engine, backend)
    chosen = planner.scheduled(schedule, 10**8, 1)
    return chosen.engine, chosen.backend


def test_the_planner_takes_the_kernels_on_a_gpu(monkeypatch, fresh_choices):
    monkeypatch.setattr(cuda, "cuda_status", lambda index: (True, "there"))
    monkeypatch.setattr(custatevec, "status", lambda index: (False, "not installed"))
    assert choice(4) == choice(13) == choice(12, double=True) == ("gate", "cuda")
    assert choice(14) == choice(13, double=True) == ("fourier", "reference")
    assert choice(4, engine="fourier") == ("fourier", "reference")
    assert choice(4, backend="reference") == ("gate", "reference")
    with pytest.raises(RuntimeError, match="backend 'cuda' refuses: .*at most 13 qubits, the circuit has 14"):
        choice(14, backend="cuda")
    with pytest.raises(RuntimeError, match="backend 'cpu' refuses: .*computes on the CPU, the inputs are on cuda"):
        choice(4, backend="cpu")
    plan = planner.explain_choice(ansatz.local_circuit().text, ("cuda", 0, False), "auto", "auto", 10**6, 1)
    assert (plan.engine, plan.backend) == ("gate", "cuda")
    assert "no kernels for GPUs" in dict(plan.reasons)["unitary"]
    assert dict(plan.reasons)["fourier"] == dict(plan.reasons)["triton"] == "torch finds no CUDA device"


def test_the_planner_takes_tritons_contraction_on_a_gpu(monkeypatch, fresh_choices):
    monkeypatch.setattr(cuda, "cuda_status", lambda index: (True, "there"))
    monkeypatch.setattr(triton, "triton_status", lambda index: (True, "there"))
    monkeypatch.setattr(custatevec, "status", lambda index: (True, "there"))
    place = "cuda", 0, False
    assert choice(4) == choice(4, backend="triton") == choice(14) == ("fourier", "triton")
    assert choice(4, engine="gate") == choice(4, backend="cuda") == ("gate", "cuda")
    assert choice(14, engine="gate") == ("gate", "custatevec")
    deep = ansatz.strongly_entangling(8, 4).text
    large = ansatz.local_circuit((1, 14), 1).text
    for circuit, only in ((deep, ("gate", "cuda")), (large, ("fourier", "triton"))):
        schedule = planner.choose((circuit,), "expval", place, "auto", "auto")
        assert [(option.engine, option.backend) for option in schedule] == [only]
    with pytest.raises(RuntimeError, match="backend 'triton' refuses: it carries the fourier engine, 'gate' was"):
        choice(4, engine="gate", backend="triton")
    with pytest.raises(RuntimeError, match="backend 'cuda' refuses: it carries the gate engine, 'fourier' was"):
        choice(4, engine="fourier", backend="cuda")
    plan = planner.explain_choice(ansatz.local_circuit().text, place, "auto", "auto", 10**8, 1)
    assert (plan.engine, plan.backend) == ("fourier", "triton")
    assert "cheaper" in dict(plan.reasons)["gate"]
    plan = planner.explain_choice(ansatz.local_circuit().text, place, "gate", "auto", 10**6, 1)
    assert (plan.engine, plan.backend) == ("gate", "cuda")


def test_without_kernels_a_gpu_runs_plain_torch(monkeypatch, fresh_choices):
    monkeypatch.setattr(cuda, "cuda_status", lambda index: (False, "no device"))
    monkeypatch.setattr(custatevec, "status", lambda index: (False, "not installed"))
    plan = planner.explain_choice(ansatz.local_circuit().text, ("cuda", 0, False), "auto", "auto", 10, 1)
    assert plan.backend == "reference"
    assert dict(plan.reasons)["cuda"] == "no device"
    with pytest.raises(RuntimeError, match="backend 'cuda' refuses: no device"):
        choice(4, backend="cuda")


def test_the_cuda_backend_is_refused_for_tensors_elsewhere():
    circuit = ansatz.local_circuit()
    with pytest.raises(RuntimeError, match="backend 'cuda' refuses: it computes on GPUs, the inputs are on cpu"):
        hqf.expval(circuit, torch.zeros(2, 4), torch.zeros(circuit.n_weights), backend="cuda")
