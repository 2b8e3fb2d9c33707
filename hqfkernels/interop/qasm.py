"""OpenQASM 3 and 2, in and out: `from_qasm`, `to_qasm`.

Both versions go through the parser of the OpenQASM working group (package ``openqasm3``). OpenQASM 3 was made to
read OpenQASM 2, so that one grammar and one walk over the tree serve both, with line numbers; what differs in meaning
(``^``, ``if`` on a register, ``opaque``) is refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

try:
    import openqasm3
    from openqasm3 import ast
    from openqasm3.parser import QASM3ParsingError
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        'hqfkernels.interop.qasm needs the OpenQASM parser: pip install "hqfkernels[qasm]"'
    ) from error

from hqfkernels.circuit import GATES, MAX_QUBITS, Angle, Circuit
from hqfkernels.interop.parameters import angles_of, bind, text_of
from hqfkernels.program import matrix_rotations

_SAME = {"id": "i", "phase": "p", "u1": "p", "CX": "cx", "cphase": "cp", "cu1": "cp"}
"""OpenQASM name -> gate, where the two differ."""

_DEFINITIONS = """
gate sxdg a { h a; sdg a; h a; }
gate u2(phi, lambda) a { U(pi/2, phi, lambda) a; }
gate u3(theta, phi, lambda) a { U(theta, phi, lambda) a; }
gate u(theta, phi, lambda) a { U(theta, phi, lambda) a; }
gate U(theta, phi, lambda) a { p(lambda) a; ry(theta) a; p(phi) a; }
gate ch a, b { ry(-pi/4) b; cz a, b; ry(pi/4) b; }
gate csx a, b { h b; cp(pi/2) a, b; h b; }
gate cu(theta, phi, lambda, gamma) a, b { p(gamma) a; cp(lambda) a, b; cry(theta) a, b; cp(phi) a, b; }
gate cu3(theta, phi, lambda) a, b { cu(theta, phi, lambda, 0) a, b; }
gate ccx a, b, c { h c; ccz a, b, c; h c; }
gate ccz a, b, c { ccp(pi) a, b, c; }
gate ccp(t) a, b, c { cp(t/2) b, c; cx a, b; cp(-t/2) b, c; cx a, b; cp(t/2) a, c; }
gate cswap a, b, c { cx c, b; ccx a, b, c; cx c, b; }
gate c3p(t) a, b, c, d { cp(t/2) c, d; ccx a, b, c; cp(-t/2) c, d; ccx a, b, c; ccp(t/2) a, b, d; }
gate c3x a, b, c, d { h d; c3p(pi) a, b, c, d; h d; }
gate c3sqrtx a, b, c, d { h d; c3p(pi/2) a, b, c, d; h d; }
gate c4p(t) a, b, c, d, e { cp(t/2) d, e; c3x a, b, c, d; cp(-t/2) d, e; c3x a, b, c, d; c3p(t/2) a, b, c, e; }
gate c4x a, b, c, d, e { h e; c4p(pi) a, b, c, d, e; h e; }
gate rccx a, b, c { h c; t c; cx b, c; tdg c; cx a, c; t c; cx b, c; tdg c; h c; }
gate rc3x a, b, c, d {
  h d; t d; cx c, d; tdg d; h d; cx a, d; t d; cx b, d; tdg d; cx a, d; t d; cx b, d; tdg d; h d; t d; cx c, d; tdg d;
  h d;
}
gate rot(phi, theta, omega) a { rz(phi) a; ry(theta) a; rz(omega) a; }
gate sx a { h a; s a; h a; }
gate swap a, b { cx a, b; cx b, a; cx a, b; }
gate crx(theta) a, b { h b; crz(theta) a, b; h b; }
gate cry(theta) a, b { ry(theta/2) b; cx a, b; ry(-theta/2) b; cx a, b; }
gate rzz(theta) a, b { cx a, b; rz(theta) b; cx a, b; }
gate rxx(theta) a, b { h a; h b; rzz(theta) a, b; h a; h b; }
gate ryy(theta) a, b { rx(pi/2) a; rx(pi/2) b; rzz(theta) a, b; rx(-pi/2) a; rx(-pi/2) b; }
"""
"""What hqfkernels (above rot) or a version of OpenQASM (from rot on) has no gate for, up to a global phase.

The first part holds what is left of stdgates.inc and of the longer qelib1.inc that Qiskit writes for.
"""

_BOTH = ("x", "y", "z", "h", "s", "sdg", "t", "tdg", "rx", "ry", "rz", "cx", "cy", "cz", "crz")
_WRITTEN: dict[int, dict[str, str]] = {
    2: {"i": "id", "p": "u1", "cp": "cu1", **{name: name for name in _BOTH}},
    3: {"i": "id", **{name: name for name in (*_BOTH, "sx", "p", "swap", "crx", "cry", "cp")}},
}
"""The gates of stdgates.inc, and of qelib1.inc as the paper on OpenQASM 2 has it (arXiv 1707.03429)."""

_CONTROLLED = {name: f"c{name}" for name in ("x", "y", "z", "h", "sx", "swap", "rx", "ry", "rz", "p", "cx", "cz")}
_CONSTANTS = {"pi": math.pi, "π": math.pi, "tau": math.tau, "τ": math.tau, "euler": math.e, "ℇ": math.e}
_FUNCTIONS: dict[str, Callable[[float], float]] = {
    "sin": math.sin,
    "cos": math.cos,
    "tan": math.tan,
    "arcsin": math.asin,
    "arccos": math.acos,
    "arctan": math.atan,
    "exp": math.exp,
    "log": math.log,
    "ln": math.log,
    "sqrt": math.sqrt,
}
_ADVICE = {
    ast.ForInLoop: "a for loop: unroll it first",
    ast.WhileLoop: "a while loop: its length depends on measurements",
    ast.BranchingStatement: "if: the circuit would depend on a measurement or a value; write one circuit for each case",
    ast.QuantumReset: "reset: it is no unitary gate; take a fresh qubit",
    ast.SubroutineDefinition: "def: write a gate instead of a subroutine",
    ast.AliasStatement: "let: name the qubits themselves",
    ast.IODeclaration: "output: only input float and input angle parameters are read",
}

MAX_GATES = 100_000
"""Longer programs are refused: a few lines of gates made of gates can say more than any memory holds."""

_Operation = tuple[str, tuple[Angle, ...], tuple[int, ...]]


def from_qasm(text: str, inputs: Sequence[str] | None = None, weights: Sequence[str] | None = None) -> Circuit:
    """Reads an OpenQASM 3 or OpenQASM 2 program.

    Qubits are numbered in the order of their declaration. Parameters are OpenQASM 3's ``input float`` and ``input
    angle``; angles must be affine in them. OpenQASM 2 has no parameters. The circuit measures Z on every qubit, as
    always by default; measurements at the end of the program say nothing else. Global phases are kept as far as the
    two versions agree on them.

    Args:
        text: the program.
        inputs: names of the parameters that become inputs, in this order.
        weights: names of those that become weights. If one of the two is left out, it is all others, in order of
            declaration; if both are, ``x0``, ``w0``, ... (as `to_qasm` writes them) are what they say, and any other
            names are all weights.

    Raises:
        TypeError: if ``text`` is no string.
        ValueError: for a program that is no circuit of known gates: syntax errors, loops, conditions, resets, gates
            after a measurement, unknown gates, with the line; for parameter names that clash.
    """
    if not isinstance(text, str):
        raise TypeError(f"text: expected an OpenQASM program as a string, got {type(text).__name__}")
    program = _parse(text)
    names: list[str] = []
    for statement in program.statements:
        if isinstance(statement, ast.IODeclaration) and statement.io_identifier == ast.IOKeyword.input:
            if not isinstance(statement.type, (ast.FloatType, ast.AngleType)):
                raise _error(statement, f"input {statement.identifier.name!r} is neither float nor angle")
            if statement.identifier.name in names:
                raise _error(statement, f"input {statement.identifier.name!r} is declared twice; rename one")
            names.append(statement.identifier.name)
    reader = _Reader(angles_of(names, inputs, weights))
    for statement in program.statements:
        try:
            reader.read(statement)
        except RecursionError:
            raise _error(statement, "a gate is defined by itself") from None
    if not reader.n_qubits:
        raise ValueError("qasm: the program declares no qubits")
    circuit = Circuit(reader.n_qubits)
    for name, angles, qubits in reader.operations:
        circuit.append(name, angles, qubits)
    return circuit


def to_qasm(circuit: Circuit, version: int = 3, inputs: Any = None, weights: Any = None) -> str:
    """Writes the gates of a circuit as an OpenQASM program.

    The observables are not part of it: ``from_qasm(text).measure(*circuit.observables)`` brings them back. Gates that
    the version's standard library lacks are written as several that it has. Constant matrices become rotations.

    Args:
        circuit: the circuit.
        version: 3, where parameters stay parameters, named ``x0``, ``w0``, ...; or 2, which has none, so that both
            ``inputs`` and ``weights`` must be given (as far as the circuit has any). Version 2 has no global phases.
        inputs: (n_inputs,): values (radians) to write in place of the inputs, those of one sample.
        weights: (n_weights,): values to write in place of the weights, such as trained ones.

    Raises:
        TypeError, ValueError: for arguments that do not fit, and for amplitude encoding, which OpenQASM lacks.
    """
    if not isinstance(circuit, Circuit):
        raise TypeError(f"circuit: expected a hqfkernels.Circuit, got {type(circuit).__name__}")
    if version not in _WRITTEN:
        raise ValueError(f"version: must be 3 or 2, got {version!r}")
    circuit = bind(circuit, inputs, weights)
    if any(gate.name == "amplitudes" for gate in circuit.gates):
        raise ValueError(
            "circuit: it starts with amplitudes, which OpenQASM cannot say; to_qiskit can, as a state preparation"
        )
    if version == 2:
        for what, count in (("inputs", circuit.n_inputs), ("weights", circuit.n_weights)):
            if count:
                raise ValueError(f"{what}: OpenQASM 2 has no parameters, so their {count} values must be given")
    lines = (
        ["OPENQASM 3.0;", 'include "stdgates.inc";', *_declarations(circuit), f"qubit[{circuit.n_qubits}] q;"]
        if version == 3
        else ["OPENQASM 2.0;", 'include "qelib1.inc";', f"qreg q[{circuit.n_qubits}];"]
    )
    for gate in circuit.gates:
        operations: Iterable[_Operation] = [(gate.name, gate.angles, gate.qubits)]
        if gate.name == "unitary":
            operations = _rotations(np.reshape(gate.matrix, (2 ** len(gate.qubits), -1)), gate.qubits)
        for operation in operations:
            lines += _lines(operation, version)
    return "\n".join(lines) + "\n"


def _declarations(circuit: Circuit) -> list[str]:
    return [f"input float[64] x{k};" for k in range(circuit.n_inputs)] + [
        f"input float[64] w{k};" for k in range(circuit.n_weights)
    ]


def _rotations(matrix: Any, qubits: tuple[int, ...]) -> list[_Operation]:
    """A constant matrix as rotations."""
    operations: list[_Operation] = []
    for letters, constant in matrix_rotations(matrix):
        acting = tuple(q for letter, q in zip(letters, qubits, strict=True) if letter != "I") if letters != "I" else ()
        kind = letters.replace("I", "").lower()
        operations.append((f"r{kind}" if kind else "gphase", (Angle(constant if kind else -constant / 2),), acting))
    return operations


def _lines(operation: _Operation, version: int) -> list[str]:
    name, angles, qubits = operation
    if name == "gphase":
        return [f"gphase({text_of(angles[0])});"] if version == 3 else []
    if name not in _WRITTEN[version]:
        return [line for part in _expand(name, angles, qubits) for line in _lines(part, version)]
    values = f"({', '.join(map(text_of, angles))})" if angles else ""
    return [f"{_WRITTEN[version][name]}{values} {', '.join(f'q[{q}]' for q in qubits)};"]


# --- reading --------------------------------------------------------------------------------------------------------


def _error(node: Any, message: str) -> ValueError:
    return ValueError(f"qasm: line {node.span.start_line}: {message}" if node.span else f"qasm: {message}")


def _parse(text: str) -> Any:
    try:
        return openqasm3.parse(text)
    except QASM3ParsingError as error:
        cause = error.__cause__
        token = getattr(cause.args[0], "offendingToken", None) if cause is not None and cause.args else None
        where = f"line {token.line}: near {token.text!r}" if token is not None else str(error)
        raise ValueError(f"qasm: {where}: this is not OpenQASM 3 or 2") from error
    except Exception as error:  # what the parser raises of texts that it was not made for, such as an empty one
        raise ValueError(f"qasm: this is not OpenQASM 3 or 2: {type(error).__name__}: {error}") from error


@dataclass(frozen=True)
class _Definition:
    """A gate made of others."""

    angles: tuple[str, ...]
    qubits: tuple[str, ...]
    body: tuple[Any, ...]

    @staticmethod
    def of(node: Any) -> _Definition:
        angles, qubits = (tuple(n.name for n in part) for part in (node.arguments, node.qubits))
        return _Definition(angles, qubits, tuple(node.body))


@lru_cache(maxsize=1)
def _library() -> dict[str, _Definition]:
    return {node.name.name: _Definition.of(node) for node in _parse(_DEFINITIONS).statements}


def _expand(name: str, angles: Sequence[Angle], qubits: Sequence[int]) -> list[_Operation]:
    """The body of a gate of the library, one level down."""
    definition = _library()[name]
    scope = dict(zip(definition.angles, angles, strict=True))
    wires = dict(zip(definition.qubits, qubits, strict=True))
    return [
        (node.name.name, tuple(_value(a, scope) for a in node.arguments), tuple(wires[q.name] for q in node.qubits))
        for node in definition.body
    ]


def _value(node: Any, scope: Mapping[str, Angle]) -> Angle:
    """The value of an expression, affine in the parameters."""
    if isinstance(node, (ast.IntegerLiteral, ast.FloatLiteral)):
        return Angle.of(node.value)
    if isinstance(node, ast.Identifier):
        if node.name in scope:
            return scope[node.name]
        if node.name in _CONSTANTS:
            return Angle(_CONSTANTS[node.name])
        raise _error(node, f"{node.name!r} is not declared")
    if isinstance(node, ast.UnaryExpression) and node.op.name == "-":
        return -_value(node.expression, scope)
    if isinstance(node, ast.FunctionCall) and node.name.name in _FUNCTIONS and len(node.arguments) == 1:
        argument = _constant(_value(node.arguments[0], scope), node, f"the argument of {node.name.name}")
        try:
            return Angle(_FUNCTIONS[node.name.name](argument))
        except (ValueError, OverflowError) as error:
            raise _error(node, f"{node.name.name}({argument}): {error}") from error
    if isinstance(node, ast.BinaryExpression):
        return _binary(node, _value(node.lhs, scope), _value(node.rhs, scope))
    raise _error(node, "an angle must be made of numbers, parameters, + - * / and functions of constants")


def _constant(angle: Angle, node: Any, what: str) -> float:
    if angle.inputs or angle.weights:
        raise _error(node, f"{what} depends on a parameter, but angles must be affine in the parameters")
    return angle.constant


def _binary(node: Any, left: Angle, right: Angle) -> Angle:
    operator = node.op.name
    if operator == "+":
        return left + right
    if operator == "-":
        return left - right
    if operator == "*":
        if left.inputs or left.weights:
            return left * _constant(right, node, "a factor of a parameter")
        return right * left.constant
    if operator == "/":
        divisor = _constant(right, node, "the divisor")
        if not divisor:
            raise _error(node, "an angle is divided by zero")
        return left / divisor
    if operator == "**":
        base, exponent = _constant(left, node, "the base"), _constant(right, node, "the exponent")
        try:
            return Angle(math.pow(base, exponent))
        except (ValueError, OverflowError) as error:
            raise _error(node, f"{base} ** {exponent}: {error}") from error
    raise _error(node, f"operator {operator} is not supported (^ is a power in OpenQASM 2 only; write the product)")


class _Reader:
    """Walks over a program's statements and collects gates.

    Attributes:
        operations: what was read: gates of `hqfkernels.Circuit`.
        n_qubits: how many qubits are declared.
    """

    def __init__(self, parameters: dict[str, Angle]) -> None:
        self.operations: list[_Operation] = []
        self.n_qubits = 0
        self._values = parameters
        self._registers: dict[str, list[int]] = {}
        self._definitions: dict[str, _Definition] = {}
        self._measured: set[int] = set()
        self._n_gates = 0

    def read(self, node: Any) -> None:
        """Takes one statement in."""
        if isinstance(node, ast.Include):
            if node.filename not in ("stdgates.inc", "qelib1.inc"):
                raise _error(
                    node, f"include {node.filename!r}: only stdgates.inc and qelib1.inc are known; paste it in"
                )
        elif isinstance(node, ast.QubitDeclaration):
            size = 1 if node.size is None else self._integer(node.size)
            self._declare(node, node.qubit.name)
            if not 1 <= size <= MAX_QUBITS - self.n_qubits:
                raise _error(
                    node,
                    f"{node.qubit.name}: {size} qubits; a circuit has 1..{MAX_QUBITS}, {self.n_qubits} are declared",
                )
            self._registers[node.qubit.name] = list(range(self.n_qubits, self.n_qubits + size))
            self.n_qubits += size
        elif isinstance(node, ast.ConstantDeclaration):
            self._declare(node, node.identifier.name)
            self._values = {**self._values, node.identifier.name: _value(node.init_expression, self._values)}
        elif isinstance(node, ast.QuantumGateDefinition):
            if node.name.name in self._definitions:
                raise _error(node, f"gate {node.name.name!r} is defined twice; rename one")
            self._definitions[node.name.name] = _Definition.of(node)
        elif isinstance(node, ast.QuantumMeasurementStatement):
            self._measured.update(self._qubits(node.measure.qubit))
        elif isinstance(node, ast.QuantumGate):
            self._call(node)
        elif isinstance(node, ast.QuantumPhase):
            self.operations += self._phase(node, self._values, [])
        elif not (
            isinstance(node, (ast.QuantumBarrier, ast.Pragma))
            or (isinstance(node, ast.ClassicalDeclaration) and isinstance(node.type, ast.BitType))
            or (isinstance(node, ast.IODeclaration) and node.io_identifier == ast.IOKeyword.input)
        ):
            raise _error(node, _ADVICE.get(type(node), f"{type(node).__name__} is no part of a circuit of gates"))

    def _declare(self, node: Any, name: str) -> None:
        if name in self._registers or name in self._values:
            raise _error(node, f"{name!r} is declared twice; rename one")

    def _integer(self, node: Any) -> int:
        value = _constant(_value(node, self._values), node, "an index or size")
        if value != int(value):
            raise _error(node, f"expected an integer, got {value}")
        return int(value)

    def _qubits(self, node: Any) -> list[int]:
        """The qubits that an operand names."""
        name = node.name.name if isinstance(node, ast.IndexedIdentifier) else node.name
        if name not in self._registers:
            raise _error(node, f"qubit register {name!r} is not declared")
        register = self._registers[name]
        if isinstance(node, ast.Identifier):
            return register
        index = node.indices[0][0] if len(node.indices) == 1 and isinstance(node.indices[0], list) else None
        if index is None or len(node.indices[0]) != 1 or isinstance(index, ast.RangeDefinition):
            raise _error(node, f"{name}: name single qubits, {name}[0], or the whole register")
        k = self._integer(index)
        if not -len(register) <= k < len(register):
            raise _error(node, f"{name}[{k}]: the register has {len(register)} qubits")
        return [register[k]]

    def _call(self, node: Any) -> None:
        """A gate on qubits or, element by element, on registers."""
        angles = [_value(a, self._values) for a in node.arguments]
        operands = [self._qubits(q) for q in node.qubits]
        sizes = {len(o) for o in operands if len(o) > 1}
        if len(sizes) > 1:
            raise _error(node, f"{node.name.name}: registers of different sizes {sorted(sizes)}")
        for k in range(max(sizes, default=1)):
            qubits = [o[k] if len(o) > 1 else o[0] for o in operands]
            if touched := self._measured.intersection(qubits):
                raise _error(
                    node,
                    f"{node.name.name} acts on qubit {min(touched)} after its measurement; measure at the end only",
                )
            self.operations += self._modified(node, angles, qubits, self._definitions)

    def _modified(
        self, node: Any, angles: Sequence[Angle], qubits: Sequence[int], definitions: Mapping[str, _Definition]
    ) -> list[_Operation]:
        """A gate with its modifiers; ``definitions`` are the program's own, as far as they can be meant."""
        name, inverse = node.name.name, False
        for modifier in node.modifiers:
            kind = modifier.modifier.name
            if kind == "inv":
                inverse = not inverse
            elif kind == "ctrl":
                count = 1 if modifier.argument is None else self._integer(modifier.argument)
                if count < 1:
                    raise _error(node, f"ctrl({count}) @: expected a positive number of controls")
                for _ in range(count):
                    if name in definitions or name not in _CONTROLLED:
                        raise _error(node, f"ctrl @ {name} is not known; write the controlled gate with known ones")
                    name = _CONTROLLED[name]
            else:
                raise _error(node, f"modifier {kind} @ is not supported; write the gate out")
        operations = self._gate(node, name, angles, qubits, definitions)
        return [part for operation in reversed(operations) for part in _inverted(operation)] if inverse else operations

    def _gate(
        self,
        node: Any,
        name: str,
        angles: Sequence[Angle],
        qubits: Sequence[int],
        definitions: Mapping[str, _Definition],
    ) -> list[_Operation]:
        """What a gate is in gates of `hqfkernels.Circuit`."""
        self._n_gates += 1
        if self._n_gates > MAX_GATES:
            raise _error(node, f"{name}: the program has more than {MAX_GATES} gates, those inside others counted")
        ours = _SAME.get(name, name)
        definition = definitions.get(name)
        if definition is None and ours not in GATES:
            definition, definitions = _library().get(name), {}  # the library's gates are made of the library's
            if definition is None:
                raise _error(
                    node, f"gate {name!r} is not known; define it in the program by gates of the standard library"
                )
        counts = GATES[ours] if definition is None else (len(definition.angles), len(definition.qubits))
        if (len(angles), len(qubits)) != counts:
            raise _error(
                node,
                f"{name} takes {counts[0]} angle(s) and {counts[1]} qubit(s), got {len(angles)} and {len(qubits)}",
            )
        if len(set(qubits)) != len(qubits):
            raise _error(node, f"{name}: its qubits must differ")
        if definition is None:
            return [(ours, tuple(angles), tuple(qubits))]
        scope = self._values | dict(zip(definition.angles, angles, strict=True))
        wires = dict(zip(definition.qubits, qubits, strict=True))
        operations: list[_Operation] = []
        for inner in definition.body:
            if isinstance(inner, ast.QuantumPhase):
                operations += self._phase(inner, scope, qubits)
            elif isinstance(inner, ast.QuantumGate):
                for q in inner.qubits:
                    if not isinstance(q, ast.Identifier) or q.name not in wires:
                        raise _error(inner, f"gate {name} has no qubit of this name")
                values = [_value(a, scope) for a in inner.arguments]
                operations += self._modified(inner, values, [wires[str(q.name)] for q in inner.qubits], definitions)
            elif not isinstance(inner, ast.QuantumBarrier):
                raise _error(inner, _ADVICE.get(type(inner), f"{type(inner).__name__} is no part of a gate"))
        return operations

    def _phase(self, node: Any, scope: Mapping[str, Angle], qubits: Sequence[int]) -> list[_Operation]:
        if node.modifiers:
            raise _error(node, "a controlled or inverted gphase is not supported; write p or cp")
        angle = _value(node.argument, scope)
        on = (qubits or [0])[0]
        return [("rz", (-2 * angle,), (on,)), ("p", (2 * angle,), (on,))]


def _inverted(operation: _Operation) -> list[_Operation]:
    """The inverse of one gate."""
    name, angles, qubits = operation
    if name in ("s", "t", "sdg", "tdg"):
        return [(name[0] if name.endswith("dg") else f"{name}dg", (), qubits)]
    if name == "sx":
        return [("h", (), qubits), ("sdg", (), qubits), ("h", (), qubits)]
    return [(name, tuple(-a for a in reversed(angles)), qubits)]
