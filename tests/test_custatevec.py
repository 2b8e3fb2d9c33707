"""cuStateVec for large registers, on an emulation of the library's functions, against the plain-torch reference.

What needs a GPU is in `tests.test_gpu`.
"""

import inspect
import math
import re
import sys
from collections.abc import Iterator
from functools import partial

import pytest
import torch

import hqfkernels as hqf
from hqfkernels import Circuit, Input, Weight, ansatz, costs, functional, planner
from hqfkernels.backends import cuda, custatevec
from hqfkernels.backends.custatevec import gate
from hqfkernels.blocks import GROUP_QUBITS, Blocks, fuse
from hqfkernels.circuit import GATES
from hqfkernels.reference import circuit as plain
from tests import custatevec_emulation as emulation
from tests import test_gate_engine
from tests.test_gate_engine import layered, parameters
from tests.test_gpu_emulated import with_every_z

pytestmark = pytest.mark.usefixtures("threads")


def random_circuit(*arguments, **options) -> Circuit:
    """Random strings alone have expectation values of zero more often than not."""
    return with_every_z(test_gate_engine.random_circuit(*arguments, **options))


REFERENCE = {"expval": plain.expval, "probs": plain.probs}


@pytest.fixture
def emulated(monkeypatch) -> custatevec.Session:
    """Sessions on the emulation, in a memory without limits."""
    monkeypatch.setattr(torch.Tensor, "data_ptr", emulation.recorded)
    monkeypatch.setattr(custatevec.Session, "free_memory", lambda self: 2**40)
    session = custatevec.Session(emulation, torch.device("cpu"), 7)
    monkeypatch.setattr(gate, "session", lambda device: session)
    emulation.calls.clear()
    return session


def run(circuit, inputs, weights, measurement="expval"):
    text = Blocks.text_of(circuit.text, measurement)
    return torch.ops.hqfkernels.custatevec_forward(inputs, weights, text, 1, [])


def with_gradients(function, circuit, inputs, weights):
    """Values and the gradients of their sum with fixed slopes."""
    inputs, weights = inputs.detach().requires_grad_(), weights.detach().requires_grad_()
    values = function(circuit, inputs, weights)
    slope = torch.randn(values.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    grads = torch.autograd.grad((values * slope.to(values.dtype)).sum(), (inputs, weights), materialize_grads=True)
    return [values.detach(), *grads]


def assert_agrees(circuit, inputs, weights, measurement="expval", tolerance=None):
    actual = with_gradients(partial(run, measurement=measurement), circuit, inputs, weights)
    expected = with_gradients(REFERENCE[measurement], circuit, inputs.double(), weights.double())
    limit = tolerance or (1e-11 if inputs.dtype == torch.float64 else 2e-5)
    for a, e, dtype in zip(actual, expected, (actual[0].dtype, inputs.dtype, weights.dtype), strict=True):
        assert a.dtype == dtype
        stored = {torch.float16: 2e-3, torch.bfloat16: 1e-2}.get(dtype, 0.0)
        scale = max(1.0, e.abs().max().item()) if e.numel() else 1.0
        torch.testing.assert_close(a.double(), e, atol=(limit + stored) * scale, rtol=0)


# --- values and gradients ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("measurement", REFERENCE)
@pytest.mark.parametrize("n_qubits", [4, 5, 7])
def test_random_circuits(emulated, n_qubits, measurement, dtype):
    for seed in range(3):
        circuit = random_circuit(10 * n_qubits + seed, n_qubits, 40, n_observables=6)
        assert_agrees(circuit, *parameters(circuit, (5,), dtype=dtype), measurement)


@pytest.mark.parametrize("name", [*GATES, "unitary"])
def test_each_gate(emulated, name):
    circuit = random_circuit(2, 4, 24, gates=(name, "ry", "rxx") if name == "unitary" else (name, "rot", "crx"))
    assert_agrees(circuit, *parameters(circuit, (3,)))


@pytest.mark.parametrize("n_qubits", [13, 14])
def test_large_registers(emulated, n_qubits):
    circuit = layered(n_qubits, 2).measure("Z" * n_qubits, "XYZ" + "I" * (n_qubits - 4) + "Y")
    for q in range(n_qubits):
        circuit.measure("I" * q + "Z" + "I" * (n_qubits - 1 - q))
    assert_agrees(circuit, *parameters(circuit, (2,), dtype=torch.float32))


def test_observables_of_every_kind(emulated):
    """Several bases, several groups in a basis, strings on more qubits than a group has, the same string twice.

    All of them are near 1 or -1 in a state near (|0...0> + |1...1>) / sqrt(2).
    """
    n = GROUP_QUBITS + 2
    circuit = Circuit(n).h(0)
    for q in range(1, n):
        circuit.cx(q - 1, q)
    for q in range(n):
        circuit.rx(0.1 * Input(q % 3), q).ry(0.1 * Weight(q % 5), q).rz(0.1 * Input(q % 2) - 0.1 * Weight(q % 3), q)
    pairs = ["I" * q + "ZZ" + "I" * (n - 2 - q) for q in range(0, n, 2)]
    circuit.measure("Z" * n, "X" * n, *pairs, "Y" * n, "I" * n, "IZ" * (n // 2), "XY" * (n // 2), pairs[0], "X" * n)
    inputs, weights = parameters(circuit, (2,))
    assert plain.expval(circuit, inputs, weights).abs().min() > 0.1
    assert_agrees(circuit, inputs, weights)


def test_states(emulated):
    for amplitudes in (False, True):
        circuit = random_circuit(5, 4, amplitudes=amplitudes)
        inputs, weights = parameters(circuit, (4,))
        inputs = inputs.requires_grad_()
        actual = torch.view_as_complex(run(circuit, inputs, weights, "state").unflatten(-1, (-1, 2)))
        expected = plain.statevector(circuit, inputs, weights)
        torch.testing.assert_close(actual, expected, atol=1e-12, rtol=0)
        slope = torch.randn_like(actual)
        grads = [torch.autograd.grad(torch.sum((s * slope).real), inputs)[0] for s in (actual, expected)]
        torch.testing.assert_close(*grads, atol=1e-12, rtol=0)


@pytest.mark.parametrize("measurement", REFERENCE)
def test_amplitude_encoding(emulated, measurement):
    circuit = random_circuit(6, 4, amplitudes=True)
    assert_agrees(circuit, *parameters(circuit, (3,)), measurement)
    only = Circuit(4).amplitudes(0, 11)
    assert_agrees(only, *parameters(only, (3,)), measurement)


@pytest.mark.parametrize("length", [1e25, 1e-25])
def test_amplitudes_of_any_length(emulated, length):
    """Their squares are no numbers of float32."""
    circuit = Circuit(4).amplitudes(0, 11)
    inputs, weights = parameters(circuit, (3,), dtype=torch.float32)
    assert_agrees(circuit, inputs * length, weights)


@pytest.mark.parametrize("groups", [(), (1,), (3,), (4, 1), (4, 3)])
def test_weight_groups(emulated, groups):
    circuit = random_circuit(8, 4)
    assert_agrees(circuit, *parameters(circuit, (4, 3), groups))


def test_circuits_without_inputs_or_weights(emulated):
    for circuit in (Circuit(4).ry(Weight(0), 1), Circuit(4).ry(Input(0), 1)):
        assert_agrees(circuit.measure("ZZZZ", "XIXI"), *parameters(circuit, (2,)))
    constant = Circuit(4).h(0).cx(0, 2).measure("ZZZZ", "XIXI")
    inputs, weights = parameters(constant, (2,))
    torch.testing.assert_close(run(constant, inputs, weights), plain.expval(constant, inputs, weights).expand(2, 2))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(emulated, dtype):
    circuit = random_circuit(6, 4)
    assert_agrees(circuit, *parameters(circuit, (3,), dtype=dtype, weight_dtype=torch.float32))


def test_large_angles_in_float32(emulated):
    circuit = layered(4, 2)
    inputs, weights = parameters(circuit, (3,), dtype=torch.float32)
    assert_agrees(circuit, 1e5 * inputs, 1e5 * weights)


def test_chunks_of_the_batch(emulated, monkeypatch):
    """As many samples at a time as the memory holds, at least one; the result is the same."""
    circuit = random_circuit(9, 6, n_observables=5)
    for groups in ((), (7,)):
        inputs, weights = parameters(circuit, (7,), groups)
        monkeypatch.setattr(custatevec.Session, "free_memory", lambda self: 2**40)
        emulation.calls.clear()
        whole = with_gradients(run, circuit, inputs, weights)
        calls = emulation.calls.count("apply_matrix_batched")
        monkeypatch.setattr(gate, "ENVIRONMENT_AMPLITUDES", 2**7)
        monkeypatch.setattr(gate, "ENVIRONMENT_SUM", 2)
        for free, times in ((0, 7), (2**20, 4)):
            monkeypatch.setattr(custatevec.Session, "free_memory", lambda self, free=free: free)
            emulation.calls.clear()
            parts = with_gradients(run, circuit, inputs, weights)
            assert calls < emulation.calls.count("apply_matrix_batched") <= times * calls
            for part, one in zip(parts, whole, strict=True):
                torch.testing.assert_close(part, one, atol=1e-13, rtol=0)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_bad_sample_touches_no_other(emulated, bad):
    """Nor do its weights touch blocks that have none, here the one of the last three qubits."""
    circuit = Circuit(6).h(3).cx(3, 4).cx(4, 5)
    for q in range(3):
        circuit.ry(Input(q), q).rx(Weight(q), q)
    circuit = with_every_z(circuit.cx(0, 1).cx(1, 2)).measure("ZZZZZI")
    inputs, weights = parameters(circuit, (5,), (5,))
    clean = with_gradients(run, circuit, inputs, weights)
    inputs[2, 1], weights[0, 0] = bad, bad
    mixed = with_gradients(run, circuit, inputs, weights)
    others = [1, 3, 4]
    assert mixed[0][[0, 2]].isnan().any(-1).all()
    for before, after in zip(clean, mixed, strict=True):
        torch.testing.assert_close(before[others], after[others], atol=1e-14, rtol=0)


@pytest.mark.parametrize("batch", [(0,), (3, 0)])
def test_empty_batches(emulated, batch):
    circuit = random_circuit(8, 4)
    inputs, weights = parameters(circuit, batch)
    values, grad_inputs, grad_weights = with_gradients(run, circuit, inputs, weights)
    assert values.shape == (*batch, 8)
    assert grad_inputs.shape == inputs.shape
    assert torch.equal(grad_weights, torch.zeros_like(weights))


# --- inside torch -----------------------------------------------------------------------------------------------------


def test_the_operator_keeps_torchs_rules(emulated):
    circuit = random_circuit(8, 4)
    inputs, weights = (t.requires_grad_() for t in parameters(circuit, (3,)))
    text = Blocks.text_of(circuit.text, "expval")
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(torch.ops.hqfkernels.custatevec_forward, (inputs, weights, text, 1, []), test_utils=checks)


def test_vmap_and_memory_layout(emulated):
    circuit = random_circuit(8, 4)
    inputs, weights = parameters(circuit, (5, 3), (5,))
    mapped = torch.func.vmap(lambda x, w: run(circuit, x, w))(inputs, weights)
    torch.testing.assert_close(mapped, run(circuit, inputs, weights[:, None]))
    text = Blocks.text_of(circuit.text, "expval")
    ordered = torch.ops.hqfkernels.custatevec_forward(inputs, weights[0], text, 1, [2, 0, 1])
    torch.testing.assert_close(ordered, run(circuit, inputs, weights[0]))
    assert ordered.permute(2, 0, 1).is_contiguous()


# --- calls ------------------------------------------------------------------------------------------------------------


def test_a_call_for_every_two_entanglers(emulated):
    circuit = layered(6, 3)
    inputs, weights = parameters(circuit, (8,))
    run(circuit, inputs, weights)
    assert emulation.calls.count("apply_matrix_batched") == 9
    assert emulation.calls.count("abs2sum_array_batched") == 1
    emulation.calls.clear()
    with_gradients(run, circuit, inputs[:4], weights)
    assert emulation.calls.count("apply_matrix_batched") == 3 * 9
    # One for each kind of call: with and without own angles, one or two states a sample, adjoint or not.
    assert emulation.calls.count("apply_matrix_batched_get_workspace_size") <= 4


def test_fusing_keeps_the_order_of_gates():
    circuit = Circuit(7).h(0).h(1).cx(0, 1).h(3).cx(1, 2).cx(2, 3).h(1).cx(1, 0).x(4).h(0).cx(0, 3).x(5).x(6)
    blocks = fuse(circuit.gates, 7)
    assert [block.qubits for block in blocks] == [(0, 1, 2), (0, 2, 3), (4, 5, 6)]
    assert [block.qubits for block in fuse(ansatz.angle_encoding(5).gates, 5)] == [(0, 1, 2), (0, 3, 4)]


def valid() -> tuple[dict[str, object], list[torch.Tensor]]:
    """Arguments of a good call by name, and the tensors behind them."""
    states, matrices = torch.zeros(3, 16, dtype=torch.complex64), torch.zeros(3, 4, 4, dtype=torch.complex64)
    indices, extra, context = torch.arange(3, dtype=torch.int32), torch.zeros(4096, dtype=torch.uint8), torch.zeros(0)
    context = torch.zeros(4096, dtype=torch.uint8)
    handle = emulation.create()
    emulation.set_stream(handle, 0)
    emulation.set_workspace(handle, context.data_ptr(), 4096)
    pointers = {"handle": handle, "batched_sv": states.data_ptr(), "matrices": matrices.data_ptr()}
    counts = {"n_index_bits": 4, "n_svs": 3, "sv_stride": 16, "n_matrices": 3, "n_targets": 2, "n_controls": 0}
    kinds = {"sv_data_type": 4, "matrix_data_type": 4, "map_type": 1, "layout": 1, "adjoint": 0, "compute_type": 0}
    rest = {"matrix_indices": indices.data_ptr(), "targets": [2, 0], "controls": 0, "control_bit_values": 0}
    workspace = {"extra_workspace": extra.data_ptr(), "extra_workspace_size_in_bytes": 4096}
    return pointers | counts | kinds | rest | workspace, [states, matrices, indices, extra, context]


@pytest.mark.parametrize(
    "wrong",
    [
        {"handle": 1},
        {"batched_sv": 4096},
        {"n_index_bits": 5},
        {"n_svs": 4},
        {"n_svs": -1},
        {"n_svs": 3.0},
        {"sv_stride": 8},
        {"sv_stride": 17},
        {"sv_data_type": 5},
        {"sv_data_type": 9},
        {"matrix_data_type": 5},
        {"map_type": 0},
        {"map_type": 2},
        {"n_matrices": 2},
        {"n_matrices": 4},
        {"matrix_indices": 0},
        {"layout": 3},
        {"adjoint": 2},
        {"adjoint": True},
        {"compute_type": 16},
        {"compute_type": 4096},
        {"targets": [2]},
        {"targets": [2, 2]},
        {"targets": [2, 4]},
        {"n_targets": 0, "targets": []},
        {"n_controls": 1},
        {"extra_workspace_size_in_bytes": 10},
        {"extra_workspace": 0},
    ],
)
def test_the_emulation_takes_no_wrong_argument(emulated, wrong):
    arguments, tensors = valid()
    names = [argument.split()[-1] for argument in emulation.c_types["apply_matrix_batched"].split(",")]
    emulation.apply_matrix_batched(*(arguments[name] for name in names))
    with pytest.raises((emulation.Invalid, ValueError)):
        emulation.apply_matrix_batched(*((arguments | wrong)[name] for name in names))
    del tensors


def test_the_emulation_has_the_bindings_signatures():
    """Needs cuQuantum Python, but no GPU."""
    real = pytest.importorskip("cuquantum.bindings.custatevec")
    for name, declaration in emulation.c_types.items():
        documented = getattr(real, name).__doc__.splitlines()[0]
        assert documented.partition("->")[0].strip() == f"{name}({declaration})"
        assert list(inspect.signature(getattr(real, name)).parameters) == list(
            inspect.signature(getattr(emulation, name)).parameters
        )
    for kind in ("MatrixMapType", "MatrixLayout", "ComputeType"):
        assert {e.name: e.value for e in getattr(real, kind)} == {e.name: e.value for e in getattr(emulation, kind)}
    from cuquantum import cudaDataType

    real_types = {torch.complex64: cudaDataType.CUDA_C_32F, torch.complex128: cudaDataType.CUDA_C_64F}
    assert real_types == custatevec._DATA_TYPES


# --- finding it, and what the planner makes of it ---------------------------------------------------------------------


@pytest.fixture
def absent(monkeypatch, fresh_choices) -> Iterator[None]:
    """A machine without cuQuantum Python; nothing stays in the caches."""
    monkeypatch.setitem(sys.modules, "cuquantum.bindings.custatevec", None)
    caches = (custatevec.load, custatevec.status)
    for cached in caches:
        cached.cache_clear()
    yield
    for cached in caches:
        cached.cache_clear()


@pytest.mark.parametrize(
    ("version", "reason"),
    [
        (
            "13.0",
            r"cuStateVec cannot be loaded \(.*cuquantum.*\). Install it by: pip install 'hqfkernels\[custatevec\]'",
        ),
        (
            "12.8",
            r"cuStateVec cannot be loaded \(.*cuquantum.*\). Install it by: pip install 'cuquantum-python-cu12>=25.9'",
        ),
        (None, "the installed torch is built without CUDA"),
    ],
)
def test_its_absence_is_told(monkeypatch, absent, version, reason):
    monkeypatch.setattr(torch.version, "cuda", version)
    assert re.fullmatch(reason, custatevec.refusal(14) or "")
    circuit = ansatz.angle_encoding(14).text
    with pytest.raises(RuntimeError, match=f"backend 'custatevec' refuses: {reason}"):
        planner.choose((circuit,), "expval", ("cuda", 0, False), "auto", "custatevec")


@pytest.mark.parametrize("kernels", [True, False])
def test_it_is_not_loaded_for_small_registers(monkeypatch, fresh_choices, kernels):
    monkeypatch.setattr(cuda, "cuda_status", lambda index: (kernels, "not built"))
    monkeypatch.setattr(custatevec, "load", lambda: pytest.fail("loaded"))
    monkeypatch.setattr(custatevec, "status", lambda index: pytest.fail("loaded"))
    plan = planner.explain_choice(ansatz.local_circuit().text, ("cuda", 0, False), "auto", "auto", 8, 1)
    assert plan.backend == ("cuda" if kernels else "reference")
    assert dict(plan.reasons)["custatevec"].startswith("it is for registers of more than 13 qubits")


@pytest.mark.parametrize("available", [True, False])
def test_the_planner_takes_it_for_large_registers(monkeypatch, fresh_choices, available):
    monkeypatch.setattr(cuda, "cuda_status", lambda index: (True, "there"))
    monkeypatch.setattr(custatevec, "status", lambda index: (available, "no library"))

    def choice(n_qubits, double=False, engine="auto", backend="auto"):
        circuit = ansatz.local_circuit((1, n_qubits), 1).text
        schedule = planner.choose((circuit,), "expval", ("cuda", 0, double), engine, backend)
        chosen = planner.scheduled(schedule, 100, 1)
        return chosen.engine, chosen.backend

    large = "gate", "custatevec" if available else "reference"
    assert choice(13) == choice(12, double=True) == ("gate", "cuda")
    assert choice(14) == choice(13, double=True) == choice(20, engine="gate") == large
    assert choice(14, backend="reference") == ("gate", "reference")
    assert choice(14, engine="fourier") == ("fourier", "reference")
    plan = planner.explain_choice(ansatz.angle_encoding(14).text, ("cuda", 0, False), "auto", "auto", 9, 1)
    assert (plan.engine, plan.backend) == ("gate", "custatevec" if available else "reference")
    assert "at most 13 qubits" in dict(plan.reasons)["cuda"]
    if available:
        assert choice(4, backend="custatevec") == large
        with pytest.raises(RuntimeError, match="carries the gate engine, 'fourier' was asked for"):
            choice(14, engine="fourier", backend="custatevec")
        with pytest.raises(RuntimeError, match="'custatevec' refuses: it takes at least 4 qubits"):
            choice(3, backend="custatevec")
    else:
        assert dict(plan.reasons)["custatevec"] == "no library"
        with pytest.raises(RuntimeError, match="backend 'custatevec' refuses: no library"):
            choice(14, backend="custatevec")


def test_what_is_chosen_for_it_runs_there():
    chosen = planner.Choice("gate", "custatevec", costs.Prices(0.0, 0.0, 0.0))
    with pytest.raises(RuntimeError, match="cuStateVec computes on GPUs, the inputs are on cpu"):
        functional.evaluate((ansatz.angle_encoding(4),), torch.zeros(2, 4), (torch.zeros(0),), (chosen,))


def test_tensors_elsewhere_are_refused():
    circuit = ansatz.angle_encoding(14)
    inputs = torch.zeros(2, 14)
    with pytest.raises(RuntimeError, match="backend 'custatevec' refuses: it computes on GPUs, the inputs are on cpu"):
        hqf.expval(circuit, inputs, backend="custatevec")
    with pytest.raises(RuntimeError, match="cuStateVec computes on GPUs, the inputs are on cpu"):
        run(circuit, inputs, torch.zeros(0))
