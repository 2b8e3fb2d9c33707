"""Templates: structure, weight layout, agreement with PennyLane's, and errors."""

# mypy: disable-error-code="arg-type,operator"

import re

import numpy as np
import pytest
import torch

import hqfkernels as hqf
from hqfkernels import ansatz
from hqfkernels.reference import circuit as reference


def entanglers(circuit):
    return [gate.qubits for gate in circuit.gates if len(gate.qubits) == 2]


def names(circuit):
    return [str(gate) for gate in circuit.gates]


@pytest.mark.parametrize("axis", ["x", "y", "z"])
def test_angle_encoding(axis):
    circuit = ansatz.angle_encoding(3, axis)
    assert names(circuit) == [f"r{axis}(x0) 0", f"r{axis}(x1) 1", f"r{axis}(x2) 2"]
    assert (circuit.n_inputs, circuit.n_weights) == (3, 0)
    assert circuit.observables == ("ZII", "IZI", "IIZ")


def test_amplitude_encoding():
    circuit = ansatz.amplitude_encoding(3)
    assert [gate.name for gate in circuit.gates] == ["amplitudes"]
    assert (circuit.n_inputs, circuit.n_weights) == (8, 0)


def test_local_circuit_encodes_then_repeats_its_layer():
    circuit = ansatz.local_circuit((1, 2), depth=2)
    layers = [f"{gate}(w{k + 4 * layer}) {k // 2}" for layer in (0, 1) for k, gate in enumerate(["ry", "rz"] * 2)]
    assert names(circuit) == ["ry(x0) 0", "ry(x1) 1", *layers[:4], "cx 0, 1", *layers[4:], "cx 0, 1"]


@pytest.mark.parametrize(
    ("grid", "edges"),
    [
        ((1, 1), []),
        ((2, 2), [(0, 1), (2, 3), (0, 2), (1, 3)]),
        (
            (3, 3),
            [(0, 1), (3, 4), (6, 7), (1, 2), (4, 5), (7, 8), (0, 3), (1, 4), (2, 5), (3, 6), (4, 7), (5, 8)],
        ),
        ((1, 5), [(0, 1), (2, 3), (1, 2), (3, 4)]),
    ],
)
def test_local_circuit_joins_the_grid_in_brick_order(grid, edges):
    circuit = ansatz.local_circuit(grid)
    assert entanglers(circuit) == edges
    assert circuit.n_qubits == circuit.n_inputs == grid[0] * grid[1]
    assert circuit.n_weights == 2 * circuit.n_qubits


@pytest.mark.parametrize("entangler", ["rzz", "cz"])
def test_global_circuit_joins_all_pairs(entangler):
    circuit = ansatz.global_circuit(4, 3, entangler)
    pairs = [(a, b) for a in range(4) for b in range(a + 1, 4)]
    assert entanglers(circuit) == 3 * pairs
    assert {gate.name for gate in circuit.gates if len(gate.qubits) == 2} == {entangler}
    assert circuit.n_weights == 3 * (8 + 6 * (entangler == "rzz"))


def test_global_circuit_puts_a_layers_rzz_weights_after_its_rotations():
    circuit = ansatz.global_circuit(3, 2)
    layers = np.arange(circuit.n_weights).reshape(2, -1)
    for layer in (0, 1):
        gates = circuit.gates[3 + 9 * layer : 3 + 9 * (layer + 1)]
        indices = [gate.angles[0].weights[0][0] for gate in gates]
        assert indices == layers[layer].tolist()
        assert [gate.name for gate in gates] == ["ry", "rz"] * 3 + ["rzz"] * 3


@pytest.mark.parametrize(
    ("grid", "direction", "chains"),
    [
        ((2, 3), "horizontal", [(0, 1), (1, 2), (3, 4), (4, 5)]),
        ((3, 2), "vertical", [(0, 2), (1, 3), (2, 4), (3, 5)]),
        ((3, 3), "diagonal", [(0, 4), (1, 5), (3, 7), (4, 8)]),
        ((3, 3), "antidiagonal", [(1, 3), (2, 4), (4, 6), (5, 7)]),
        ((2, 2), "diagonal", [(0, 3)]),
        ((2, 2), "antidiagonal", [(1, 2)]),
        ((1, 3), "vertical", []),
    ],
)
def test_directional_circuit_chains(grid, direction, chains):
    circuit = ansatz.directional_circuit(grid, direction, depth=2)
    assert entanglers(circuit) == 2 * chains
    assert circuit.n_weights == 2 * 2 * circuit.n_qubits


@pytest.mark.parametrize(("n_qubits", "depth"), [(1, 2), (2, 3), (3, 4), (4, 5)])
def test_strongly_entangling_is_pennylanes(n_qubits, depth):
    qml = pytest.importorskip("pennylane")
    circuit = ansatz.strongly_entangling(n_qubits, depth)
    assert circuit.n_weights == depth * n_qubits * 3
    compare(circuit, lambda w: qml.StronglyEntanglingLayers(w.reshape(depth, n_qubits, 3), wires=range(n_qubits)))


@pytest.mark.parametrize("axis", ["x", "y", "z"])
@pytest.mark.parametrize(("n_qubits", "depth"), [(1, 2), (2, 2), (4, 2)])
def test_basic_entangler_is_pennylanes(n_qubits, depth, axis):
    qml = pytest.importorskip("pennylane")
    circuit = ansatz.basic_entangler(n_qubits, depth, axis)
    assert circuit.n_weights == depth * n_qubits
    rotation = {"x": qml.RX, "y": qml.RY, "z": qml.RZ}[axis]
    compare(circuit, lambda w: qml.BasicEntanglerLayers(w.reshape(depth, n_qubits), range(n_qubits), rotation))


def compare(circuit, layers):
    """The circuit against RY AngleEmbedding followed by PennyLane's ``layers(weights)``, as states."""
    import pennylane as qml

    rng = np.random.default_rng(circuit.n_weights)
    inputs, weights = rng.normal(size=circuit.n_inputs), rng.normal(size=circuit.n_weights)
    wires = range(circuit.n_qubits)

    @qml.qnode(qml.device("default.qubit", wires=wires))
    def node():
        qml.AngleEmbedding(inputs, wires=wires, rotation="Y")
        layers(weights)
        return qml.state()

    actual = reference.statevector(circuit, torch.tensor(inputs), torch.tensor(weights))
    np.testing.assert_allclose(actual.numpy(), node(), rtol=0, atol=1e-12)


def test_amplitude_encoding_is_pennylanes():
    qml = pytest.importorskip("pennylane")
    inputs = np.random.default_rng(0).normal(size=8)

    @qml.qnode(qml.device("default.qubit", wires=3))
    def node():
        qml.AmplitudeEmbedding(inputs, wires=range(3), normalize=True)
        return qml.state()

    actual = reference.statevector(ansatz.amplitude_encoding(3), torch.tensor(inputs), torch.zeros(0))
    np.testing.assert_allclose(actual.numpy(), node(), rtol=0, atol=1e-14)


def test_every_call_returns_a_circuit_of_its_own():
    first = ansatz.local_circuit()
    first.x(0)
    assert len(ansatz.local_circuit()) == len(first) - 1


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: ansatz.angle_encoding(0), ValueError, "n_qubits must be 1..30, got 0"),
        (lambda: ansatz.angle_encoding(3, "w"), ValueError, 'axis: must be "x", "y" or "z", got \'w\''),
        (lambda: ansatz.amplitude_encoding(2.0), TypeError, "n_qubits must be an int, got 2.0"),
        (lambda: ansatz.local_circuit(4), ValueError, "grid: must be (rows, columns), got 4"),
        (lambda: ansatz.local_circuit((2, 2, 2)), ValueError, "grid: must be (rows, columns), got (2, 2, 2)"),
        (lambda: ansatz.local_circuit((2, 0)), ValueError, "grid: a side: must be at least 1, got 0"),
        (lambda: ansatz.local_circuit((2, 1.5)), TypeError, "grid: a side: must be an int, got 1.5"),
        (lambda: ansatz.local_circuit((6, 6)), ValueError, "n_qubits must be 1..30, got 36"),
        (lambda: ansatz.local_circuit(depth=0), ValueError, "depth: must be at least 1, got 0"),
        (lambda: ansatz.global_circuit(10**9), ValueError, "n_qubits must be 1..30"),
        (lambda: ansatz.global_circuit(4, True), TypeError, "depth: must be an int, got True"),
        (lambda: ansatz.global_circuit(4, 1, "cx"), ValueError, 'entangler: must be "rzz" or "cz"'),
        (lambda: ansatz.directional_circuit(direction="up"), ValueError, "direction: must be one of horizontal"),
        (lambda: ansatz.directional_circuit(direction=None), ValueError, "direction: must be one of horizontal"),
        (lambda: ansatz.directional_circuit(depth="1"), TypeError, "depth: must be an int, got '1'"),
        (lambda: ansatz.strongly_entangling(-1), ValueError, "n_qubits must not be negative, got -1"),
        (lambda: ansatz.strongly_entangling(3, -1), ValueError, "depth: must be at least 1, got -1"),
        (lambda: ansatz.basic_entangler(3, 1, "q"), ValueError, "axis: must be"),
        (lambda: ansatz.basic_entangler(31), ValueError, "n_qubits must be 1..30, got 31"),
    ],
)
def test_bad_arguments(call, error, message):
    with pytest.raises(error, match=re.escape(message)):
        call()


def test_templates_are_exported():
    assert hqf.ansatz is ansatz
