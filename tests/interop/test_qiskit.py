"""Qiskit circuits in and out: values are those of Qiskit's own simulation, before and after transpiling."""

import numpy as np
import pytest
import torch

import hqfkernels as hqf
from tests import oracles

qiskit = pytest.importorskip("qiskit")
from qiskit import QuantumCircuit, transpile  # noqa: E402
from qiskit.circuit import Gate, Parameter, ParameterVector  # noqa: E402
from qiskit.circuit.random import random_circuit  # noqa: E402
from qiskit.quantum_info import Statevector  # noqa: E402

from hqfkernels.interop.qiskit import from_qiskit, observables_to_qiskit, to_qiskit  # noqa: E402

NONE = torch.empty(0, dtype=torch.float64)


def case(seed, **options):
    rng = np.random.default_rng(seed)
    circuit = oracles.random_circuit(rng, seed % 4 + 1, 40, 3, 4, **options)
    return circuit, torch.tensor(rng.normal(size=circuit.n_inputs)), torch.tensor(rng.normal(size=4))


def state(circuit, inputs=NONE, weights=None):
    return hqf.statevector(circuit, inputs, weights).numpy()


@pytest.mark.parametrize("seed", range(12))
def test_values_are_qiskits(seed):
    circuit, inputs, weights = case(seed, amplitudes=seed % 3 == 0)
    theirs = Statevector(to_qiskit(circuit, inputs, weights))
    np.testing.assert_allclose(theirs.reverse_qargs().data, state(circuit, inputs, weights), atol=1e-10)
    values = [theirs.expectation_value(o).real for o in observables_to_qiskit(circuit)]
    np.testing.assert_allclose(values, hqf.expval(circuit, inputs, weights), atol=1e-10)


@pytest.mark.parametrize("seed", range(8))
def test_round_trip_keeps_parameters(seed):
    circuit, inputs, weights = case(seed)
    theirs = to_qiskit(circuit)
    back = from_qiskit(theirs)
    assert (back.n_inputs, back.n_weights) == (3, 4)
    np.testing.assert_allclose(state(back, inputs, weights), state(circuit, inputs, weights), atol=1e-10)
    device = transpile(theirs, basis_gates=["rz", "sx", "x", "cx"], optimization_level=1)
    assert set(device.count_ops()) <= {"rz", "sx", "x", "cx"}
    np.testing.assert_allclose(state(from_qiskit(device), inputs, weights), state(circuit, inputs, weights), atol=1e-8)
    trained = to_qiskit(circuit, weights=weights)
    assert {p.name for p in trained.parameters} == {"x[0]", "x[1]", "x[2]"}
    bound = trained.assign_parameters({p: float(inputs[int(p.name[2])]) for p in trained.parameters})
    np.testing.assert_allclose(Statevector(bound).reverse_qargs().data, state(circuit, inputs, weights), atol=1e-10)


@pytest.mark.parametrize("seed", range(20))
def test_random_circuits_of_qiskits_own_gates(seed):
    theirs = random_circuit(4, 6, seed=seed)
    theirs.global_phase = 0.3
    np.testing.assert_allclose(state(from_qiskit(theirs)), Statevector(theirs).reverse_qargs().data, atol=1e-10)


def test_parameters_by_name():
    a, b, c = Parameter("a"), Parameter("b"), Parameter("c")
    theirs = QuantumCircuit(1, global_phase=c)
    theirs.rx(2 * b - a / 4 + 0.5, 0)
    theirs.barrier()
    theirs.measure_all()
    circuit = from_qiskit(theirs, inputs=["b"])
    assert circuit.gates[-1].angles[0] == 2 * hqf.Input(0) - hqf.Weight(0) / 4 + 0.5
    assert circuit.gates[0].angles[0] == -2 * hqf.Weight(1)
    assert from_qiskit(theirs).gates[-1].angles[0] == 2 * hqf.Weight(1) - hqf.Weight(0) / 4 + 0.5
    x, w = ParameterVector("x", 2), ParameterVector("w", 12)
    theirs = QuantumCircuit(1)
    theirs.rx(x[1] + w[11], 0)
    assert from_qiskit(theirs).gates[0].angles[0] == hqf.Input(1) + hqf.Weight(11)


def build(*steps):
    circuit = QuantumCircuit(2, 2)
    for name, *arguments in steps:
        getattr(circuit, name)(*arguments)
    return circuit


def looped():
    circuit = QuantumCircuit(1)
    with circuit.for_loop(range(3)):
        circuit.h(0)
    return circuit


def conditional():
    circuit = build(("measure", 0, 0))
    with circuit.if_test((circuit.clbits[0], 1)):
        circuit.x(1)
    return circuit


P = Parameter("p")


@pytest.mark.parametrize(
    ("circuit", "options", "error", "message"),
    [
        ("x", {}, TypeError, "circuit: expected a qiskit.QuantumCircuit, got str"),
        (build(("reset", 1)), {}, ValueError, r"reset on qubit\(s\) 1 is no gate; take a fresh qubit"),
        (build(("initialize", [1, 0], 0)), {}, ValueError, "initialize.*prepare_state"),
        (build(("measure", 0, 0), ("h", 0)), {}, ValueError, "h acts on qubit 0 after its measurement"),
        (conditional(), {}, ValueError, r"if_else on qubit\(s\) 1"),
        (looped(), {}, ValueError, "for_loop .*unroll it first"),
        (build(("append", Gate("mystery", 1, []), [1])), {}, ValueError, r"mystery on qubit\(s\) 1 .*transpile"),
        (build(("rx", P * P, 1)), {}, ValueError, r"rx on qubit\(s\) 1 is not affine in 'p'"),
        (build(("rx", P.sin(), 1)), {}, ValueError, "not affine in 'p'"),
        (build(("rx", P, 1)), {"inputs": ["q"]}, ValueError, "no parameter 'q', only p"),
        (build(("rx", Parameter("x0") + Parameter("x[0]"), 1)), {}, ValueError, "clash: both mean x0"),
    ],
)
def test_what_is_no_circuit_of_gates_is_refused(circuit, options, error, message):
    with pytest.raises(error, match=message):
        from_qiskit(circuit, **options)


def test_what_cannot_be_written_is_refused():
    with pytest.raises(TypeError, match="circuit: expected a hqfkernels.Circuit"):
        to_qiskit("x")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="inputs: the circuit starts with amplitudes"):
        to_qiskit(hqf.Circuit(1).amplitudes())
    with pytest.raises(ValueError, match="inputs: the amplitudes are all zero"):
        to_qiskit(hqf.Circuit(1).amplitudes(), inputs=[0.0, 0.0])
