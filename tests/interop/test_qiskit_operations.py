"""What Qiskit circuits are made of besides the gates of its library: operations, expressions, parameters with roles."""

import warnings

import numpy as np
import pytest
import torch

import hqfkernels as hqf

qiskit = pytest.importorskip("qiskit")
from qiskit import QuantumCircuit  # noqa: E402
from qiskit.circuit import (  # noqa: E402
    AnnotatedOperation,
    ControlModifier,
    Gate,
    InverseModifier,
    Parameter,
    ParameterVector,
    PowerModifier,
    library,
)
from qiskit.quantum_info import Statevector, random_clifford  # noqa: E402

from hqfkernels.interop.qiskit import from_qiskit  # noqa: E402


def prepared(n_qubits, operation, qubits=None):
    """A circuit with this operation on a state that it changes."""
    circuit = QuantumCircuit(n_qubits)
    for k in range(n_qubits):
        circuit.u(k + 0.3, 0.7 - k, 0.2, k)
    circuit.append(operation, range(n_qubits) if qubits is None else qubits)
    return circuit


def check(theirs):
    state = hqf.statevector(from_qiskit(theirs), torch.empty(0, dtype=torch.float64)).numpy()
    np.testing.assert_allclose(state, Statevector(theirs).reverse_qargs().data, atol=1e-10)


# --- operations -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_qubits", [1, 2, 3, 4])
def test_cliffords(n_qubits):
    theirs = prepared(n_qubits, random_clifford(n_qubits, seed=n_qubits))
    state = hqf.statevector(from_qiskit(theirs), torch.empty(0, dtype=torch.float64)).numpy()
    overlap = np.vdot(state, Statevector(theirs).reverse_qargs().data)  # a Clifford has no global phase
    assert abs(overlap) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("operation", "qubits"),
    [
        (AnnotatedOperation(library.SGate(), [InverseModifier()]), [3]),
        (AnnotatedOperation(library.RXGate(0.3), [ControlModifier(2, 1), PowerModifier(3)]), [2, 0, 1]),
        (AnnotatedOperation(library.CXGate(), [PowerModifier(0.5)]), [3, 1]),
        (AnnotatedOperation(library.UGate(0.3, 0.2, 0.1), [ControlModifier(1), InverseModifier()]), [1, 2]),
        (AnnotatedOperation(random_clifford(2, seed=3), [ControlModifier(1), InverseModifier()]), [2, 0, 1]),
        (
            AnnotatedOperation(AnnotatedOperation(library.HGate(), [ControlModifier(1)]), [ControlModifier(1, 0)]),
            [3, 0, 2],
        ),
        (library.PermutationGate([2, 0, 1]), [0, 1, 3]),
        (library.LinearFunction([[1, 1, 0], [0, 1, 0], [0, 0, 1]]), [0, 1, 3]),
        (library.QFTGate(3), [0, 1, 3]),
        (library.GlobalPhaseGate(0.3), []),
        (library.XGate().control(3, ctrl_state=2), [0, 1, 2, 3]),
        (library.HGate(label="mine"), [1]),
    ],
)
def test_operations_without_a_definition(operation, qubits):
    check(prepared(4, operation, qubits))


def test_an_annotated_operation_keeps_its_parameter():
    x = ParameterVector("x", 1)
    theirs = QuantumCircuit(2)
    theirs.append(AnnotatedOperation(library.RXGate(2 * x[0]), [ControlModifier(1)]), [0, 1])
    (gate,) = from_qiskit(theirs).gates
    assert (gate.name, gate.qubits, gate.angles) == ("crx", (0, 1), (2 * hqf.Input(0),))


@pytest.mark.parametrize("name", ["h", "u", "u3", "measure", "barrier", "delay", "unitary", "cx", "clifford", "p"])
def test_a_gate_is_known_by_its_class(name):
    """Anybody may call a gate of their own like one of Qiskit's."""
    own = QuantumCircuit(2, name=name)
    own.ry(0.4, 0)
    own.cx(0, 1)
    check(prepared(3, own.to_gate(), [2, 0]))


def test_what_qiskit_cannot_take_apart_is_refused():
    with pytest.raises(ValueError, match=r"circuit: .*mystery on qubit\(s\) 0, 1, 2"):
        from_qiskit(prepared(3, Gate("mystery", 3, [])))
    boxed = QuantumCircuit(1)
    with boxed.box():
        boxed.h(0)
    with pytest.raises(ValueError, match=r"box on qubit\(s\) 0 is no gate; write its instructions"):
        from_qiskit(boxed)


# --- angles ---------------------------------------------------------------------------------------------------------

T, U = Parameter("t"), Parameter("u")
W0, W1 = hqf.Weight(0), hqf.Weight(1)


def angle(expression):
    circuit = QuantumCircuit(1)
    circuit.rx(expression, 0)
    circuit.rx(T, 0)
    circuit.rx(U, 0)
    return from_qiskit(circuit, weights=[T, U]).gates[0].angles[0]


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        (2 * T + 1, 2 * W0 + 1),
        (-(T - U) / 4, -0.25 * W0 + 0.25 * W1),
        ((T + 0.5) * 2 - U * 0.5, 2 * W0 - 0.5 * W1 + 1),
        ((3 - T) / 2 * 4, -2 * W0 + 6),
        (T - T, hqf.circuit.Angle(0.0)),
        (0 * T, hqf.circuit.Angle(0.0)),
        (T * U - U * T + U, W1),
        (T * U - U * T + T, W0),
        (0 * T + U, W1),
        (0 * U + T, W0),
        (T**1, W0),
        ((2 * T).bind({T: 1.5}), hqf.circuit.Angle(3.0)),
        (T.assign(T, U + 1), W1 + 1),
    ],
)
def test_affine_expressions(expression, expected):
    assert angle(expression) == expected


@pytest.mark.parametrize(
    "expression",
    [1 / T, 2 / T + T, T**-1, T.log(), T.exp(), T.sin(), T.cos(), T.tan(), T.arcsin(), T.arccos(), T.arctan(), T.abs(),
     T.sign(), T.conjugate(), T * U, T * T, T / U, T**2, T**0.5, 2**T, T**U, (T**2) ** 0.5, T.abs() * T.sign(),
     3 * 2**T, (2**T).sin(),
     T.sign() * T.sign() * T,
     T.sin() * T.sin() + T.cos() * T.cos(), T.exp().log(), U + T * 1e-12 * T, (T - 1) * (T - 2),
     T + (T - 0.5).sign(), T.abs() - T],
)  # fmt: skip
def test_what_is_not_affine_is_refused(expression):
    with pytest.raises(ValueError, match=r"an angle of rx on qubit\(s\) 0 is not affine in .*'t'.*before the circuit"):
        angle(expression)


@pytest.mark.parametrize("expression", [1j * T, T + 1j, T * 1e308 * 10, 1e308 * T + 1e308 * T])
def test_what_is_not_a_finite_number_is_refused(expression):
    with pytest.raises(ValueError, match=r"an angle of rx on qubit\(s\) 0 must be real and finite"):
        angle(expression)


def test_a_global_phase_is_an_angle():
    with pytest.raises(ValueError, match="an angle of global phase is not affine in 't'"):
        from_qiskit(QuantumCircuit(1, global_phase=T * T), weights=[T])


# --- circuits of Qiskit's library -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["real_amplitudes", "efficient_su2", "RealAmplitudes", "EfficientSU2"])
def test_ansatz_circuits(name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Qiskit would rather have the functions than the classes
        theirs = getattr(library, name)(3, reps=2, entanglement="linear")
        circuit = from_qiskit(theirs)
    values = np.random.default_rng(0).normal(size=theirs.num_parameters)
    assert (circuit.n_inputs, circuit.n_weights) == (0, theirs.num_parameters)
    state = hqf.statevector(circuit, torch.empty(0, dtype=torch.float64), torch.tensor(values)).numpy()
    expected = Statevector(theirs.assign_parameters(values)).reverse_qargs().data
    np.testing.assert_allclose(state, expected, atol=1e-10)


@pytest.mark.parametrize("name", ["zz_feature_map", "ZZFeatureMap"])
def test_products_of_inputs_are_refused(name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = getattr(library, name)(2)
    with pytest.raises(ValueError, match=r"an angle of p on qubit\(s\) 1 is not affine in 'x\[0\]', 'x\[1\]'"):
        from_qiskit(theirs)


def test_a_feature_map_and_an_ansatz():
    theirs = library.z_feature_map(2, reps=1)
    theirs.compose(library.real_amplitudes(2, reps=1), inplace=True)
    with pytest.raises(ValueError, match=r"parameter 'x\[0\]' is an input.*'θ\[0\]' is not.*inputs=.*weights="):
        from_qiskit(theirs)
    for roles in ({"inputs": "x"}, {"inputs": ["x"]}, {"weights": "θ"}, {"inputs": "x", "weights": ["θ"]}):
        circuit = from_qiskit(theirs, **roles)
        assert (circuit.n_inputs, circuit.n_weights) == (2, 4)
        assert [gate.angles[0] for gate in circuit.gates if gate.name == "p"] == [2 * hqf.Input(0), 2 * hqf.Input(1)]


# --- roles of parameters --------------------------------------------------------------------------------------------

X, TH, A = ParameterVector("x", 4), ParameterVector("θ", 2), Parameter("a")


def mixed():
    circuit = QuantumCircuit(1)
    for parameter in (X[0], X[2], TH[1], A):
        circuit.rx(parameter, 0)
    return circuit


def angles(**roles):
    return [gate.angles[0] for gate in from_qiskit(mixed(), **roles).gates]


@pytest.mark.parametrize(
    ("roles", "expected"),
    [
        ({"inputs": X}, "x0 x2 w1 w0"),  # the rest is in Qiskit's order, by name
        ({"inputs": [X]}, "x0 x2 w1 w0"),
        ({"inputs": "x"}, "x0 x2 w1 w0"),
        ({"inputs": ["x"]}, "x0 x2 w1 w0"),
        ({"inputs": X[2]}, "w1 x0 w2 w0"),
        ({"inputs": [X[2], "x[0]"]}, "x1 x0 w1 w0"),
        ({"inputs": [A, X]}, "x1 x3 w0 x0"),
        ({"inputs": A}, "w0 w1 w2 x0"),
        ({"inputs": "a"}, "w0 w1 w2 x0"),
        ({"weights": TH}, "x1 x2 w1 x0"),
        ({"weights": [TH, A]}, "x0 x1 w1 w2"),
        ({"inputs": X, "weights": (A, TH)}, "x0 x2 w2 w0"),
        ({"inputs": []}, "w1 w2 w3 w0"),
        ({"weights": mixed().parameters}, "w1 w2 w3 w0"),
        ({"inputs": iter([X, TH, A])}, "x0 x2 x5 x6"),
    ],
)
def test_roles_of_parameters(roles, expected):
    assert list(map(str, angles(**roles))) == expected.split()


@pytest.mark.parametrize(
    ("roles", "error", "message"),
    [
        ({}, ValueError, r"'x\[0\]' is an input or a weight by its name, and 'a' is not: .*inputs=.*weights="),
        ({"inputs": 3}, TypeError, "inputs: expected Parameters, ParameterVectors, or their names, got 3"),
        ({"weights": [X, 3]}, TypeError, "weights: expected Parameters.*got 3"),
        ({"inputs": [2 * A]}, TypeError, r"inputs: expected Parameters"),
        ({"inputs": "y"}, ValueError, "inputs: the circuit has no parameter 'y'"),
        ({"inputs": ParameterVector("y", 2)}, ValueError, "inputs: the circuit has no parameter 'y'"),
        ({"weights": Parameter("b")}, ValueError, "weights: the circuit has no parameter 'b'"),
        ({"inputs": [X, X[0]]}, ValueError, r"inputs: parameter 'x\[0\]' is named twice"),
        ({"inputs": X, "weights": [X[0]]}, ValueError, r"weights: parameter 'x\[0\]' is named twice"),
        ({"inputs": X, "weights": TH}, ValueError, "parameter 'a' is neither among inputs nor among weights"),
    ],
)
def test_roles_that_do_not_fit_are_refused(roles, error, message):
    with pytest.raises(error, match=message):
        angles(**roles)


def test_names_that_do_not_say_what_they_are():
    theirs = QuantumCircuit(1)
    theirs.rx(Parameter("phi"), 0)
    with pytest.warns(UserWarning, match="'phi'.*all become weights.*inputs=.*weights=") as said:
        assert from_qiskit(theirs).n_weights == 1
    assert said[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert from_qiskit(theirs, weights="phi").n_weights == 1
        assert from_qiskit(theirs, inputs="phi").n_inputs == 1
        assert from_qiskit(QuantumCircuit(1)).n_weights == 0
