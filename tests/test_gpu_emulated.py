"""The GPU's gate engine on emulated lanes (`tests.emulation`) against the plain-torch reference."""

import math

import numpy as np
import pytest
import torch

from bench.cases import Case
from bench.roofline import gate_operations
from hqfkernels import Circuit, Input, Weight, ansatz
from hqfkernels.program import Measurement, Program, lower
from hqfkernels.reference import rotations
from tests import oracles
from tests.emulation import Emulation
from tests.test_gate_engine import KINDS, layered, parameters, random_circuit
from tests.test_memory import spread


@pytest.fixture(scope="session")
def emulation() -> Emulation:
    try:
        return Emulation.build()
    except FileNotFoundError as error:
        pytest.skip(f"no C++ compiler: {error}")


def with_every_z(circuit: Circuit) -> Circuit:
    """Random strings on many qubits often vanish; <Z> of a qubit rarely does."""
    n = circuit.n_qubits
    return circuit.measure(*("I" * q + "Z" + "I" * (n - 1 - q) for q in range(n)))


def assert_agrees(
    emulation, circuit, inputs, weights, measurement: Measurement = "expval", register_bits=0, tolerance=None
):
    """Values and gradients are those of the reference in float64, and no exchange has bank conflicts."""
    text = lower(circuit.text, measurement)
    program = Program.from_text(text)
    compute = torch.float64 if inputs.dtype == torch.float64 else torch.float32
    output = torch.full((*inputs.shape[:-1], program.n_outputs), math.nan, dtype=compute)
    wide, wide_weights = inputs.double(), weights.double()
    if weights.dim() > 1:
        wide_weights = wide_weights.expand(*inputs.shape[:-1], -1)
    limit = tolerance or (1e-10 if compute == torch.float64 else 2e-5)

    assert emulation.forward(text, register_bits, inputs, weights, output)
    expected = rotations.forward(program, wide, wide_weights)
    torch.testing.assert_close(output.double(), expected, atol=limit, rtol=0)
    if measurement == "state":
        return
    slope = torch.randn(output.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(compute)
    grads = [torch.full(t.shape, math.nan, dtype=t.dtype) for t in (inputs, weights)]
    assert emulation.backward(text, register_bits, slope, inputs, weights, *grads)
    grad_inputs, grad_weights = rotations.backward(program, slope.double(), wide, wide_weights)
    for a, e in zip(grads, (grad_inputs, grad_weights.sum_to_size(weights.shape)), strict=True):
        stored = {torch.float16: 2e-3, torch.bfloat16: 1e-2, torch.float32: 1e-6}.get(a.dtype, 0.0)
        scale = max(1.0, e.abs().max().item()) if e.numel() else 1.0
        torch.testing.assert_close(a.double(), e, atol=(limit + stored) * scale, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("measurement", ["expval", "probs"])
@pytest.mark.parametrize("n_qubits", range(1, 9))
def test_random_circuits(emulation, n_qubits, measurement, dtype):
    circuit = with_every_z(random_circuit(n_qubits, n_qubits, n_observables=6))
    assert_agrees(emulation, circuit, *parameters(circuit, (3,), dtype=dtype), measurement)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n_qubits", range(1, 12))
def test_layered_circuits(emulation, n_qubits, dtype):
    """One lane up to 5 qubits, then 2 ... 32 lanes, then several warps."""
    circuit = layered(n_qubits, 3 if n_qubits < 9 else 2)
    assert_agrees(emulation, circuit, *parameters(circuit, (2,), dtype=dtype))


@pytest.mark.parametrize("n_qubits", [12, 13])
def test_the_largest_registers(emulation, n_qubits):
    circuit = layered(n_qubits, 1).rxx(Input(0), 0, n_qubits - 1).ry(Weight(0), 1)
    circuit.measure("Z" * n_qubits, "X" + "I" * (n_qubits - 1), "I" * (n_qubits - 2) + "YZ")
    assert_agrees(emulation, circuit, *parameters(circuit, (1,), dtype=torch.float32))


def test_too_large_a_register_is_refused(emulation):
    circuit = ansatz.angle_encoding(14)
    with pytest.raises(ValueError, match="too large"):
        assert_agrees(emulation, circuit, *parameters(circuit, (1,), dtype=torch.float32))


@pytest.mark.parametrize("measurement", ["expval", "probs"])
@pytest.mark.parametrize("gates", KINDS, ids=" ".join)
def test_kinds_of_gates(emulation, gates, measurement):
    for seed, n_qubits in enumerate((2, 5, 6)):
        circuit = random_circuit(seed, n_qubits, 40, 2, 0 if gates == ("unitary",) else 3, gates=(*gates, "ry"))
        circuit = with_every_z(circuit)
        assert_agrees(emulation, circuit, *parameters(circuit, (2,)), measurement)


@pytest.mark.parametrize("register_bits", [2, 3, 4])
def test_any_split_between_lanes_and_registers(emulation, register_bits):
    for n_qubits in (4, 6, 7):
        circuit = with_every_z(random_circuit(n_qubits + 20, n_qubits, 40, n_observables=8))
        assert_agrees(emulation, circuit, *parameters(circuit, (2,)), register_bits=register_bits)
        circuit = layered(n_qubits, 2)
        assert_agrees(emulation, circuit, *parameters(circuit, (2,)), register_bits=register_bits)


def test_phases_of_samples_between_mixing_layers(emulation):
    circuit = ansatz.angle_encoding(6)
    for layer in range(3):
        for q in range(6):
            circuit.rz(Input(q), q).rzz(2 * Input(q) + Weight(layer), q, (q + 1) % 6)
        for q in range(6):
            circuit.rx(Weight(6 * layer + q), q).ry(Input(q) - Weight(q), q)
    assert_agrees(emulation, circuit, *parameters(circuit, (3,)))


@pytest.mark.parametrize("measurement", ["expval", "probs"])
def test_amplitude_encoding(emulation, measurement):
    for seed, n_qubits in enumerate((1, 3, 5, 7)):
        circuit = random_circuit(seed, n_qubits, amplitudes=True)
        assert_agrees(emulation, circuit, *parameters(circuit, (3,)), measurement)
    short = Circuit(6).amplitudes(2, 5).ry(Input(0), 1).rx(Input(3), 2).rz(Weight(0), 0).rx(Weight(1), 0).cx(0, 1)
    assert_agrees(emulation, short, *parameters(short, (3,)), measurement)


@pytest.mark.parametrize(("dtype", "digits"), [(torch.float32, 36), (torch.float64, 300)])
@pytest.mark.parametrize("n_qubits", [2, 7])
def test_amplitudes_of_any_length(emulation, n_qubits, dtype, digits):
    """Neither values nor gradients suffer where squares of the amplitudes would be zero or infinite."""
    circuit = with_every_z(random_circuit(n_qubits, n_qubits, n_inputs=0, amplitudes=True))
    text = lower(circuit.text, "expval")
    amplitudes, weights = parameters(circuit, (3,), dtype=dtype)

    def results(length: float) -> tuple[torch.Tensor, ...]:
        inputs = amplitudes * length
        output = amplitudes.new_empty(3, len(circuit.observables))
        slope = torch.ones_like(output)
        grads = torch.empty_like(inputs), torch.empty_like(weights)
        emulation.forward(text, 0, inputs, weights, output)
        emulation.backward(text, 0, slope, inputs, weights, *grads)
        return output, grads[0] * length, grads[1]

    tolerance = 1e-11 if dtype == torch.float64 else 1e-4
    for length in (10.0**-digits, 10.0**-20, 10.0**20, 10.0**digits):
        for actual, expected in zip(results(length), results(1.0), strict=True):
            torch.testing.assert_close(actual, expected, atol=tolerance, rtol=0)
    assert results(0.0)[0].isnan().all()


def test_a_register_that_grows_late(emulation):
    """Bits that no encoding reaches start at zero and are turned later; some are never reached."""
    circuit = Circuit(8).ry(Input(0), 0).rx(Input(1), 1).rz(Weight(0), 0).cx(0, 1).rx(Weight(1), 0)
    circuit.cx(1, 2).ry(Weight(2), 2).ry(Input(2), 5).rz(Weight(3), 5).ryy(Weight(4), 5, 6)
    circuit.measure("ZIIIIIII", "IZIIIIII", "IIZIIIII", "IIIIIZZI", "XIIIIXII", "IIIXIIII")
    for measurement in ("expval", "probs"):
        assert_agrees(emulation, circuit, *parameters(circuit, (2,)), measurement)


def test_observables_of_every_kind(emulation):
    strings = ("ZIII", "ZIII", "IZII", "ZZII", "IIII", "XIII", "IYIZ", "XYZX", "ZZZZ", "IIZZ", "YYII", "IIZI", "ZIII")
    for circuit in (random_circuit(11, 4), layered(4, 2), ansatz.basic_entangler(4, 3, "y")):
        assert_agrees(emulation, circuit.measure(*strings), *parameters(circuit, (3,)))
    wide = random_circuit(12, 7).measure(*(s + "XYZ" for s in strings), *("IYX" + s for s in strings))
    assert_agrees(emulation, wide, *parameters(wide, (2,)))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_deep_real_circuit_keeps_its_norm(emulation, dtype):
    circuit = ansatz.basic_entangler(6, 50, "y")
    inputs, weights = parameters(circuit, (2,), dtype=dtype)
    tolerance = 1e-4 if dtype == torch.float32 else 1e-10
    assert_agrees(emulation, circuit, inputs, weights, "expval", tolerance=tolerance)


@pytest.mark.parametrize("offset", [0.0, 1e-3, 1e-9])
def test_shared_rotations_near_quarter_and_half_turns(emulation, offset):
    circuit = ansatz.basic_entangler(3, 16, "y")
    turns = math.pi / 2 * torch.arange(circuit.n_weights, dtype=torch.float64) % 9
    inputs, _ = parameters(circuit, (2,))
    assert_agrees(emulation, circuit, inputs, turns + offset)


@pytest.mark.parametrize("size", [1e4, 1.01e5, 1e8])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_large_angles(emulation, dtype, size):
    circuit = layered(3, 2).rz(Input(1), 1).rx(Input(2), 1)
    inputs, weights = parameters(circuit, (5,), dtype=dtype)
    tolerance = 1e-7 if dtype == torch.float64 else None
    assert_agrees(emulation, circuit, size * inputs, size * weights, tolerance=tolerance)


def test_states(emulation):
    for seed, (n_qubits, amplitudes) in enumerate([(1, False), (3, True), (4, False), (6, False), (7, True)]):
        circuit = random_circuit(seed, n_qubits, amplitudes=amplitudes)
        assert_agrees(emulation, circuit, *parameters(circuit, (2,)), "state")


@pytest.mark.parametrize("groups", [(), (3,), (2, 1), (2, 3)])
def test_weight_groups(emulation, groups):
    circuit = with_every_z(random_circuit(8, 6))
    assert_agrees(emulation, circuit, *parameters(circuit, (2, 3), groups))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_storage_alone(emulation, dtype):
    circuit = layered(6, 2)
    assert_agrees(emulation, circuit, *parameters(circuit, (4,), dtype=dtype, weight_dtype=torch.float32))


def test_strided_tensors(emulation):
    circuit = with_every_z(random_circuit(4, 6))
    inputs, weights = parameters(circuit, (4, 5))
    strided = torch.stack([inputs.transpose(0, 1), inputs.transpose(0, 1) + 1], -1)[..., 0].transpose(0, 1)
    assert not strided.is_contiguous()
    assert_agrees(emulation, circuit, strided, torch.stack([weights, weights], -1)[..., 0])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_bad_sample_touches_no_other(emulation, bad):
    circuit = random_circuit(3, 6)
    inputs, weights = parameters(circuit, (4,))
    inputs[1, 1] = bad
    program = lower(circuit.text, "expval")
    output = torch.empty(4, circuit.n_observables, dtype=torch.float64)
    emulation.forward(program, 0, inputs, weights, output)
    assert output[1].isnan().any()
    assert output[[0, 2, 3]].isfinite().all()


def test_random_programs_of_every_size(emulation):
    """Schedules with many exchanges: every one must be a bijection without bank conflicts."""
    rng = np.random.default_rng(0)
    for n_qubits in (6, 7, 8, 9):
        circuit = oracles.random_circuit(rng, n_qubits, 60, 4, 4, gates=("rx", "ry", "rz", "rxx", "rzz", "cx", "cry"))
        circuit = with_every_z(circuit)
        assert_agrees(emulation, circuit, *parameters(circuit, (1,)))


def test_strides_beyond_32_bits(emulation):
    """Samples, features and sets of weights that lie far apart; only the pages that are touched take memory."""
    circuit = ansatz.local_circuit((2, 2), 2)
    inputs, weights = parameters(circuit, (2, 3), groups=(2, 1), dtype=torch.float16)
    far = spread(inputs, 2**32 + 3, 5, 1), spread(weights, 2**31 + 1, 1, 2**20)
    assert_agrees(emulation, circuit, *far)


@pytest.mark.parametrize("case", [Case(4, 2, 1), Case(6, 3, 1), Case(8, 6, 1)])
def test_the_benchmark_counts_the_operations_that_are_done(emulation, case):
    """bench.roofline counts a fused multiply-add once, the emulation as two: the ratio is 2 where nearly all fuse."""
    inputs, weights = (tensor.detach() for tensor in case.tensors())
    program = lower(case.circuit().text, "expval")
    output = torch.empty(1, case.n)
    emulation.counts()
    emulation.forward(program, 0, inputs, weights, output)
    emulation.backward(program, 0, output, inputs, weights, torch.empty_like(inputs), torch.empty_like(weights))
    counted = gate_operations(Program.from_text(program))
    assert 1.9 * counted < emulation.counts()[0] < 2.2 * counted
