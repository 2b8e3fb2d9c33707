"""Circuits as data: building, angle arithmetic, reading, equality, text, pickling, and errors for bad input."""

# mypy: disable-error-code="arg-type,operator"

import copy
import pickle
import re

import numpy as np
import pytest
import torch

import hqfkernels as hqf
from hqfkernels import ansatz
from hqfkernels.circuit import GATES, Angle, Circuit, Gate, Input, Weight
from tests import oracles


def example():
    circuit = Circuit(3).ry(2 * Input(1) + Weight(0), 0).cx(0, 2).rot(0.1, Weight(3), -Input(0), 1)
    return circuit.unitary([[0, 1], [1, 0]], 2).measure("ZIX", "IYI")


def random_circuits():
    return [
        oracles.random_circuit(np.random.default_rng(s), s % 4 + 1, 40, 3, 4, amplitudes=s % 2 == 0) for s in range(8)
    ]


# --- building -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", GATES)
def test_every_gate_has_a_method_that_takes_angles_then_qubits(name):
    n_angles, n_qubits = GATES[name]
    angles, qubits = [0.5 + k for k in range(n_angles)], list(range(n_qubits))[::-1]
    circuit = Circuit(2)
    assert getattr(circuit, name)(*angles, *qubits) is circuit
    assert circuit == Circuit(2).append(name, angles, qubits)
    assert circuit.gates == (Gate(name, tuple(qubits), tuple(Angle(a) for a in angles)),)


def test_parameters_are_counted_by_their_highest_index():
    circuit = example()
    assert (circuit.n_qubits, len(circuit), circuit.n_inputs, circuit.n_weights) == (3, 4, 2, 4)
    assert (Circuit(2).n_inputs, Circuit(2).n_weights) == (0, 0)
    assert Circuit(1).rx(Weight(6), 0).n_weights == 7


def test_observables_are_z_on_every_qubit_unless_measured():
    assert Circuit(3).observables == ("ZII", "IZI", "IIZ")
    assert Circuit(3).n_observables == 3
    assert Circuit(2).measure("XX").measure("II", "YZ").observables == ("XX", "II", "YZ")
    assert Circuit(2).measure("XX").n_observables == 1


def test_unitary_takes_nested_lists_arrays_and_tensors():
    circuits = [
        Circuit(2).unitary(m, q) for m in ([[0, 1], [1, 0]], np.eye(2)[::-1], torch.eye(2).flip(0)) for q in (1, [1])
    ]
    assert len(set(circuits)) == 1
    assert circuits[0].gates == (Gate("unitary", (1,), (), (0, 1, 1, 0)),)


def test_amplitudes_take_consecutive_inputs():
    gate = Circuit(2).amplitudes(first_input=2, count=3).ry(Input(0), 0).gates[0]
    assert (gate.name, gate.qubits, gate.angles) == ("amplitudes", (0, 1), (Input(2), Input(3), Input(4)))


# --- angles -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("angle", "constant", "inputs", "weights", "text"),
    [
        (Input(2) + 0, 0, {2: 1}, {}, "x2"),
        (Weight(0) * 3, 0, {}, {0: 3}, "3*w0"),
        (3 * Weight(0), 0, {}, {0: 3}, "3*w0"),
        (np.float64(0.5) * Input(0), 0, {0: 0.5}, {}, "0.5*x0"),
        (-Input(0), 0, {0: -1}, {}, "-x0"),
        (1 - Input(0), 1, {0: -1}, {}, "-x0+1"),
        (Input(0) - 1, -1, {0: 1}, {}, "x0-1"),
        (Input(0) / 4, 0, {0: 0.25}, {}, "0.25*x0"),
        (2 * (Weight(1) + Input(1) - 0.25), -0.5, {1: 2}, {1: 2}, "2*x1+2*w1-0.5"),
        (Input(1) + Input(0) + Input(1), 0, {0: 1, 1: 2}, {}, "x0+2*x1"),
        (Input(0) - Input(0), 0, {}, {}, "0"),
        (0 * Input(0) + Weight(1), 0, {}, {1: 1}, "w1"),
        (sum([Input(0), Weight(0)]), 0, {0: 1}, {0: 1}, "x0+w0"),
    ],
)
def test_angle_arithmetic(angle, constant, inputs, weights, text):
    assert angle.constant == constant
    assert dict(angle.inputs) == inputs
    assert dict(angle.weights) == weights
    assert str(angle) == text


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: Input(-1), ValueError, "Input index must not be negative, got -1"),
        (lambda: Input(1.0), TypeError, "Input index must be an int, got 1.0"),
        (lambda: Weight(True), TypeError, "Weight index must be an int, got True"),
        (lambda: Weight("0"), TypeError, "Weight index must be an int, got '0'"),
        (lambda: Input(0) * Weight(0), TypeError, "affine"),
        (lambda: Input(0) + "a", TypeError, "an angle must be a number, Input, Weight or their sum, got 'a'"),
        (lambda: Input(0) * float("inf"), ValueError, "an angle must be finite, got inf"),
        (lambda: Input(0) + float("nan"), ValueError, "an angle must be finite, got nan"),
        (lambda: Input(0) + 1j, TypeError, "an angle must be a number"),
        (lambda: Input(0) * np.complex128(1), TypeError, "an angle must be a number"),
        (lambda: Circuit(1).ry(np.array(1j), 0), TypeError, "an angle must be a number"),
        (lambda: Circuit(1).ry(np.True_, 0), TypeError, "an angle must be a number"),
        (lambda: Circuit(1).ry(torch.tensor(1j), 0), TypeError, "an angle must be a number"),
        (lambda: Circuit(1).ry(torch.nn.Parameter(torch.ones(())), 0), TypeError, "gradients, which would be lost"),
        (lambda: Circuit(1).unitary(torch.eye(2).requires_grad_(), 0), TypeError, "unitary: matrix must be an array"),
        (lambda: Angle(0.0, ((-1, 1.0),)), ValueError, "parameter index must not be negative, got -1"),
        (lambda: Angle(0.0, (), ((0.5, 1.0),)), TypeError, "parameter index must be an int, got 0.5"),
        (lambda: Input(0) / "a", TypeError, "an angle must be a number"),
        (lambda: Circuit(1).ry("0.5", 0), TypeError, "an angle must be a number"),
        (lambda: Circuit(1).ry(True, 0), TypeError, "an angle must be a number"),
        (lambda: 1e308 * (10 * Input(0)), ValueError, "an angle must be finite, got inf"),
        (lambda: 1e308 * Weight(0) + 1e308 * Weight(0), ValueError, "an angle must be finite, got inf"),
        (lambda: -1e308 * Input(3) - 1e308 * Input(3), ValueError, "an angle must be finite, got -inf"),
        (lambda: Angle(0.0, ((0, 1e308), (1, 1.0), (0, 1e308))), ValueError, "an angle must be finite, got inf"),
        (lambda: sum([1e308 * Weight(0)] * 2), ValueError, "an angle must be finite, got inf"),
        (lambda: Input(0) + np.float64(1e308) + 1e308, ValueError, "an angle must be finite, got inf"),
        (lambda: np.float32("inf") * Input(0), ValueError, "an angle must be finite, got inf"),
        (lambda: np.longdouble("1e4000") - Input(0), ValueError, "an angle must be finite, got inf"),
        (lambda: Input(0) / 1e-320, ValueError, "an angle must be finite, got inf"),
        (lambda: Weight(0) / float("nan"), ValueError, "an angle must be finite, got nan"),
        (lambda: 10**400 * Input(0), ValueError, "an angle must be finite, got an integer beyond all floats"),
        (lambda: Input(1 << 24), ValueError, "parameter index must be below 16777216, got 16777216"),
        (lambda: Weight(1 << 70), ValueError, "parameter index must be below 16777216, got 1180591620717411303424"),
        (lambda: Input(0) / Weight(0), TypeError, "divided by a number only"),
        (lambda: Input(0) / 0, ValueError, "cannot be divided by 0"),
        (lambda: Circuit(1).unitary("ab", 0), TypeError, "unitary: matrix must be an array of complex numbers"),
        (lambda: Circuit(1).append("ry", 0.3, 0), TypeError, "ry: angles and qubits must be sequences"),
        (
            lambda: Circuit.from_text('[1,""]\n["ry",[0],[[0,[[-1,1]],[]]],[]]'),
            ValueError,
            "parameter index must not be negative",
        ),
    ],
)
def test_bad_angles(call, error, message):
    with pytest.raises(error, match=re.escape(message)):
        call()


@pytest.mark.parametrize("gate", ["rx", "ry", "rz", "p"])
def test_gates_whose_angles_have_no_finite_sum(gate):
    """Each of them is an angle; lowering must not need their sum."""
    circuit = Circuit(2).h(0).append(gate, [1e308 * Weight(0)], [0]).append(gate, [1e308 * Weight(0) + 0.3], [0])
    circuit.cx(0, 1).ry(Input(0), 1)
    inputs, weights = torch.tensor([[0.2]], dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    for function in (hqf.expval, hqf.probs, hqf.statevector):
        wanted = function(circuit, inputs, weights, backend="reference")
        torch.testing.assert_close(function(circuit, inputs, weights), wanted)
    assert hqf.explain(circuit, inputs, weights)


def test_equal_angles_are_equal():
    assert Input(0) == 1 * Input(0)
    assert hash(Input(0)) == hash(1 * Input(0))
    assert Input(0) != Weight(0)
    assert Angle(1, ((1, 1), (0, 2), (1, 2), (2, 0))) == 2 * Input(0) + 3 * Input(1) + 1
    assert Circuit(1).rx(Angle(1), 0).rx(-0.0, 0) == Circuit(1).rx(1.0, 0).rx(0.0, 0)


def test_gates_of_another_circuit_are_appended_by_their_parts():
    for circuit in [*random_circuits(), ansatz.amplitude_encoding(3).measure("XYZ"), example()]:
        other = Circuit(circuit.n_qubits).measure(*circuit.observables)
        for gate in circuit.gates:
            assert other.append(gate.name, gate.angles, gate.qubits, gate.matrix) is other
        assert other.gates == circuit.gates
        assert (other.n_inputs, other.n_weights) == (circuit.n_inputs, circuit.n_weights)


def test_copy_is_independent():
    circuit = Circuit(1).ry(Input(0), 0)
    twin = copy.copy(circuit)
    twin.rz(Weight(0), 0)
    assert len(circuit) == 1
    assert circuit != twin


# --- bad input ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda c: Circuit(0), ValueError, "n_qubits must be 1..30, got 0"),
        (lambda c: Circuit(-1), ValueError, "n_qubits must not be negative, got -1"),
        (lambda c: Circuit(31), ValueError, "n_qubits must be 1..30, got 31"),
        (lambda c: Circuit(2.0), TypeError, "n_qubits must be an int, got 2.0"),
        (lambda c: Circuit(None), TypeError, "n_qubits must be an int, got None"),
        (lambda c: c.x(3), ValueError, "x: qubit 3 is not in a register of 3 (0..2)"),
        (lambda c: c.x(-1), ValueError, "x: qubit must not be negative, got -1"),
        (lambda c: c.ry(0.1, 1.0), TypeError, "ry: qubit must be an int, got 1.0"),
        (lambda c: c.cx(1, 1), ValueError, "cx: qubits must differ, got [1, 1]"),
        (lambda c: c.ry(None, 0), TypeError, "an angle must be a number, Input, Weight or their sum, got None"),
        (lambda c: c.ry(torch.ones(2), 0), TypeError, "an angle must be a number, Input, Weight or their sum"),
        (lambda c: c.rz(float("nan"), 0), ValueError, "an angle must be finite, got nan"),
        (lambda c: c.append("toffoli", [], [0, 1, 2]), ValueError, "gate 'toffoli' is not known; known are i, x"),
        (
            lambda c: c.append("unitary", (), (0,)),
            ValueError,
            "unitary: matrix must have 4 entries for 1 qu",
        ),
        (
            lambda c: c.append("unitary", (), (0, 1), (1, 0, 0, 1)),
            ValueError,
            "matrix must have 16 entries for 2 qubit(s), row by row, got 4",
        ),
        (lambda c: c.append("unitary", (), (), (1,)), ValueError, "unitary: takes a (2, 2) matrix on one qubit or"),
        (lambda c: c.append("unitary", (), (0,), (1, 0, 0, 2)), ValueError, "unitary: matrix must be unitary to 1e-8"),
        (lambda c: c.append("unitary", (0.1,), (0,), (1, 0, 0, 1)), ValueError, "unitary takes no angles, got (0.1,)"),
        (
            lambda c: c.append("unitary", (), (0,), np.eye(2)),
            TypeError,
            "unitary: matrix must be a sequence",
        ),
        (lambda c: c.append("x", (), (0,), (0, 1, 1, 0)), ValueError, "x takes no matrix, got (0, 1, 1, 0)"),
        (lambda c: c.append("amplitudes", (), (0, 1, 2)), ValueError, "amplitudes: takes consecutive inputs, got ()"),
        (lambda c: c.append("amplitudes", (0.5,), (0, 1, 2)), ValueError, "amplitudes: takes consecutive inputs, got"),
        (
            lambda c: c.append("amplitudes", (Input(1), Input(3)), (0, 1, 2)),
            ValueError,
            "amplitudes: takes consecutive inputs, got (Angle(x1), Angle(x3))",
        ),
        (
            lambda c: c.append("amplitudes", (Input(0), Input(1)), (0, 1)),
            ValueError,
            "amplitudes: takes all 3 qubits in order, got [0, 1]",
        ),
        (lambda c: c.append("ry", [], [0]), ValueError, "ry takes 1 angle(s) and 1 qubit(s), got 0 and 1"),
        (lambda c: c.append("cx", [], [0]), ValueError, "cx takes 0 angle(s) and 2 qubit(s), got 0 and 1"),
        (lambda c: c.unitary(np.eye(2), [0, 1]), ValueError, "got (2, 2) on 2"),
        (lambda c: c.unitary(np.eye(4), 0), ValueError, "got (4, 4) on 1"),
        (lambda c: c.unitary(np.eye(8), [0, 1, 2]), ValueError, "got (8, 8) on 3"),
        (lambda c: c.unitary(np.ones((2, 2)), 0), ValueError, "unitary: matrix must be unitary to 1e-8"),
        (lambda c: c.unitary([[1, 0], [0, float("nan")]], 0), ValueError, "unitary: matrix must be unitary"),
        (lambda c: c.unitary(np.eye(4), [0, 3]), ValueError, "unitary: qubit 3 is not in a register of 3"),
        (lambda c: c.amplitudes(count=9), ValueError, "amplitudes: count must be 1..8, got 9"),
        (lambda c: c.amplitudes(count=0), ValueError, "amplitudes: count must be 1..8, got 0"),
        (lambda c: c.amplitudes(first_input=-1), ValueError, "amplitudes: first_input must not be negative, got -1"),
        (lambda c: c.x(0).amplitudes(), ValueError, "amplitudes: sets the initial state"),
        (lambda c: c.measure("ZZ"), ValueError, "a Pauli string has 3 characters (one per qubit) of IXYZ, got 'ZZ'"),
        (lambda c: c.measure("ZZA"), ValueError, "got 'ZZA'"),
        (lambda c: c.measure("zii"), ValueError, "got 'zii'"),
        (lambda c: c.measure(""), ValueError, "got ''"),
        (lambda c: c.measure(["ZII"]), TypeError, "measure: takes Pauli strings, got ['ZII']"),
        (lambda c: c.draw("svg"), ValueError, 'style: must be "text" or "mpl", got \'svg\''),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=re.escape(message)):
        call(Circuit(3))


def test_a_refused_gate_or_observable_leaves_the_circuit_as_it_was():
    circuit = Circuit(2).x(0)
    before = circuit.text
    for call in (lambda: circuit.cx(0, 2), lambda: circuit.ry("a", 0), lambda: circuit.measure("ZZ", "Z")):
        with pytest.raises((TypeError, ValueError)):
            call()
    assert circuit.text == before
    assert len(circuit) == 1


# --- content ------------------------------------------------------------------------------------------------------


def test_equal_content_is_equal_and_hashes_alike():
    assert example() == example()
    assert hash(example()) == hash(example())
    assert {example(): 1}[example()] == 1
    assert Circuit(1).ry(2 * Input(0), 0) == Circuit(1).ry(Input(0) + Input(0), 0)


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c.x(0),
        lambda c: c.measure("ZZZ"),
        lambda c: Circuit(4),
        lambda c: Circuit(3).measure("ZIX", "IYI"),
        lambda c: "circuit",
    ],
)
def test_other_content_is_not_equal(change):
    assert change(example()) != example()


def test_small_differences_are_not_equal():
    variants = [
        Circuit(2).rx(Input(0), 0),
        Circuit(2).rx(Input(0), 1),
        Circuit(2).ry(Input(0), 0),
        Circuit(2).rx(Weight(0), 0),
        Circuit(2).rx(Input(1), 0),
        Circuit(2).rx(2 * Input(0), 0),
        Circuit(2).rx(Input(0) + 1e-12, 0),
        Circuit(2).rx(Input(0), 0).measure("ZI"),
    ]
    assert len(set(variants)) == len(variants)


@pytest.mark.parametrize("twin", [Circuit.copy, copy.deepcopy, lambda c: pickle.loads(pickle.dumps(c))])
def test_copies_are_equal_and_independent(twin):
    for circuit in random_circuits():
        other = twin(circuit)
        assert other == circuit
        assert other.gates == circuit.gates
        assert (other.n_inputs, other.n_weights) == (circuit.n_inputs, circuit.n_weights)
        before = circuit.text, circuit.gates
        other.rx(Input(99), 0).measure("Z" * other.n_qubits)
        assert (circuit.text, circuit.gates) == before
        assert circuit.n_inputs < 99


def test_text_round_trip():
    for circuit in [*random_circuits(), example(), Circuit(1), ansatz.amplitude_encoding(2)]:
        other = Circuit.from_text(circuit.text)
        assert other == circuit
        assert other.observables == circuit.observables
        assert (other.n_inputs, other.n_weights) == (circuit.n_inputs, circuit.n_weights)
        assert list(map(str, other.gates)) == list(map(str, circuit.gates))


@pytest.mark.parametrize(
    "text",
    ["", "not json", '[0,""]', '[1,"ZZ"]', '[1,""]\n["x",[1],[],[]]', '[1,""]\n["q",[0],[],[]]', '[1,""]\n[]'],
)
def test_text_that_describes_no_circuit(text):
    with pytest.raises(ValueError, match="text: does not describe a circuit"):
        Circuit.from_text(text)


def test_repr_and_str():
    assert repr(example()) == "Circuit(3 qubits, 4 gates, 2 inputs, 4 weights, 2 observables)"
    assert str(example().gates[2]) == "rot(0.1, w3, -x0) 1"
    assert str(Circuit(2).cx(1, 0).gates[0]) == "cx 1, 0"
    assert repr(Weight(2) - 1) == "Angle(w2-1)"


def test_public_names():
    assert (hqf.Circuit, hqf.Input, hqf.Weight, hqf.Angle, hqf.Gate) == (Circuit, Input, Weight, Angle, Gate)
