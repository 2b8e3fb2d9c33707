"""OpenQASM in and out: round trips, what Qiskit writes and reads, and refusals with their lines."""

import math

import numpy as np
import pytest
import torch

import hqfkernels as hqf
from tests import oracles

pytest.importorskip("openqasm3")
from hqfkernels.interop.qasm import from_qasm, to_qasm

NONE = torch.empty(0, dtype=torch.float64)


def state(circuit, inputs=NONE, weights=None):
    return hqf.statevector(circuit, inputs, weights).numpy()


def distance(a, b):
    """Largest difference of two states, up to a global phase."""
    overlap = np.vdot(a, b)
    return np.abs(a * overlap / abs(overlap) - b).max()


def case(seed):
    rng = np.random.default_rng(seed)
    circuit = oracles.random_circuit(rng, seed % 4 + 1, 40, 3, 4)
    return circuit, torch.tensor(rng.normal(size=3)), torch.tensor(rng.normal(size=4))


@pytest.mark.parametrize("seed", range(12))
def test_round_trip_keeps_parameters(seed):
    circuit, inputs, weights = case(seed)
    back = from_qasm(to_qasm(circuit)).measure(*circuit.observables)
    assert (back.n_inputs, back.n_weights) == (circuit.n_inputs, circuit.n_weights)
    np.testing.assert_allclose(state(back, inputs, weights), state(circuit, inputs, weights), atol=1e-10)
    values, expected = (hqf.expval(c, inputs, weights, engine="gate") for c in (back, circuit))
    torch.testing.assert_close(values, expected)
    trained = from_qasm(to_qasm(circuit, weights=weights))
    assert (trained.n_inputs, trained.n_weights) == (circuit.n_inputs, 0)
    np.testing.assert_allclose(state(trained, inputs), state(circuit, inputs, weights), atol=1e-10)


@pytest.mark.parametrize("seed", range(8))
def test_round_trip_of_values_through_version_2(seed):
    circuit, inputs, weights = case(seed)
    back = from_qasm(to_qasm(circuit, 2, inputs, weights))
    assert (back.n_inputs, back.n_weights) == (0, 0)
    assert distance(state(back), state(circuit, inputs, weights)) < 1e-10


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("seed", range(6))
def test_qiskit_reads_what_is_written(seed, version):
    qiskit = pytest.importorskip("qiskit")
    pytest.importorskip("qiskit.qasm2")
    circuit, inputs, weights = case(seed)
    text = to_qasm(circuit, version, inputs, weights)
    if version == 2:
        theirs = qiskit.qasm2.loads(text)  # the standard's own qelib1.inc, without Qiskit's additions
    else:
        pytest.importorskip("qiskit_qasm3_import")
        pytest.importorskip("qiskit.qasm3")
        theirs = qiskit.qasm3.loads(text)
    from qiskit.quantum_info import Statevector

    assert distance(Statevector(theirs).reverse_qargs().data, state(circuit, inputs, weights)) < 1e-10


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("seed", range(10))
def test_what_qiskit_writes_is_read(seed, version):
    pytest.importorskip("qiskit")
    from qiskit import qasm2, qasm3
    from qiskit.circuit.random import random_circuit
    from qiskit.quantum_info import Statevector

    theirs = random_circuit(4, 6, seed=seed)
    circuit = from_qasm((qasm2 if version == 2 else qasm3).dumps(theirs))
    assert distance(state(circuit), Statevector(theirs).reverse_qargs().data) < 1e-10


def test_every_gate_of_the_standard_libraries():
    pytest.importorskip("qiskit")
    from qiskit import QuantumCircuit
    from qiskit.quantum_info import Operator

    for name, angles, qubits in [
        ("sxdg", 0, 1), ("u1", 1, 1), ("u2", 2, 1), ("u3", 3, 1), ("u", 3, 1), ("ch", 0, 2), ("csx", 0, 2),
        ("cu3", 3, 2), ("cu", 4, 2), ("ccx", 0, 3), ("ccz", 0, 3), ("cswap", 0, 3), ("rccx", 0, 3), ("c3x", 0, 4),
        ("c3sqrtx", 0, 4), ("c4x", 0, 5), ("rc3x", 0, 4), ("cp", 1, 2), ("crx", 1, 2), ("rxx", 1, 2), ("swap", 0, 2),
        ("cu1", 1, 2),
    ]:  # fmt: skip
        values = [0.3, -1.1, 2.0, 0.7][:angles]
        text = f"({', '.join(map(str, values))})" if angles else ""
        operands = ", ".join(f"q[{k}]" for k in range(qubits))
        prepare = "".join(f"u3({k + 0.4},{k},{1 - k}) q[{k}];\n" for k in range(qubits))
        circuit = from_qasm(
            f'OPENQASM 2.0;\ninclude "qelib1.inc";\nqreg q[{qubits}];\n{prepare}{name}{text} {operands};'
        )
        theirs = QuantumCircuit(qubits)
        for k in range(qubits):
            theirs.u(k + 0.4, k, 1 - k, k)
        if name in ("u1", "u2", "u3", "cu1", "cu3", "c3x", "c3sqrtx", "c4x", "rc3x"):
            from qiskit.circuit import library

            gate = {"c3x": "C3XGate", "c3sqrtx": "C3SXGate", "c4x": "C4XGate", "rc3x": "RC3XGate"}.get(
                name, f"{name.upper()}Gate"
            )
            theirs.append(getattr(library, gate)(*values), range(qubits))
        else:
            getattr(theirs, name)(*values, *range(qubits))
        assert distance(state(circuit), Operator(theirs).reverse_qargs().data[:, 0]) < 1e-10, name


def test_parameters_by_name():
    text = "OPENQASM 3.0;\ninput float b;\ninput angle[32] a;\ninput float[64] c;\nqubit q;\nrx(2*a - b/4) q;\nrz(c) q;"
    assert from_qasm(text).gates[0].angles[0] == 2 * hqf.Weight(1) - hqf.Weight(0) / 4
    circuit = from_qasm(text, inputs=["a"])
    assert circuit.gates[0].angles[0] == 2 * hqf.Input(0) - hqf.Weight(0) / 4
    assert circuit.gates[1].angles[0] == hqf.Weight(1)
    circuit = from_qasm(text, weights=["c"])
    assert circuit.gates[0].angles[0] == 2 * hqf.Input(1) - hqf.Input(0) / 4
    circuit = from_qasm(text, inputs=["c", "b"], weights=["a"])
    assert circuit.gates[0].angles[0] == 2 * hqf.Weight(0) - hqf.Input(1) / 4
    vectors = "input float w2;\ninput float[64] _x_1_;\nqubit q;\nrx(w2 + _x_1_) q;"
    assert from_qasm(vectors).gates[0].angles[0] == hqf.Weight(2) + hqf.Input(1)


def test_language():
    text = """
    OPENQASM 3.0;
    include "stdgates.inc";
    const float half = pi / 2;
    const int n = 2;
    qubit[n] q; qubit r; bit[3] c;
    gate mine(t) a, b { rx(-t * half) a; barrier a, b; inv @ sx b; gphase(t); }
    mine(sqrt(4) ** 2) q[0], q[-1];
    h q;
    cx q, r;
    inv @ mine(0.5) r, q[0];
    ctrl @ rx(0.3) q[1], r;
    ctrl(2) @ x q[0], q[1], r;
    ctrl @ inv @ h q[0], r;
    inv @ s r; inv @ t r; inv @ swap q[0], q[1];
    gphase(-half);
    c = measure q;
    c[2] = measure r;
    """
    circuit = from_qasm(text)
    expected = hqf.Circuit(3)

    def sxdg(q):
        expected.h(q).sdg(q).h(q)

    def phase(t, q):
        expected.rz(-2 * t, q).p(2 * t, q)

    expected.rx(-4 * math.pi / 2, 0)
    sxdg(1)
    phase(4.0, 0)
    expected.h(0).h(1).cx(0, 2).cx(1, 2)
    phase(-0.5, 2)
    expected.sx(0).rx(0.5 * math.pi / 2, 2)
    expected.crx(0.3, 1, 2)
    expected.h(2).cp(math.pi / 2, 1, 2).cx(0, 1).cp(-math.pi / 2, 1, 2).cx(0, 1).cp(math.pi / 2, 0, 2).h(2)
    expected.ry(-math.pi / 4, 2).cz(0, 2).ry(math.pi / 4, 2)
    expected.sdg(2).tdg(2).swap(0, 1)
    phase(-math.pi / 2, 0)
    np.testing.assert_allclose(state(circuit), state(expected), atol=1e-12)


def test_values_are_written_to_the_last_digit():
    angle = 1 / 3 * hqf.Input(0) - hqf.Weight(1) + 0.1
    text = to_qasm(hqf.Circuit(1).rx(angle, 0))
    assert "rx(0.3333333333333333*x0-w1+0.1) q[0];" in text
    assert from_qasm(text).gates[0].angles[0] == angle


# --- refusals -------------------------------------------------------------------------------------------------------

HEAD = 'OPENQASM 3.0;\ninclude "stdgates.inc";\nqubit[2] q;\nbit[2] c;\ninput float x0;\n'


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("for int i in [0:1] { h q[i]; }", "a for loop: unroll it"),
        ("while (c[0]) { h q[0]; }", "a while loop"),
        ("if (c[0]) { h q[0]; }", "if: .*one circuit for each case"),
        ("reset q[0];", "reset: .*fresh qubit"),
        ("def f(qubit a) { h a; }", "def: write a gate"),
        ("let a = 3;", "let: name qubits"),
        ("output float y;", "output"),
        ("input int y;", "'y' is neither float nor angle"),
        ("input float x0;", "'x0' is declared twice"),
        ("qubit q;", "'q' is declared twice"),
        ("qubit x0;", "'x0' is declared twice"),
        ("teleport q[0], q[1];", "gate 'teleport' is not known"),
        ("pow(0.5) @ x q[0];", r"pow\(0.5\) @: expected a whole number"),
        ("ctrl(2) @ u3(1, 2, 3) q[0];", r"ctrl\(2\) @ u3: there are too few qubits"),
        ("h r;", "qubit register 'r' is not declared"),
        ("h q[2];", r"q\[2\]: the register has 2 qubits"),
        ("h q[0:1];", "name single qubits"),
        ("cx q[0], q[0];", "cx: its qubits must differ"),
        ("cx q[0];", r"cx takes 0 angle\(s\) and 2 qubit\(s\), got 0 and 1"),
        ("rx q[0];", r"rx takes 1 angle\(s\)"),
        ("rx(x0 * x0) q[0];", "a factor of a parameter depends on a parameter"),
        ("rx(1 / x0) q[0];", "the divisor depends on a parameter"),
        ("rx(sin(x0)) q[0];", "the argument of sin depends on a parameter"),
        ("rx(1 / 0) q[0];", "divided by zero"),
        ("rx(sqrt(-1)) q[0];", "sqrt"),
        ("rx(2 ^ 3) q[0];", r"\^ is a power in OpenQASM 2 only"),
        ("rx(y) q[0];", "'y' is not declared"),
        ("rx(true) q[0];", "an angle must be made of"),
        ("c[0] = measure q[0]; h q[0];", "h acts on qubit 0 after its measurement"),
        ("gate a b { a b; } a q[0];", "a gate is defined by itself"),
        ("gate a b { h b; } gate a b { x b; }", "gate 'a' is defined twice"),
        ("gate a b { h c; } a q[0];", "no qubit of this name"),
        ('include "mine.inc";', "only stdgates.inc and qelib1.inc"),
        ("qubit[2] a; qubit[3] b; cx a, b;", "registers of different sizes"),
        ("float f = 2;", "ClassicalDeclaration is no part of a circuit"),
        ("gphase(1) q[0];", "gphase takes 1 .* and 0 qubit"),
        ("h q[0]", "near"),
    ],
)
def test_bad_programs_are_refused_with_their_line(line, message):
    with pytest.raises(ValueError, match=f"qasm: line [67].*: .*{message}"):
        from_qasm(f"{HEAD}{line}\n")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("opaque magic a; magic q[0];", "line 4: opaque"),
        ("if(c==1) x q[0];", "line 4: if"),
        ("rx(0^-1) q[0];", r"line 4: 0.0 \*\* -1.0"),
        ("ctrl @ x q[0], q[0];", "line 4: near '@': this is not OpenQASM 2"),
        ("rx(tau) q[0];", "line 4: near 'tau': 'tau' is not declared"),
        ("qreg pi[2];", "line 4: near 'pi': a word of OpenQASM 2 is no name"),
        ("x q[1.5];", "line 4: near '1.5': expected an index or a size"),
        ("x q[0]", "line 5: near '<EOF>'"),
    ],
)
def test_bad_programs_of_version_2(line, message):
    with pytest.raises(ValueError, match=f"qasm: {message}"):
        from_qasm(f'OPENQASM 2.0;\ninclude "qelib1.inc";\nqreg q[1]; creg c[1];\n{line}\n')


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"inputs": ["z"]}, ValueError, "inputs: the circuit has no parameter 'z', only x0"),
        ({"inputs": ["x0"], "weights": ["x0"]}, ValueError, "weights: parameter 'x0' is named twice"),
        ({"inputs": [], "weights": []}, ValueError, "'x0' is neither among inputs nor among weights"),
        ({"inputs": "x0"}, TypeError, "inputs: expected a list"),
    ],
)
def test_bad_names_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        from_qasm(HEAD, **options)


def test_names_that_mean_the_same_clash():
    with pytest.raises(ValueError, match="'x0' and '_x_0_' clash"):
        from_qasm("input float x0;\ninput float _x_0_;\nqubit q;\nrx(x0 + _x_0_) q;")


def test_a_name_is_a_register_or_a_parameter():
    with pytest.raises(ValueError, match="line 3: 'q' is declared twice"):
        from_qasm(f"{HEAD}input float q;")


def test_what_cannot_be_written_is_refused():
    circuit = hqf.Circuit(1).rx(hqf.Input(0), 0).rx(hqf.Weight(1), 0)
    with pytest.raises(ValueError, match="version: must be 3 or 2, got 1"):
        to_qasm(circuit, 1)
    with pytest.raises(TypeError, match="circuit: expected"):
        to_qasm("x")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="weights: OpenQASM 2 has no parameters, so their 2 values"):
        to_qasm(circuit, 2, inputs=[0.1])
    with pytest.raises(ValueError, match=r"inputs: expected shape \(1,\).*got \(2,\)"):
        to_qasm(circuit, inputs=[0.1, 0.2])
    with pytest.raises(ValueError, match="weights: expected finite numbers, got nan"):
        to_qasm(circuit, weights=[0.1, math.nan])
    with pytest.raises(TypeError, match="weights: expected 2 numbers"):
        to_qasm(circuit, weights="ab")
    with pytest.raises(ValueError, match="amplitudes, which OpenQASM cannot say"):
        to_qasm(hqf.Circuit(1).amplitudes())
    with pytest.raises(TypeError, match="text: expected an OpenQASM program"):
        from_qasm(3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="declares no qubits"):
        from_qasm("OPENQASM 3.0;")
