"""What OpenQASM programs mean, version by version: numbers, modifiers, aliases, measurements, names."""

import itertools
import math

import numpy as np
import pytest
import torch

import hqfkernels as hqf

pytest.importorskip("openqasm3")
from fuzz.programs import GATES, WORDS, loads
from hqfkernels.interop.qasm import from_qasm
from hqfkernels.interop.qasm.gates import PHASES, library

pytestmark = pytest.mark.filterwarnings("ignore:.*Gate.control:DeprecationWarning")  # of Qiskit's own importer


HEAD = {
    2: 'OPENQASM 2.0;\ninclude "qelib1.inc";\nqreg q[3];\ncreg c[3];\n',
    3: 'OPENQASM 3.0;\ninclude "stdgates.inc";\nqubit[3] q;\nbit[3] c;\n',
}


def angle(expression, version=3, before=""):
    (gate,) = from_qasm(f"{HEAD[version]}{before}rx({expression}) q[0];").gates
    return gate.angles[0]


def state(text):
    return hqf.statevector(from_qasm(text), torch.empty(0, dtype=torch.float64)).numpy()


def qiskits(text, version=3):
    pytest.importorskip("qiskit_qasm3_import")
    quantum_info = pytest.importorskip("qiskit.quantum_info")
    return quantum_info.Statevector(loads(version)(text)).reverse_qargs().data


# --- numbers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("1/2*pi", 0.0),
        ("pi/2", math.pi / 2),
        ("pi*1/2", math.pi / 2),
        ("1/2.0", 0.5),
        ("1.0/2", 0.5),
        ("7/2/2.0", 1.5),
        ("7/2", 3.0),
        ("-7/-2", 3.0),
        ("-4/2", -2.0),
        ("0x7/0b10", 3.0),
        ("1_0/4", 2.0),
        ("(3-1)/4", 0.0),
        ("2*-1", -2.0),
        ("7/2*2", 6.0),
    ],
)
def test_integers_are_divided_as_in_qiskit(expression, value):
    assert angle(expression).constant == pytest.approx(value)
    text = f"{HEAD[3]}rx({expression}) q[0];"
    np.testing.assert_allclose(state(text), qiskits(text), atol=1e-12)


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("2**3", 8),
        ("-2**2", -4),
        ("2**3**2/1000.", 0.512),
        ("2**3/16", 0),
        ("2.0**-1", 0.5),
        ("4**0.5", 2),
        ("7 % 4", 3),
        ("mod(7, 4)/2", 1),
        ("mod(7.5, 2)", 1.5),
        ("floor(-2.5)", -3),
        ("floor(2.5)/4", 0.5),
        ("ceiling(2.1)", 3),
        ("sqrt(4)/4", 0.5),
        ("arccos(0.5)", math.pi / 3),
        ("arcsin(1)", math.pi / 2),
        ("arctan(1)", math.pi / 4),
        ("sin(1) + cos(1) - tan(1)", math.sin(1) + math.cos(1) - math.tan(1)),
        ("exp(1) - euler", 0),
        ("log(2) + ln(2)", 2 * math.log(2)),
        ("int(2.7)", 2),
        ("int(-2.7)", -2),
        ("float(1)/2", 0.5),
        ("int(3.0)/2", 1),
        ("uint[8](3)/2", 1),
        ("int(true) + float(false)", 1),
        ("float(bool(3))/2", 0.5),
        ("angle(1)/2", 0.5),
        ("tau/4 - π/2 + τ - 2*pi", 0),
    ],
)
def test_expressions_of_version_3(expression, value):
    assert angle(expression).constant == pytest.approx(value, abs=1e-12)


def test_long_sums():
    for version, length in ((2, 5000), (3, 5000)):
        with pytest.raises(ValueError, match="qasm: .*too (long|deeply)"):
            angle("+".join(["0.1"] * length), version)
        assert angle("+".join(["0.1"] * 50), version).constant == pytest.approx(5)


@pytest.mark.parametrize("definition", ["gate g a, a { x a; }", "gate g(t, t) a { rx(t) a; }"])
@pytest.mark.parametrize("version", [2, 3])
def test_names_within_a_gate_differ(version, definition):
    with pytest.raises(ValueError, match="qasm: line 5: gate g: .*must have different names"):
        from_qasm(f"{HEAD[version]}{definition}")


@pytest.mark.parametrize(
    ("declaration", "expression", "value"),
    [
        ("const int n = 7;", "n/2", 3),
        ("const uint[3] n = 7;", "n/2", 3),
        ("const float n = 7;", "n/2", 3.5),
        ("const float[64] n = 7/2;", "n/2", 1.5),
        ("const float n = 3; const int k = 2;", "n/k", 1.5),
        ("const angle a = pi/2;", "a/2", math.pi / 4),
        ("const bool b = 3;", "int(b)/2.0", 0.5),
        ("const int n = 4; const int k = n/3;", "k/2.0", 0.5),
    ],
)
def test_constants_have_a_type(declaration, expression, value):
    assert angle(expression, before=declaration).constant == pytest.approx(value)


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("-1/2", "negative result is rounded down by some and towards zero by others.*write -1.0 / 2"),
        ("1/-2", "negative result"),
        ("1/(2-2)", "divided by zero"),
        ("1 % 0", "division by zero"),
        ("-7 % 4", "what it is for negative numbers"),
        ("mod(-7.5, 2)", "what it is for negative numbers"),
        ("7.0 % 4", "% takes integers"),
        ("2 ** -1", "negative power of an integer"),
        ("1e400", "must be finite, and this is inf"),
        ("1e308*10", "must be finite, and this is inf"),
        ("1e308*10*0", "must be finite"),
        ("1e308 + 1e308 - 1e308", "must be finite"),
        ("exp(1000)", r"exp\(1000\): math range error"),
        ("log(0)", r"log\(0\): math domain error"),
        ("arccos(2)", "arccos"),
        ("sqrt(-1)", "sqrt"),
        ("sqrt(4, 2)", r"sqrt takes 1 argument\(s\), got 2"),
        ("mod(4)", r"mod takes 2 argument\(s\), got 1"),
        ("popcount(3)", "function popcount is not supported"),
        ("rotl(3, 1)", "function rotl is not supported"),
        ("foo(3)", "function foo is not supported"),
        ("1 << 2", "operator << is not supported"),
        ("1 >> 2", "operator >> is not supported"),
        ("1 & 2", "operator & is not supported"),
        ("1 | 2", r"operator \| is not supported"),
        ("1 == 2", "operator == is not supported"),
        ("1 < 2", "operator < is not supported"),
        ("true && false", "an angle must be made of"),
        ("~1", "an angle must be made of"),
        ("!true", "an angle must be made of"),
        ("true + 1", r"of true and false, write int\(...\)"),
        ('"0101"', "an angle must be made of"),
        ("1.5im", "an angle must be made of"),
        ("10ns", "an angle must be made of"),
        ("int[4](9)", r"9 is no int\[4\]"),
        ("uint(-1)", "-1 is no uint"),
        ("angle(7)", "7 is no angle from 0 to 2 pi"),
        ("angle[4](0.3)", r"angle\[4\]: rounding"),
        ("float[16](0.3)", r"float\[16\]: rounding"),
        ("int[10**12](3)", r"int\[1000000000000\]: expected a size"),
        ("int[1-1](3)", r"int\[0\]: expected a size"),
        ("bit[4](3)", "casts of type bit are not supported"),
        ("a/0", "divided by zero"),
        ("1/a", "the divisor depends on a parameter"),
        ("a*a", "a factor of a parameter depends on a parameter"),
        ("a**1", "the base depends on a parameter"),
        ("2**a", "the exponent depends on a parameter"),
        ("a % 2", "an operand of % depends on a parameter"),
        ("mod(a, 2)", "the argument of mod depends on a parameter"),
        ("floor(a)", "the argument of floor depends on a parameter"),
        ("int(a)", "a value of type int depends on a parameter"),
        ("a*1e308*10", "must be finite"),
        ("a + " + "9" * 400, "beyond all floats"),
    ],
)
def test_what_is_not_settled_is_refused(expression, message):
    with pytest.raises(ValueError, match=f"qasm: line 6: .*{message}"):
        from_qasm(f"{HEAD[3]}input float a;\nrx({expression}) q[0];", weights=["a"])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("const int n = 2.5;", "2.5 is no int"),
        ("const uint[2] n = 4;", r"4 is no uint\[2\]"),
        ("const angle a = -1.0;", "-1.0 is no angle from 0 to 2 pi, where OpenQASM 3 would wrap it"),
        ('const bit[2] b = "01";', "constants and casts of type bit"),
        ("const bit b = measure q[0];", "constants and casts of type bit"),
        ("const complex z = 1;", "constants and casts of type complex"),
        ("const bool b = true; rx(b) q[0];", "an angle must be made of"),
    ],
)
def test_constants_that_do_not_fit_are_refused(line, message):
    with pytest.raises(ValueError, match=f"qasm: line 5: .*{message}"):
        from_qasm(f"{HEAD[3]}{line}")


def test_angles_within_gates_are_real_numbers():
    text = f"{HEAD[3]}gate g(t) a {{ rx(t/2) a; rz(1/2*t) a; ry(3/t) a; }}\ng(1) q[0];\ng(4/3) q[1];"
    values = [gate.angles[0].constant for gate in from_qasm(text).gates]
    assert values == [0.5, 0.0, 3.0, 0.5, 0.0, 3.0]


@pytest.mark.parametrize(
    "expression",
    ["1/2*pi", "-1/2", "7/2", "-2^2", "2^-1", "2^3^2/100", "(-2)^3", "-sin(1)^2", "2--1", "+2", ".5e1", "3.", "1-2-3",
     "8/4/2", "2*3^2", "-(1+2)*3", "exp(ln(2))", "sqrt(2)/tan(1)", "cos(pi/3)*-1", "pi^2"],
)  # fmt: skip
def test_numbers_are_real_in_version_2(expression):
    text = f"{HEAD[2]}rx({expression}) q[0];\ngate g(t) a {{ rz(t/2) a; }} h q[1]; g({expression}) q[1];"
    np.testing.assert_allclose(state(text), qiskits(text, 2), atol=1e-12)


@pytest.mark.parametrize("expression", ["1/0", "0^-1", "(-1)^0.5", "ln(0)", "sqrt(-1)", "1e400", "exp(1000)", "9^9^9"])
def test_what_is_not_finite_is_refused_in_version_2(expression):
    with pytest.raises(ValueError, match="qasm: line 5: "):
        from_qasm(f"{HEAD[2]}rx({expression}) q[0];")


def test_a_program_without_a_version():
    assert from_qasm("qubit q; rx(1/2*pi) q;").gates[0].angles[0] == hqf.circuit.Angle(0.0)
    assert from_qasm("qreg q[1]; rx(pi/2) q[0];").gates[0].angles[0].constant == math.pi / 2
    assert from_qasm("qreg input[1]; rx(1/2) input[0];").gates[0].angles[0].constant == 0.5
    assert from_qasm("qreg q[1]; inv @ s q[0];").gates[0].name == "sdg"
    with pytest.raises(ValueError, match="does not say its version.*0.5 and 0 for 1/2"):
        from_qasm("qreg q[1]; rx(1/2*pi) q[0];")
    with pytest.raises(ValueError, match="OPENQASM 4.0: only versions 2.0 and 3"):
        from_qasm("OPENQASM 4.0; qreg q[1];")
    with pytest.raises(ValueError, match="this is not OpenQASM 3"):
        from_qasm("qreg q[1]; this is no program")
    assert from_qasm("// a\n/* b */ OPENQASM 2.0;\nqreg let[1]; x let[0]; /* c */").n_qubits == 1


# --- gates ----------------------------------------------------------------------------------------------------------

PREPARE = "".join(f"u3({k + 0.4}, {k}, {1 - k}) q[{k}];\n" for k in range(6))


@pytest.mark.parametrize("name", GATES[3])
def test_every_gate_takes_every_modifier(name):
    n_angles, n_qubits = GATES[3][name]
    angles = f"({', '.join(['0.3', '-1.1', '2.0', '0.7'][:n_angles])})" if n_angles else ""
    modifiers = ["ctrl", "negctrl", "ctrl(2)", "negctrl(2)", "inv", "pow(2)", "pow(-1)", "pow(0)", "pow(3.0)"]
    for pair in [(), *itertools.combinations(modifiers, 1), ("ctrl", "inv"), ("inv", "negctrl"), ("ctrl", "negctrl"),
                 ("pow(2)", "ctrl")]:  # fmt: skip
        count = n_qubits + sum(2 if "(2)" in m else 1 for m in pair if "ctrl" in m)
        if not count and pair:
            continue  # Qiskit does not take a global phase with other modifiers
        if name in ("cu", "gphase") and (any("pow" in m for m in pair) or pair == ("inv", "negctrl")):
            continue  # Qiskit has no power of these, and inverts negctrl @ cu to something else than its adjoint
        operands = ", ".join(f"q[{5 - k}]" for k in range(count))
        call = f"{''.join(f'{m} @ ' for m in pair)}{name}{angles} {operands};"
        text = f"{HEAD[3].replace('[3] q', '[6] q')}{PREPARE}{call}"
        np.testing.assert_allclose(state(text), qiskits(text), atol=1e-10, err_msg=call)


def test_every_gate_of_a_circuit_can_be_controlled():
    assert {*library(PHASES), "rot"} == set(hqf.circuit.GATES)
    for name, (n_angles, n_qubits) in hqf.circuit.GATES.items():
        angles = f"({', '.join(['0.3', '-1.1', '2.0'][:n_angles])})" if n_angles else ""
        call = f"{name}{angles} {', '.join(['q[1]', 'q[2]'][:n_qubits])};"
        text = HEAD[3] + "h q;\nt q;\nrx(0.3) q;\n"
        off, on = np.split(state(f"{text}ctrl @ {call.replace(' q[1]', ' q[0], q[1]')}"), 2)  # by the control's value
        np.testing.assert_allclose(off, np.split(state(text), 2)[0], atol=1e-12)
        np.testing.assert_allclose(on, np.split(state(text + call), 2)[1], atol=1e-12, err_msg=name)


def test_gates_of_the_program_take_modifiers():
    gate = "gate g(t) a, b { rx(t/2) a; gphase(t); cu(0.1, t, 0.3, 0.4) b, a; inv @ s a; negctrl @ h a, b; }\n"
    for call in ("g(1) q[0], q[1];", "ctrl @ g(1) q[2], q[0], q[1];", "inv @ ctrl(2) @ g(1) q[2], q[3], q[0], q[1];",
                 "negctrl @ pow(-2) @ g(1) q[2], q[0], q[1];"):  # fmt: skip
        text = f"{HEAD[3].replace('[3] q', '[6] q')}{gate}{PREPARE}{call}"
        np.testing.assert_allclose(state(text), qiskits(text), atol=1e-10, err_msg=call)


def test_a_gate_whose_phase_is_not_settled_is_not_controlled():
    """In the specification x1 is X, and ctrl @ x1 is a CNOT; in Qiskit they have another phase."""
    gates = "gate x1 a { U(pi, 0, pi) a; gphase(-pi/2); }\ngate x2 a { x1 a; }\ngate x3 a, b { ctrl @ x2 a, b; }\n"
    for call in ("ctrl @ x1 q[0], q[1];", "negctrl @ inv @ x2 q[0], q[1];"):
        with pytest.raises(ValueError, match="qasm: line 8: (neg)?ctrl @ x.: the gate is made of U, u2 or u3"):
            from_qasm(f"{HEAD[3]}{gates}{call}")
    with pytest.raises(ValueError, match="qasm: line 7: ctrl @ x2: the gate is made of U, u2 or u3"):
        from_qasm(f"{HEAD[3]}{gates}x3 q[0], q[1];")
    text = f"{HEAD[3]}{gates}h q; t q; inv @ pow(2) @ x2 q[0];"
    np.testing.assert_allclose(state(text), qiskits(text), atol=1e-12)


def test_modifiers_of_parameters():
    text = HEAD[3] + "{}h q;\nctrl(2) @ rx({}/2) q[0], q[2], q[1];\nnegctrl @ pow(2) @ U(0.1, {}, 0.2) q[1], q[2];\n"
    circuit = from_qasm(text.format("input float x0;\n", "x0", "x0"))
    value = torch.tensor([0.7], dtype=torch.float64)
    expected = state(text.format("", "0.7", "0.7"))
    np.testing.assert_allclose(hqf.statevector(circuit, value), expected, atol=1e-12)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("pow(0.5) @ x q[0];", r"pow\(0.5\) @: expected a whole number"),
        ("pow(a) @ x q[0];", "the argument of pow depends on a parameter"),
        ("pow(true) @ x q[0];", "an angle must be made of"),
        ("ctrl(0) @ x q[0], q[1];", r"ctrl\(0\) @: expected a positive whole number"),
        ("negctrl(1.5) @ x q[0], q[1];", r"negctrl\(1.5\) @: expected a positive whole number"),
        ("ctrl(3) @ x q[0], q[1];", r"ctrl\(3\) @ x: there are too few qubits"),
        ("ctrl @ x q[0], q[0];", "x: its qubits must differ"),
        ("ctrl @ gphase(1) q[0], q[1];", r"gphase takes 1 angle\(s\) and 0 qubit\(s\), got 1 and 1"),
        ("pow(1000000) @ x q[0];", "more than 100000 gates"),
    ],
)
def test_modifiers_that_do_not_fit_are_refused(line, message):
    with pytest.raises(ValueError, match=f"qasm: line 6: .*{message}"):
        from_qasm(f"{HEAD[3]}input float a;\n{line}", weights=["a"])


def test_many_controls_are_refused_before_they_are_computed():
    with pytest.raises(ValueError, match="more than 100000 gates"):
        from_qasm(f"qubit[30] q; ctrl(29) @ x {', '.join(f'q[{k}]' for k in range(30))};")


def test_a_controlled_gate_is_the_gate_that_there_is():
    names = {"x": "cx", "y": "cy", "z": "cz", "rx(1)": "crx", "ry(1)": "cry", "rz(1)": "crz", "p(1)": "cp", "s": "cp"}
    for gate, ours in {**names, "gphase(1)": "p"}.items():
        operands = "q[0]" if "gphase" in gate else "q[0], q[1]"
        assert [g.name for g in from_qasm(f"{HEAD[3]}ctrl @ {gate} {operands};").gates] == [ours]


def test_an_angle_of_a_gate_hides_a_constant():
    text = f"{HEAD[3]}const int n = 2;\ngate g(n) a {{ pow(n) @ rx(1) a; }}\ng(3) q[0];"
    assert len(from_qasm(text).gates) == 3


# --- qubits ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("alias", "qubits"),
    [
        ("let a = q;", [0, 1, 2, 3, 4]),
        ("let a = q[1:3];", [1, 2, 3]),
        ("let a = q[0:2:4];", [0, 2, 4]),
        ("let a = q[4:-2:0];", [4, 2, 0]),
        ("let a = q[3:];", [3, 4]),
        ("let a = q[:1];", [0, 1]),
        ("let a = q[{3, 0, -1}];", [3, 0, 4]),
        ("let a = q[{3, 0}] ++ q[1:2] ++ q[4];", [3, 0, 1, 2, 4]),
        ("let a = {q[1], q[0]};", [1, 0]),
        ("let a = {\n q[2],\n q[0]\n};", [2, 0]),
        ("let b = q[1:4]; let a = b[1:2];", [2, 3]),
        ("let b = q[1:4]; let a = b[{3, 0}];", [4, 1]),
        ("let a = q[2];", [2]),
    ],
)
def test_aliases(alias, qubits):
    text = f"qubit[5] q;\n{alias}\n"
    assert [gate.qubits for gate in from_qasm(f"{text}x a;").gates] == [(q,) for q in qubits]
    for k, q in enumerate(qubits):
        assert from_qasm(f"{text}x a[{k}];").gates[0].qubits == (q,)


def test_what_qiskit_writes_for_registers_that_overlap_is_read():
    pytest.importorskip("qiskit")
    from qiskit import ClassicalRegister, QuantumCircuit, QuantumRegister, qasm3
    from qiskit.circuit import Qubit
    from qiskit.quantum_info import Statevector

    q, c = QuantumRegister(2, "q"), ClassicalRegister(2, "c")
    overlapping = QuantumRegister(bits=[q[1], q[0]], name="r"), ClassicalRegister(bits=[c[0]], name="d")
    circuit = QuantumCircuit(q, overlapping[0], [Qubit()], c, overlapping[1])
    circuit.ry(0.3, q[0])
    circuit.cx(q[0], 2)
    circuit.ry(0.7, q[1])
    expected = Statevector(circuit).reverse_qargs().data
    circuit.delay(100, 0)
    circuit.delay(1, 1, unit="s")
    circuit.measure(0, 0)
    text = qasm3.dumps(circuit, allow_aliasing=True)
    assert "let r = {" in text
    np.testing.assert_allclose(state(text), expected, atol=1e-12)


def test_what_qiskit_writes_for_a_device_is_read():
    pytest.importorskip("qiskit")
    from qiskit import QuantumCircuit, qasm3, transpile
    from qiskit.quantum_info import Statevector

    circuit = QuantumCircuit(3)
    circuit.h(0)
    circuit.ccx(0, 1, 2)
    circuit.delay(100, 1)
    circuit = transpile(
        circuit, coupling_map=[[0, 1], [1, 2]], basis_gates=["rz", "sx", "cx"], initial_layout=[2, 1, 0]
    )
    expected = Statevector(circuit).reverse_qargs().data
    circuit.measure_all()
    text = qasm3.dumps(circuit)  # which leaves the global phase out
    assert "$0" in text
    assert abs(np.vdot(state(text), expected)) == pytest.approx(1.0)


def test_hardware_qubits():
    circuit = from_qasm("h $1; cx $1, $3; let a = $3 ++ $0; x a; delay[3ns] $4; bit b = measure $1;")
    assert circuit.n_qubits == 5
    assert [gate.qubits for gate in circuit.gates] == [(1,), (1, 3), (3,), (0,)]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("h $0;", r"\$0: the program declares qubits"),
        ("let a = q[-2:-1];", r"q\[-2:1:-1\]: what it means is not settled; count from 0"),
        ("let a = q[0:0:2];", "what it means is not settled"),
        ("let a = q[2:1];", "there are no qubits in this range"),
        ("let a = q[1:3];", r"q\[3\]: the register has 3 qubits"),
        ("let a = q[{0, 0}];", "let a: its qubits must differ"),
        ("let a = q ++ q[0];", "let a: its qubits must differ"),
        ("let q = q[0];", "'q' is declared twice"),
        ("let a = r;", "qubit register 'r' is not declared"),
        ("let a = q ++ c;", "qubit register 'c' is not declared"),
        ("let a = 3;", "let: name qubits"),
        ("barrier r;", "qubit register 'r' is not declared"),
        ("delay[3ns] r;", "qubit register 'r' is not declared"),
        ("measure q[0] -> d[0];", "bit register 'd' is not declared"),
        ("qubit c;", "'c' is declared twice"),
        ("qubit[1] r; cx q, r;", r"registers of different sizes \[1, 3\]"),
    ],
)
def test_qubits_that_do_not_fit_are_refused(line, message):
    with pytest.raises(ValueError, match=f"qasm: line 5: .*{message}"):
        from_qasm(f"{HEAD[3]}{line}")


@pytest.mark.parametrize(
    ("text", "message"), [("h $0; qubit q;", "has hardware qubits"), ("h $30;", "a circuit has 1..30")]
)
def test_hardware_qubits_that_do_not_fit_are_refused(text, message):
    with pytest.raises(ValueError, match=f"qasm: line 1: .*{message}"):
        from_qasm(text)


# --- measurements ---------------------------------------------------------------------------------------------------

MEASUREMENTS = {
    3: ("bit b = measure q[0];", "bit[3] b = measure q;", "c[0] = measure q[0];", "c = measure q;", "measure q -> c;",
        "measure q[0] -> c[0];", "measure q[0];", "let a = q[0:1]; bit b = measure a[0];", "let a = q[0]; measure a;"),
    2: ("measure q[0] -> c[0];", "measure q -> c;"),
}  # fmt: skip


@pytest.mark.parametrize(("version", "measurement"), [(v, m) for v, some in MEASUREMENTS.items() for m in some])
def test_a_gate_behind_a_measurement_is_refused(version, measurement):
    calls = ["x q[0];", "x q;", "cx q[2], q[0];", "barrier q; x q[0];", "gate g a, b { h b; } g q[1], q[0];"]
    if version == 3:
        calls += ["ctrl @ x q[0], q[1];", "inv @ s q[0];", "let z = q[{2, 0}]; x z[1];", "delay[3ns] q; x q[0];"]
    for call in calls:
        with pytest.raises(ValueError, match="qasm: line 6: .* acts on qubit 0 after its measurement"):
            from_qasm(f"{HEAD[version]}{measurement}\n{call}\n")
    for call in ("", "barrier q;", *(["delay[3ns] q[0];", "gphase(1);"] if version == 3 else [])):
        from_qasm(f"{HEAD[version]}x q[1];\n{measurement}\n{call}\n")
    if "q[0]" in measurement:
        assert from_qasm(f"{HEAD[version]}{measurement}\nx q[2];").gates[0].qubits == (2,)


@pytest.mark.parametrize(
    "line",
    ["if (c[0]) { measure q[0]; }", "for int i in [0:1] { measure q[i]; }", "while (c[0]) { measure q[0]; }",
     "def f(qubit a) { measure a; }", "{ measure q[0]; }", "box { measure q[0]; }", "gate g a { measure a; }",
     "int n = measure q[0];", "reset q[0];", "x q[0]; reset q[0];", "end;", "c[0] = 1;", "extern f(int);"],
)  # fmt: skip
def test_what_is_no_circuit_is_refused_in_words_of_the_language(line):
    with pytest.raises(ValueError, match="qasm: line 5: ") as refused:
        from_qasm(f"{HEAD[3]}{line}")
    if not line.startswith("int"):
        assert "Statement" not in str(refused.value)


def test_delays_are_left_out():
    gate = "gate g a { delay[10ns] a; x a; }"
    text = f"{HEAD[3]}duration d = 3ns; stretch s;\n{gate}\ndelay[d] q; delay[s] q[0], q[1];\ng q[0];"
    assert [gate.name for gate in from_qasm(text).gates] == ["x"]


# --- OpenQASM 2 -----------------------------------------------------------------------------------------------------


FUNCTIONS = ("acos", "arccos", "ceiling", "floor", "imag", "log", "mod", "popcount", "real", "rotl")


@pytest.mark.parametrize("word", [*WORDS, *FUNCTIONS, "ns", "dt", "pragma", "stdgates", "x0", "bit_"])
def test_words_of_version_3_are_names_in_version_2(word):
    head = 'OPENQASM 2.0;\ninclude "qelib1.inc";\n'
    texts = (
        f"{head}qreg {word}[2];\nry(0.3) {word}[1];\ncx {word}[1], {word}[0];\n",
        f"{head}qreg q[2];\ngate {word} a, b {{ ry(0.3) a; cx a, b; }}\n{word} q[1], q[0];\n",
        f"{head}qreg q[2];\ngate g({word}) a {{ ry({word}/2) a; }}\ng(0.6) q[1];\ncx q[1], q[0];\n",
        f"{head}qreg q[2];\ngate g {word}, b {{ ry(0.3) {word}; cx {word}, b; }}\ng q[1], q[0];\n",
        f"{head}qreg q[2];\ncreg {word}[2];\nopaque g({word}) a;\nry(0.3) q[1];\ncx q[1],q[0];\nmeasure q -> {word};\n",
    )
    for text in texts:
        assert [gate.qubits for gate in from_qasm(text).gates] == [(1,), (1, 0)]


def test_what_qiskit_takes_besides_the_grammar_of_version_2():
    text = f"{HEAD[2]}barrier;; barrier q, ;\ngate g(t,) a {{ rx(t, ) a, ; }}\ngate e() a {{}}\n;"
    text += "g(0.3) q[0]; e q; x() q[1];"
    np.testing.assert_allclose(state(text), qiskits(text, 2), atol=1e-12)
    assert from_qasm(f"{HEAD[2]}gate g(θ) a {{ rx(θ/2) a; }} g(1) q[0];").gates[0].angles[0].constant == 0.5


def test_opaque_gates():
    text = f"{HEAD[2]}opaque delay(t) a;\nopaque magic(t) a, b;\nu0(1) q[0];\ndelay(100) q[0];\nx q[1];\n"
    assert [gate.name for gate in from_qasm(text).gates] == ["x"]
    with pytest.raises(ValueError, match="qasm: line 6: opaque: the gate has no definition"):
        from_qasm(f"{text}magic(1) q[0], q[1];")
    with pytest.raises(ValueError, match="gate 'delay' is not known"):
        from_qasm(f"{HEAD[2]}delay(100) q[0];")
    with pytest.raises(ValueError, match="opaque: the gate has no definition"):
        from_qasm("OPENQASM 2.0;\nqreg q[1];\nopaque h a;\nh q[0];")  # not the gate of the library


def test_what_qiskit_writes_for_delays_is_read():
    pytest.importorskip("qiskit")
    from qiskit import QuantumCircuit, qasm2, qasm3

    circuit = QuantumCircuit(1)
    circuit.delay(100, 0)
    circuit.x(0)
    for text in (qasm2.dumps(circuit), qasm3.dumps(circuit)):
        assert "delay" in text
        assert [gate.name for gate in from_qasm(text).gates] == ["x"]


# --- messages -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hello",
        "OPENQASM 3.0;\nqubit q;\nx q ~~;",
        'OPENQASM 3.0;\nqubit q;\nx q; "',
        "OPENQASM 3.0;\nqubit q;\nx § q;",
        "OPENQASM 3.0;\nqubit q;\nrx(1.2.3) q;",
        "OPENQASM 3.0;\nqubit q; /* no end",
        "OPENQASM 3.0;\nqubit q;\nrx(pow(2, 3)) q;",
        "OPENQASM 3.0;\nqubit q;\ngate g a { measure a; }",
        "OPENQASM 2.0;\nqreg q[1];\nx § q;",
        "OPENQASM 2.0;\nqreg q[1];\nx",
        f"OPENQASM 3.0;\nqubit q;\nrx({'(' * 2000}1{')' * 2000}) q;",
        f"OPENQASM 2.0;\nqreg q[1];\nrx({'(' * 2000}1{')' * 2000}) q[0];",
    ],
)
def test_nothing_is_printed(text, capfd):
    with pytest.raises(ValueError, match="^qasm: ") as refused:
        from_qasm(text)
    assert capfd.readouterr() == ("", "")
    assert "NoneType" not in str(refused.value)


@pytest.mark.parametrize(
    "text", ["OPENQASM 2.0; qreg q[{}];", "qubit q; x q[{}];", "qubit[{}] q;", "h ${};", "rx({}) $0;"]
)
def test_numbers_of_many_digits_are_refused(text):
    with pytest.raises(ValueError, match="^qasm: "):
        from_qasm(text.format("9" * 5000))


def test_comments_without_end_take_no_time():
    with pytest.raises(ValueError, match="qasm: "):
        from_qasm("/* a */ " * 200 + "hello")


@pytest.mark.parametrize(("names", "roles"), [("x0 theta", "x0.*theta"), ("theta w1", "w1.*theta")])
def test_names_of_which_some_say_what_they_are(names, roles):
    declarations = "".join(f"input float {name};\n" for name in names.split())
    text = f"{declarations}qubit q;\nrx({'+'.join(names.split())}) q;"
    with pytest.raises(ValueError, match=f"{roles}.*inputs=.*weights="):
        from_qasm(text)
    assert from_qasm(text, inputs=["theta"]).n_inputs == 1


def test_names_that_do_not_say_what_they_are():
    text = "input float theta;\nqubit q;\nrx(theta) q;"
    with pytest.warns(UserWarning, match="'theta'.*all become weights.*inputs=.*weights=") as said:
        circuit = from_qasm(text)
    assert (circuit.n_inputs, circuit.n_weights) == (0, 1)
    assert said[0].filename == __file__
