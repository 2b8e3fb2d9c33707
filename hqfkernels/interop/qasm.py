"""OpenQASM 3 and 2, in and out: `from_qasm`, `to_qasm`.

Both versions become the syntax tree of the OpenQASM working group (package ``openqasm3``), with line numbers, by its
own parser or by `hqfkernels.interop.qasm2`, so that one walk over the tree serves both. What a program means is what
Qiskit's importers make of it; what they refuse is read where the specification leaves no doubt.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

try:
    from openqasm3 import ast
    from openqasm3 import parser as _parser
    from openqasm3.parser import QASM3ParsingError
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        'hqfkernels.interop.qasm needs the OpenQASM parser: pip install "hqfkernels[qasm]"'
    ) from error

from hqfkernels.circuit import GATES, MAX_QUBITS, Angle, Circuit
from hqfkernels.interop import qasm2
from hqfkernels.interop.parameters import angles_of, bind, text_of
from hqfkernels.program import matrix_rotations

_antlr: Any = _parser
"""What the parser is made of: `openqasm3.parse` itself prints."""

_SAME = {"id": "i", "phase": "p", "u1": "p", "CX": "cx", "cphase": "cp", "cu1": "cp"}
"""OpenQASM name -> gate, where the two differ."""

_DEFINITIONS = """
gate sxdg a { h a; sdg a; h a; }
gate u2(phi, lambda) a { U(pi/2, phi, lambda) a; }
gate u3(theta, phi, lambda) a { U(theta, phi, lambda) a; }
gate u(theta, phi, lambda) a { U(theta, phi, lambda) a; }
gate U(theta, phi, lambda) a { p(lambda) a; ry(theta) a; p(phi) a; }
gate u0(t) a {}
gate ch a, b { ctrl @ h a, b; }
gate csx a, b { ctrl @ sx a, b; }
gate cu(theta, phi, lambda, gamma) a, b { p(gamma) a; ctrl @ U(theta, phi, lambda) a, b; }
gate cu3(theta, phi, lambda) a, b { ctrl @ U(theta, phi, lambda) a, b; }
gate ccx a, b, c { ctrl(2) @ x a, b, c; }
gate ccz a, b, c { ctrl(2) @ z a, b, c; }
gate cswap a, b, c { ctrl @ swap a, b, c; }
gate c3x a, b, c, d { ctrl(3) @ x a, b, c, d; }
gate c3sqrtx a, b, c, d { ctrl(3) @ sx a, b, c, d; }
gate c4x a, b, c, d, e { ctrl(4) @ x a, b, c, d, e; }
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

The first part holds what is left of stdgates.inc and of the longer qelib1.inc that Qiskit writes for. ``U``, ``u2`` and
``u3`` have the phase that Qiskit gives them, which a control makes visible.
"""

_PHASES = """
gate i a {}
gate p(t) a { ctrl @ gphase(t) a; }
gate z a { ctrl @ gphase(pi) a; }
gate s a { ctrl @ gphase(pi/2) a; }
gate sdg a { ctrl @ gphase(-pi/2) a; }
gate t a { ctrl @ gphase(pi/4) a; }
gate tdg a { ctrl @ gphase(-pi/4) a; }
gate x a { h a; ctrl @ gphase(pi) a; h a; }
gate sx a { h a; ctrl @ gphase(pi/2) a; h a; }
gate y a { sdg a; h a; ctrl @ gphase(pi) a; h a; s a; }
gate h a { ry(-pi/4) a; ctrl @ gphase(pi) a; ry(pi/4) a; }
gate rz(t) a { gphase(-t/2); ctrl @ gphase(t) a; }
gate rx(t) a { h a; gphase(-t/2); ctrl @ gphase(t) a; h a; }
gate ry(t) a { sdg a; h a; gphase(-t/2); ctrl @ gphase(t) a; h a; s a; }
gate cp(t) a, b { ctrl(2) @ gphase(t) a, b; }
gate cz a, b { ctrl(2) @ gphase(pi) a, b; }
gate cx a, b { h b; ctrl(2) @ gphase(pi) a, b; h b; }
gate cy a, b { sdg b; h b; ctrl(2) @ gphase(pi) a, b; h b; s b; }
gate swap a, b { cx b, a; h b; ctrl(2) @ gphase(pi) a, b; h b; cx b, a; }
gate crz(t) a, b { ctrl @ gphase(-t/2) a; ctrl(2) @ gphase(t) a, b; }
gate crx(t) a, b { h b; ctrl @ gphase(-t/2) a; ctrl(2) @ gphase(t) a, b; h b; }
gate cry(t) a, b { sdg b; h b; ctrl @ gphase(-t/2) a; ctrl(2) @ gphase(t) a, b; h b; s b; }
gate rzz(t) a, b { cx a, b; gphase(-t/2); ctrl @ gphase(t) b; cx a, b; }
gate rxx(t) a, b { h a; h b; cx a, b; gphase(-t/2); ctrl @ gphase(t) b; cx a, b; h b; h a; }
gate ryy(t) a, b {
  sdg a; sdg b; h a; h b; cx a, b; gphase(-t/2); ctrl @ gphase(t) b; cx a, b; h b; h a; s b; s a;
}
"""
"""Each gate as phases (e^(it) where all of some qubits are in |1>) between gates that undo each other.

To control the gate is to control its phases.
"""

_BOTH = ("x", "y", "z", "h", "s", "sdg", "t", "tdg", "rx", "ry", "rz", "cx", "cy", "cz", "crz")
_WRITTEN: dict[int, dict[str, str]] = {
    2: {"i": "id", "p": "u1", "cp": "cu1", **{name: name for name in _BOTH}},
    3: {"i": "id", **{name: name for name in (*_BOTH, "sx", "p", "swap", "crx", "cry", "cp")}},
}
"""The gates of stdgates.inc, and of qelib1.inc as the paper on OpenQASM 2 has it (arXiv 1707.03429)."""

_CONTROLLED = {name: f"c{name}" for name in ("x", "y", "z", "rx", "ry", "rz", "p")}
"""Gates whose controlled gate is one of `hqfkernels.Circuit`."""

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
    "floor": lambda x: float(math.floor(x)),
    "ceiling": lambda x: float(math.ceil(x)),
}
_ADVICE = {
    ast.ForInLoop: "a for loop: unroll it first",
    ast.WhileLoop: "a while loop: its length depends on measurements",
    ast.BranchingStatement: "if: the circuit would depend on a measurement or a value; write one circuit for each case",
    ast.QuantumReset: "reset: it is no unitary gate; take a fresh qubit",
    ast.SubroutineDefinition: "def: write a gate instead of a subroutine",
    ast.Box: "box: write its gates without it",
    ast.CompoundStatement: "{: write the statements of the block without it",
    ast.EndStatement: "end: leave out what follows it",
    ast.ClassicalAssignment: "an assignment: values cannot change; declare a const",
    ast.ExternDeclaration: "extern: only functions of the language are known",
    ast.IODeclaration: "output: only input float and input angle parameters are read",
    qasm2.Opaque: "opaque: the gate has no definition; write one with gate",
}

MAX_GATES = 100_000
"""Longer programs are refused: a few lines of gates made of gates can say more than any memory holds."""

_Operation = tuple[str, tuple[Angle, ...], tuple[int, ...]]


def from_qasm(text: str, inputs: Sequence[str] | None = None, weights: Sequence[str] | None = None) -> Circuit:
    """Reads an OpenQASM 3 or OpenQASM 2 program.

    Qubits are numbered in the order of their declaration. Parameters are OpenQASM 3's ``input float`` and ``input
    angle``; angles must be affine in them. OpenQASM 2 has no parameters. The circuit measures Z on every qubit, as
    always by default; measurements at the end of the program say nothing else, and barriers and delays nothing.

    Numbers mean what the version says: 1/2 is 0.5 in OpenQASM 2 and, between integers, 0 in OpenQASM 3. A value of type
    ``angle`` is a real number, as in Qiskit: it does not wrap at 2 pi. ``U``, ``u2`` and ``u3`` have the global phase
    that Qiskit gives them, which a control makes visible.

    Args:
        text: the program. One that does not say its version is OpenQASM 3, unless it is OpenQASM 2 alone.
        inputs: names of the parameters that become inputs, in this order.
        weights: names of those that become weights. If one of the two is left out, it is all others, in order of
            declaration; if both are, ``x0``, ``w0``, ... (as `to_qasm` writes them) are what they say. If no name is of
            this kind, all parameters are weights, which a UserWarning says.

    Raises:
        TypeError: if ``text`` is no string.
        ValueError: for a program that is no circuit of known gates: syntax errors, loops, conditions, resets, gates
            after a measurement, unknown gates, with the line; for expressions that are not affine, not finite, or read
            in more than one way; for parameter names that clash, and if some say what they are and others do not.
    """
    if not isinstance(text, str):
        raise TypeError(f"text: expected an OpenQASM program as a string, got {type(text).__name__}")
    programs = _programs(text)
    angles = angles_of(_parameters(programs[0]), inputs, weights)
    first, *others = (_circuit(program, angles) for program in programs)
    if others and others[0] != first:
        raise ValueError(
            "qasm: the program does not say its version, and OpenQASM 2 and 3 give it different angles, such as 0.5"
            " and 0 for 1/2; start it with OPENQASM 2.0; or OPENQASM 3.0;"
        )
    return first


def _programs(text: str) -> list[Any]:
    """The syntax tree of the program, or two where it does not say its version and may be of either."""
    header = _HEADER.match(text)
    if header is None and _REGISTER.search(text):
        programs = []
        for parse in (_parse, qasm2.parse):
            with contextlib.suppress(ValueError):
                programs.append(parse(text))
        return programs or [_parse(text)]
    if header is None or header[1].partition(".")[0] == "3":
        return [_parse(text)]
    if header[1] in ("2", "2.0"):
        return [qasm2.parse(text)]
    raise ValueError(f"qasm: OPENQASM {header[1]}: only versions 2.0 and 3 are read")


_HEADER = re.compile(r"(?:\s|//[^\n]*\n|/\*(?:[^*]|\*(?!/))*\*/)*OPENQASM\s+([\d.]+)")
_REGISTER = re.compile(r"\bqreg\b")
"""How qubits are declared in OpenQASM 2. OpenQASM 3 allows it too."""


def _parameters(program: Any) -> list[str]:
    names: list[str] = []
    for statement in program.statements:
        if isinstance(statement, ast.IODeclaration) and statement.io_identifier == ast.IOKeyword.input:
            if not isinstance(statement.type, (ast.FloatType, ast.AngleType)):
                raise _error(statement, f"input {statement.identifier.name!r} is neither float nor angle")
            if statement.identifier.name in names:
                raise _error(statement, f"input {statement.identifier.name!r} is declared twice; rename one")
            names.append(statement.identifier.name)
    for statement in program.statements:
        if isinstance(statement, ast.QubitDeclaration) and statement.qubit.name in names:
            raise _error(statement, f"{statement.qubit.name!r} is declared twice; rename one")
    return names


def _circuit(program: Any, parameters: Mapping[str, Angle]) -> Circuit:
    reader = _Reader(parameters)
    for statement in program.statements:
        try:
            reader.read(statement)
        except RecursionError:
            raise _error(statement, "a gate is defined by itself") from None
    if not reader.n_qubits:
        raise ValueError("qasm: the program declares no qubits")
    circuit = Circuit(reader.n_qubits)
    for name, angles, qubits in reader.operations:
        if name == "gphase":
            circuit.rz(-2 * angles[0], 0).p(2 * angles[0], 0)
        else:
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


class _Listener(_antlr.ErrorListener):  # type: ignore[misc]
    """Raises what is no token, where the default prints it and goes on."""

    def syntaxError(self, recognizer: Any, symbol: Any, line: int, column: int, message: str, error: Any) -> None:
        raise ValueError(f"qasm: line {line}: {message}: this is not OpenQASM 3")


_SET_OF_QUBITS = re.compile(r"(\blet\s+\w+\s*=\s*)\{([^{}]*)\}(\s*;)")
"""``let r = {q[1], q[0]};``, as Qiskit writes it, which the specification has as ``let r = q[1] ++ q[0];``."""


def _parse(text: str) -> Any:
    """OpenQASM 3 as a syntax tree: `openqasm3.parse` without what it prints."""
    text = _SET_OF_QUBITS.sub(lambda match: match[1] + match[2].replace(",", " ++ ") + match[3], text)
    lexer = _antlr.qasm3Lexer(_antlr.InputStream(text))
    parser = _antlr.qasm3Parser(_antlr.CommonTokenStream(lexer))
    lexer.removeErrorListeners()
    lexer.addErrorListener(_Listener())
    parser.removeErrorListeners()
    parser._errHandler = _antlr.BailErrorStrategy()
    try:
        return _antlr.QASMNodeVisitor().visitProgram(parser.program())
    except _antlr.ParseCancellationException as error:
        token = error.args[0].offendingToken
        raise ValueError(f"qasm: line {token.line}: near {token.text!r}: this is not OpenQASM 3") from error
    except QASM3ParsingError as error:
        line, _, message = str(error).removeprefix("L").partition(": ")
        raise ValueError(f"qasm: line {line.partition(':')[0]}: {message}: this is not OpenQASM 3") from error
    except RecursionError:
        raise ValueError("qasm: an expression or a block is nested too deeply") from None
    except (AttributeError, KeyError, TypeError) as error:  # of texts that the tree's builder was not made for
        raise ValueError("qasm: this is not OpenQASM 3") from error


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


@lru_cache(maxsize=2)
def _library(text: str) -> dict[str, _Definition]:
    return {node.name.name: _Definition.of(node) for node in _parse(text).statements}


def _expand(name: str, angles: Sequence[Angle], qubits: Sequence[int], text: str = _DEFINITIONS) -> list[_Operation]:
    """The body of a gate of the library, one level down; of a phase, the qubits are those that it asks for."""
    definition = _library(text)[name]
    scope = dict(zip(definition.angles, angles, strict=True))
    wires = dict(zip(definition.qubits, qubits, strict=True))
    return [
        (
            "gphase" if isinstance(node, ast.QuantumPhase) else node.name.name,
            tuple(_angle(a, scope) for a in _arguments(node)),
            tuple(wires[q.name] for q in node.qubits),
        )
        for node in definition.body
    ]


def _arguments(node: Any) -> list[Any]:
    return [node.argument] if isinstance(node, ast.QuantumPhase) else node.arguments


# --- expressions ----------------------------------------------------------------------------------------------------

_Value = bool | int | float | Angle
"""What an expression is worth: int and uint are int, float and angle are float, and `Angle` has parameters."""

_MADE_OF = "an angle must be made of numbers, parameters, + - * / % ** and functions of constants"


def _angle(node: Any, scope: Mapping[str, _Value]) -> Angle:
    """The value of an expression, affine in the parameters."""
    try:
        return Angle.of(_number(_value(node, scope), node))
    except ValueError as error:
        raise _located(error, node) from error


def _located(error: Exception, node: Any) -> ValueError:
    """An error as one of the node, unless it is that of a part of the node."""
    return error if str(error).startswith("qasm: ") and isinstance(error, ValueError) else _error(node, str(error))


def _value(node: Any, scope: Mapping[str, _Value]) -> _Value:
    if isinstance(node, (ast.IntegerLiteral, ast.FloatLiteral, ast.BooleanLiteral)):
        return _finite(node.value, node)
    if isinstance(node, ast.Identifier):
        if node.name in scope:
            return scope[node.name]
        if node.name in _CONSTANTS:
            return _CONSTANTS[node.name]
        raise _error(node, f"{node.name!r} is not declared")
    if isinstance(node, ast.UnaryExpression) and node.op.name == "-":
        return -_number(_value(node.expression, scope), node)
    if isinstance(node, ast.BinaryExpression):
        left, right = (_number(_value(side, scope), node) for side in (node.lhs, node.rhs))
        return _computed(node, lambda: _binary(node, left, right))
    if isinstance(node, ast.FunctionCall):
        arguments = [_number(_value(argument, scope), node) for argument in node.arguments]
        return _computed(node, lambda: _called(node, arguments))
    if isinstance(node, ast.Cast):
        return _cast(node.type, node.argument, scope, node)
    raise _error(node, _MADE_OF)


def _finite(value: Any, node: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        raise _error(node, f"a constant must be finite, and this is {value}")
    return value


def _computed(node: Any, compute: Callable[[], _Value]) -> _Value:
    try:
        return _finite(compute(), node)
    except (ValueError, OverflowError) as error:
        raise _located(error, node) from error


def _number(value: _Value, node: Any) -> int | float | Angle:
    if isinstance(value, bool):
        raise _error(node, f"{_MADE_OF}; of true and false, write int(...) or float(...)")
    return value


def _constant(value: _Value, node: Any, what: str) -> int | float:
    if isinstance(value, Angle):
        if value.inputs or value.weights:
            raise _error(node, f"{what} depends on a parameter, but angles must be affine in the parameters")
        return value.constant
    return value


def _binary(node: Any, left: int | float | Angle, right: int | float | Angle) -> _Value:
    operator = node.op.name
    if operator == "+":
        return left + right
    if operator == "-":
        return left - right
    if operator == "*":
        if isinstance(left, Angle):
            return left * _constant(right, node, "a factor of a parameter")
        return left * right
    if operator == "/":
        divisor = _constant(right, node, "the divisor")
        if not divisor:
            raise _error(node, "an angle is divided by zero")
        if isinstance(left, int) and isinstance(divisor, int):
            if left % divisor and (left < 0) != (divisor < 0):
                raise _error(
                    node,
                    f"{left} / {divisor} is a division of integers, whose negative result is rounded down by some and "
                    f"towards zero by others; for a real division write {left}.0 / {divisor}",
                )
            return left // divisor
        return left / divisor
    if operator == "%":
        values = [_constant(side, node, "an operand of %") for side in (left, right)]
        if not all(isinstance(value, int) for value in values):
            raise _error(node, "% takes integers; for others use mod(a, b)")
        return _remainder(*values)
    if operator == "**":
        return _power(_constant(left, node, "the base"), _constant(right, node, "the exponent"))
    raise _error(
        node,
        f"operator {operator} is not supported"
        + (" (^ is a power in OpenQASM 2 only; write the product)" if operator == "^" else ""),
    )


def _power(base: int | float, exponent: int | float) -> int | float:
    if isinstance(base, int) and isinstance(exponent, int) and exponent < 0:
        raise ValueError(f"{base} ** {exponent} is a negative power of an integer; for a real power write {base}.0")
    try:
        power = math.pow(base, exponent)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{float(base)} ** {float(exponent)}: {error}") from error
    return base**exponent if isinstance(base, int) and isinstance(exponent, int) else power


def _remainder(left: int | float, right: int | float) -> int | float:
    if not right:
        raise ValueError("the remainder of a division by zero")
    if left < 0 or right < 0:
        raise ValueError(f"the remainder of {left} and {right}: OpenQASM does not say what it is for negative numbers")
    return left % right if isinstance(left, int) and isinstance(right, int) else math.fmod(left, right)


def _called(node: Any, arguments: Sequence[int | float | Angle]) -> _Value:
    """A function of constants."""
    name = node.name.name
    count = 2 if name == "mod" else 1
    if name != "mod" and name not in _FUNCTIONS:
        raise _error(node, f"function {name} is not supported, only mod, {', '.join(_FUNCTIONS)}")
    if len(arguments) != count:
        raise _error(node, f"{name} takes {count} argument(s), got {len(arguments)}")
    values = [_constant(argument, node, f"the argument of {name}") for argument in arguments]
    if name == "mod":
        return _remainder(*values)
    try:
        return _FUNCTIONS[name](float(values[0]))
    except (ValueError, OverflowError) as error:
        raise _error(node, f"{name}({values[0]}): {error}") from error


def _cast(kind: Any, expression: Any, scope: Mapping[str, _Value], node: Any, declared: bool = False) -> _Value:
    """A value as one of another type: by a cast, or (``declared``) as that of a constant."""
    name = type(kind).__name__.removesuffix("Type").lower()
    if not isinstance(kind, (ast.BoolType, ast.IntType, ast.UintType, ast.FloatType, ast.AngleType)):
        raise _error(node, f"constants and casts of type {name} are not supported")
    value = _value(expression, scope)
    designator = getattr(kind, "size", None)
    size = None if designator is None else _integer(designator, scope)
    if isinstance(kind, (ast.FloatType, ast.AngleType)):
        if size is not None and size < 32:
            raise _error(node, f"{name}[{size}]: rounding to less than 32 bits is not supported")
        if isinstance(value, Angle):
            return value
        if isinstance(kind, ast.AngleType) and (isinstance(value, bool) or not 0 <= value < math.tau):
            raise _error(node, f"{value} is no angle from 0 to 2 pi, where OpenQASM 3 would wrap it; make it a float")
        return _computed(node, lambda: float(value))
    constant = _constant(value, node, f"a value of type {name}")
    if isinstance(kind, ast.BoolType):
        return constant != 0
    whole = math.trunc(constant)
    bits = 64 if size is None else size
    low, high = (0, 1 << bits) if isinstance(kind, ast.UintType) else (-1 << bits - 1, 1 << bits - 1)
    if not low <= whole < high or (declared and whole != constant):
        raise _error(node, f"{constant} is no {name}" + (f"[{size}]" if size is not None else ""))
    return whole


def _integer(node: Any, scope: Mapping[str, _Value]) -> int:
    value = _constant(_number(_value(node, scope), node), node, "an index or size")
    if value != int(value):
        raise _error(node, f"expected an integer, got {value}")
    return int(value)


# --- statements -----------------------------------------------------------------------------------------------------


class _Reader:
    """Walks over a program's statements and collects gates.

    Attributes:
        operations: what was read: gates of `hqfkernels.Circuit`, and ``gphase``.
        n_qubits: how many qubits are declared.
    """

    def __init__(self, parameters: Mapping[str, Angle]) -> None:
        self.operations: list[_Operation] = []
        self.n_qubits = 0
        self._values: Mapping[str, _Value] = parameters
        self._registers: dict[str, int | list[int]] = {}
        self._bits: set[str] = set()
        self._hardware = False
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
            self._declare_qubits(node)
        elif isinstance(node, ast.ConstantDeclaration):
            self._declare(node, node.identifier.name)
            value = _cast(node.type, node.init_expression, self._values, node, declared=True)
            self._values = {**self._values, node.identifier.name: value}
        elif isinstance(node, ast.ClassicalDeclaration) and isinstance(node.type, ast.BitType):
            self._declare(node, node.identifier.name)
            self._bits.add(node.identifier.name)
            if isinstance(node.init_expression, ast.QuantumMeasurement):
                self._measure(node.init_expression)
        elif isinstance(node, ast.AliasStatement):
            self._alias(node)
        elif isinstance(node, ast.QuantumGateDefinition):
            if node.name.name in self._definitions:
                raise _error(node, f"gate {node.name.name!r} is defined twice; rename one")
            self._definitions[node.name.name] = _Definition.of(node)
        elif isinstance(node, ast.QuantumMeasurementStatement):
            if node.target is not None:
                name = getattr(node.target.name, "name", node.target.name)
                if name not in self._bits:
                    raise _error(node, f"bit register {name!r} is not declared")
            self._measure(node.measure)
        elif isinstance(node, (ast.QuantumGate, ast.QuantumPhase)):
            self._call(node)
        elif isinstance(node, (ast.QuantumBarrier, ast.DelayInstruction)):
            for operand in node.qubits:
                self._qubits(operand)
        elif not (
            isinstance(node, ast.Pragma)
            or (
                isinstance(node, ast.ClassicalDeclaration)
                and isinstance(node.type, (ast.DurationType, ast.StretchType))
            )
            or (isinstance(node, ast.IODeclaration) and node.io_identifier == ast.IOKeyword.input)
        ):
            raise _error(node, _ADVICE.get(type(node), f"{type(node).__name__} is no part of a circuit of gates"))

    def _declare(self, node: Any, name: str) -> None:
        if name in self._registers or name in self._values or name in self._bits:
            raise _error(node, f"{name!r} is declared twice; rename one")

    def _declare_qubits(self, node: Any) -> None:
        name = node.qubit.name
        self._declare(node, name)
        if self._hardware:
            raise _error(node, f"{name}: the program has hardware qubits such as $0 already; it can have one kind only")
        size = 1 if node.size is None else _integer(node.size, self._values)
        if not 1 <= size <= MAX_QUBITS - self.n_qubits:
            raise _error(node, f"{name}: {size} qubits; a circuit has 1..{MAX_QUBITS}, {self.n_qubits} are declared")
        first, self.n_qubits = self.n_qubits, self.n_qubits + size
        self._registers[name] = first if node.size is None else list(range(first, self.n_qubits))

    def _named(self, node: Any) -> int | list[int]:
        """A qubit, or the qubits of a register or an alias."""
        name = node.name
        if not name.startswith("$"):
            if name not in self._registers:
                raise _error(node, f"qubit register {name!r} is not declared")
            return self._registers[name]
        k = int(name[1:])
        if self.n_qubits and not self._hardware:
            raise _error(node, f"{name}: the program declares qubits, and can have one kind only")
        if k >= MAX_QUBITS:
            raise _error(node, f"{name}: a circuit has 1..{MAX_QUBITS} qubits")
        self._hardware = True
        self.n_qubits = max(self.n_qubits, k + 1)  # those before it are there as well
        return k

    def _selected(self, name: str, found: int | list[int], index: Any, node: Any) -> int | list[int]:
        """One of the qubits of a register, or several by a range or a set."""
        register = [found] if isinstance(found, int) else found

        def element(k: int) -> int:
            if not -len(register) <= k < len(register):
                raise _error(node, f"{name}[{k}]: the register has {len(register)} qubits")
            return register[k]

        if isinstance(index, ast.DiscreteSet):
            return [element(_integer(value, self._values)) for value in index.values]
        if len(index) != 1:
            raise _error(node, f"{name}: a register has one index")
        if not isinstance(index[0], ast.RangeDefinition):
            return element(_integer(index[0], self._values))
        bounds, default = (index[0].start, index[0].step, index[0].end), (0, 1, len(register) - 1)
        start, step, end = (
            d if bound is None else _integer(bound, self._values) for bound, d in zip(bounds, default, strict=True)
        )
        if min(start, end) < 0 or not step:
            raise _error(node, f"{name}[{start}:{step}:{end}]: what it means is not settled; count from 0")
        chosen = range(start, end + (1 if step > 0 else -1), step)
        if not chosen:
            raise _error(node, f"{name}[{start}:{step}:{end}]: there are no qubits in this range")
        return [element(k) for k in chosen]

    def _operand(self, node: Any) -> int | list[int]:
        """The qubit that an operand names, or those of a whole register."""
        if isinstance(node, ast.Identifier):
            return self._named(node)
        found = self._named(node.name)
        for index in node.indices:
            found = self._selected(node.name.name, found, index, node)
        if not isinstance(found, int):
            raise _error(node, f"{node.name.name}: name single qubits, {node.name.name}[0], or the whole register")
        return found

    def _qubits(self, node: Any) -> list[int]:
        found = self._operand(node)
        return [found] if isinstance(found, int) else found

    def _alias(self, node: Any) -> None:
        name = node.target.name
        self._declare(node, name)
        named = list(_identifiers(node.value))
        if named and all(identifier.name in self._bits for identifier in named):
            self._bits.add(name)
            return
        found = self._aliased(node.value)
        if not isinstance(found, int) and len(set(found)) != len(found):
            raise _error(node, f"let {name}: its qubits must differ")
        self._registers[name] = found

    def _aliased(self, node: Any) -> int | list[int]:
        if isinstance(node, ast.Identifier):
            return self._named(node)
        if isinstance(node, ast.IndexExpression):
            name = getattr(node.collection, "name", "let")
            return self._selected(name, self._aliased(node.collection), node.index, node)
        if isinstance(node, ast.Concatenation):
            sides = (self._aliased(node.lhs), self._aliased(node.rhs))
            return [q for side in sides for q in ([side] if isinstance(side, int) else side)]
        raise _error(node, "let: name qubits, such as q, q[0], q[0:2], q[{0, 2}], or some of them joined by ++")

    def _measure(self, node: Any) -> None:
        self._measured.update(self._qubits(node.qubit))

    def _call(self, node: Any) -> None:
        """A gate on qubits or, element by element, on registers."""
        name = _name(node)
        angles = [_angle(a, self._values) for a in _arguments(node)]
        operands = [self._operand(q) for q in node.qubits]
        sizes = {len(o) for o in operands if not isinstance(o, int)}
        if len(sizes) > 1:
            raise _error(node, f"{name}: registers of different sizes {sorted(sizes)}")
        for k in range(max(sizes, default=1)):
            qubits = [o if isinstance(o, int) else o[k] for o in operands]
            if touched := self._measured.intersection(qubits):
                raise _error(
                    node, f"{name} acts on qubit {min(touched)} after its measurement; measure at the end only"
                )
            self.operations += self._modified(node, angles, qubits, self._definitions, self._values)

    def _modified(
        self,
        node: Any,
        angles: Sequence[Angle],
        qubits: Sequence[int],
        definitions: Mapping[str, _Definition],
        scope: Mapping[str, _Value],
    ) -> list[_Operation]:
        """A gate with its modifiers; ``definitions`` are the program's own, as far as they can be meant."""
        modifiers: list[tuple[str, int, Sequence[int]]] = []
        first = 0  # the first qubit behind the controls, of which the leftmost modifier has the first
        for modifier in node.modifiers:
            kind, count = modifier.modifier.name, 1
            if modifier.argument is not None:
                value = _constant(_number(_value(modifier.argument, scope), node), node, f"the argument of {kind}")
                count = int(value)
                if value != count or (kind != "pow" and count < 1):
                    raise _error(node, f"{kind}({value}) @: expected a{' positive' * (kind != 'pow')} whole number")
            controls = qubits[first : first + count] if kind in ("ctrl", "negctrl") else ()
            if controls != () and len(controls) != count:
                raise _error(node, f"{kind}({count}) @ {_name(node)}: there are too few qubits")
            first += len(controls)
            modifiers.append((kind, count, controls))
        operations = self._gate(node, angles, qubits[first:], definitions)
        if len(set(qubits)) != len(qubits):
            raise _error(node, f"{_name(node)}: its qubits must differ")
        for kind, count, controls in reversed(modifiers):
            if kind == "inv" or count < 0:
                operations = [part for operation in reversed(operations) for part in _inverted(operation)]
            if kind == "pow":
                self._spend(node, len(operations) * abs(count))
                operations *= abs(count)
            elif controls:
                self._spend(node, len(operations) << min(count, 32))
                operations = [part for operation in operations for part in _controlled(operation, controls)]
                if kind == "negctrl":
                    flips: list[_Operation] = [("x", (), (q,)) for q in controls]
                    operations = [*flips, *operations, *flips]
        return operations

    def _spend(self, node: Any, count: int) -> None:
        self._n_gates += count
        if self._n_gates > MAX_GATES:
            raise _error(
                node, f"{_name(node)}: the program has more than {MAX_GATES} gates, those inside others counted"
            )

    def _gate(
        self, node: Any, angles: Sequence[Angle], qubits: Sequence[int], definitions: Mapping[str, _Definition]
    ) -> list[_Operation]:
        """What a gate is in gates of `hqfkernels.Circuit`, its modifiers aside."""
        name = _name(node)
        self._spend(node, 1)
        ours = _SAME.get(name, name)
        definition = definitions.get(name)
        if definition is None and ours not in GATES and ours != "gphase":
            definition, definitions = _library(_DEFINITIONS).get(name), {}  # made of the library's gates
            if definition is None:
                raise _error(
                    node, f"gate {name!r} is not known; define it in the program by gates of the standard library"
                )
        counts = (1, 0) if ours == "gphase" else GATES.get(ours, (0, 0))
        if definition is not None:
            counts = (len(definition.angles), len(definition.qubits))
        if (len(angles), len(qubits)) != counts:
            raise _error(
                node,
                f"{name} takes {counts[0]} angle(s) and {counts[1]} qubit(s), got {len(angles)} and {len(qubits)}",
            )
        if definition is None:
            return [(ours, tuple(angles), tuple(qubits))]
        scope = {**self._values, **dict(zip(definition.angles, map(_plain, angles), strict=True))}
        wires = dict(zip(definition.qubits, qubits, strict=True))
        operations: list[_Operation] = []
        for inner in definition.body:
            if isinstance(inner, (ast.QuantumGate, ast.QuantumPhase)):
                for q in inner.qubits:
                    if not isinstance(q, ast.Identifier) or q.name not in wires:
                        raise _error(inner, f"gate {name} has no qubit of this name")
                values = [_angle(a, scope) for a in _arguments(inner)]
                operations += self._modified(
                    inner, values, [wires[str(q.name)] for q in inner.qubits], definitions, scope
                )
            elif not isinstance(inner, (ast.QuantumBarrier, ast.DelayInstruction)):
                raise _error(inner, _ADVICE.get(type(inner), f"{type(inner).__name__} is no part of a gate"))
        return operations


def _identifiers(node: Any) -> Iterable[Any]:
    """The registers that an alias is made of."""
    if isinstance(node, ast.IndexExpression):
        yield from _identifiers(node.collection)
    elif isinstance(node, ast.Concatenation):
        yield from itertools.chain(_identifiers(node.lhs), _identifiers(node.rhs))
    elif isinstance(node, ast.Identifier):
        yield node


def _name(node: Any) -> str:
    return "gphase" if isinstance(node, ast.QuantumPhase) else str(node.name.name)


def _plain(angle: Angle) -> _Value:
    """An angle within a gate, where it is a real number even if the gate was called with an integer."""
    return angle if angle.inputs or angle.weights else angle.constant


def _inverted(operation: _Operation) -> list[_Operation]:
    """The inverse of one gate."""
    name, angles, qubits = operation
    if name in ("s", "t", "sdg", "tdg"):
        return [(name[0] if name.endswith("dg") else f"{name}dg", (), qubits)]
    if name == "sx":
        return [("h", (), qubits), ("sdg", (), qubits), ("h", (), qubits)]
    return [(name, tuple(-a for a in reversed(angles)), qubits)]


def _controlled(operation: _Operation, controls: Sequence[int]) -> list[_Operation]:
    """A gate that acts where all controls are in ``|1>``."""
    name, angles, qubits = operation
    if name == "gphase":
        return _phase(angles[0], (*controls, *qubits))
    if len(controls) == 1 and name in _CONTROLLED:
        return [(_CONTROLLED[name], angles, (*controls, *qubits))]
    if name == "rot":
        return [part for inner in _expand(name, angles, qubits) for part in _controlled(inner, controls)]
    return [
        part
        for inner in _expand(name, angles, qubits, _PHASES)
        for part in (_controlled(inner, controls) if inner[0] == "gphase" else [inner])
    ]


def _phase(angle: Angle, qubits: tuple[int, ...]) -> list[_Operation]:
    """``exp(i angle)`` where all qubits are in ``|1>``.

    The product of n bits is the sum, over all non-empty sets of them, of their parity times plus or minus
    ``2 ** (1 - n)``: a phase each. For each last qubit, the sets go through a Gray code, one CNOT apart.
    """
    if angle == Angle(math.pi) and len(qubits) == 2:
        return [("cz", (), qubits)]
    if len(qubits) <= 2:
        return [(("gphase", "p", "cp")[len(qubits)], (angle,), qubits)]
    part = angle / 2 ** (len(qubits) - 1)
    operations: list[_Operation] = []
    for last, target in enumerate(qubits):
        operations.append(("p", (part,), (target,)))
        for step in range(1, 1 << last):
            changed = (step & -step).bit_length() - 1
            sign = (-1) ** (step ^ step >> 1).bit_count()
            operations += [("cx", (), (qubits[changed], target)), ("p", (sign * part,), (target,))]
        if last:
            operations.append(("cx", (), (qubits[last - 1], target)))
    return operations
