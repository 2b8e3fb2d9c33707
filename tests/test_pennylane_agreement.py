"""Random circuits over all gates: values and gradients agree with PennyLane's default.qubit through torch."""

import numpy as np
import pytest
import torch

import hqfkernels as hqf
from tests import oracles

qml = pytest.importorskip("pennylane")

SEEDS = range(16)
BATCH = 5


def apply(gate, angles):
    """The PennyLane operations of one gate, for batched values of its angles."""
    q = list(gate.qubits)
    fixed = {
        "i": qml.Identity, "x": qml.PauliX, "y": qml.PauliY, "z": qml.PauliZ, "h": qml.Hadamard, "s": qml.S,
        "t": qml.T, "sx": qml.SX, "cx": qml.CNOT, "cy": qml.CY, "cz": qml.CZ, "swap": qml.SWAP,
    }  # fmt: skip
    rotations = {
        "rx": qml.RX, "ry": qml.RY, "rz": qml.RZ, "p": qml.PhaseShift, "rot": qml.Rot, "crx": qml.CRX,
        "cry": qml.CRY, "crz": qml.CRZ, "cp": qml.ControlledPhaseShift, "rxx": qml.IsingXX, "ryy": qml.IsingYY,
        "rzz": qml.IsingZZ,
    }  # fmt: skip
    if gate.name in fixed:
        fixed[gate.name](wires=q)
    elif gate.name in rotations:
        rotations[gate.name](*angles, wires=q)
    elif gate.name in ("sdg", "tdg"):
        qml.adjoint(qml.S if gate.name == "sdg" else qml.T)(wires=q)
    elif gate.name == "unitary":
        qml.QubitUnitary(np.array(gate.matrix).reshape(2 ** len(q), -1), wires=q)
    else:
        assert gate.name == "amplitudes"
        qml.AmplitudeEmbedding(torch.stack(angles, -1), wires=q, normalize=True)


def pennylane(circuit, result, inputs, weights):
    """``result`` ("expval", "probs" or "state") of the circuit for inputs (batch, n_inputs) and shared weights."""

    def value(angle):
        total = torch.full((len(inputs),), angle.constant, dtype=inputs.dtype)
        for j, c in angle.inputs:
            total = total + c * inputs[:, j]
        for k, c in angle.weights:
            total = total + c * weights[k]
        return total

    @qml.qnode(qml.device("default.qubit", wires=circuit.n_qubits), interface="torch", diff_method="backprop")
    def node():
        for gate in circuit.gates:
            apply(gate, [value(angle) for angle in gate.angles])
        if result == "expval":
            return [qml.expval(qml.pauli.string_to_pauli_word(o)) for o in circuit.observables]
        return qml.probs(wires=range(circuit.n_qubits)) if result == "probs" else qml.state()

    values = node()
    if result != "expval":
        return values
    # An identity string comes back without the batch dimension.
    return torch.stack([torch.as_tensor(v).expand(len(inputs)) for v in values], -1)


def case(seed, dtype):
    rng = np.random.default_rng(seed)
    circuit = oracles.random_circuit(rng, seed % 5 + 1, 40, 3, 4, amplitudes=seed % 4 == 3)
    inputs = torch.tensor(rng.normal(size=(BATCH, circuit.n_inputs)), dtype=dtype, requires_grad=True)
    weights = torch.tensor(rng.normal(size=circuit.n_weights), dtype=dtype, requires_grad=True)
    return circuit, inputs, weights


@pytest.mark.parametrize("result", ["expval", "probs"])
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 5e-5)], ids=["f64", "f32"])
def test_values_and_gradients(result, seed, dtype, tolerance):
    circuit, inputs, weights = case(seed, dtype)
    actual = getattr(hqf, result)(circuit, inputs, weights)
    assert actual.dtype == dtype
    # PennyLane's side in float64 from the very same numbers: what float32 is measured against is exact.
    expected_inputs, expected_weights = (t.detach().double().requires_grad_() for t in (inputs, weights))
    expected = pennylane(circuit, result, expected_inputs, expected_weights)
    torch.testing.assert_close(actual.double(), expected, rtol=0, atol=tolerance)

    cotangent = torch.tensor(np.random.default_rng(seed).uniform(-1, 1, expected.shape))
    actual_grads = torch.autograd.grad(actual, (inputs, weights), cotangent.to(dtype))
    expected_grads = torch.autograd.grad(expected, (expected_inputs, expected_weights), cotangent)
    for a, e in zip(actual_grads, expected_grads, strict=True):
        torch.testing.assert_close(a.double(), e, rtol=0, atol=tolerance)


@pytest.mark.parametrize("seed", SEEDS)
def test_states(seed):
    circuit, inputs, weights = case(seed, torch.float64)
    with torch.no_grad():
        expected = pennylane(circuit, "state", inputs, weights)
    torch.testing.assert_close(hqf.statevector(circuit, inputs, weights), expected, rtol=0, atol=1e-9)
