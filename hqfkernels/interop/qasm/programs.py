"""Programs in and out.

Both versions of the language become the syntax tree of the OpenQASM working group (package ``openqasm3``), with line
numbers, in `version3` by its own parser and in `version2` by ours, so that one walk over the tree serves both. What a
program means is what Qiskit's importers make of it; what they refuse is read where the specification leaves no doubt.
"""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from openqasm3 import ast

from hqfkernels.circuit import GATES, MAX_QUBITS, Angle, Circuit
from hqfkernels.interop.parameters import angles_of, bind, text_of
from hqfkernels.interop.qasm import version2, version3
from hqfkernels.interop.qasm.gates import (
    DEFINITIONS,
    Definition,
    Operation,
    arguments_of,
    controlled,
    expand,
    inverted,
    library,
)
from hqfkernels.interop.qasm.values import (
    Value,
    angle_value,
    cast,
    constant_value,
    integer_value,
    number_value,
    value_of,
)
from hqfkernels.interop.qasm.version3 import error_at
from hqfkernels.program import matrix_rotations

_SAME = {"id": "i", "phase": "p", "u1": "p", "CX": "cx", "cphase": "cp", "cu1": "cp"}
"""OpenQASM name -> gate, where the two differ."""

_BOTH = ("x", "y", "z", "h", "s", "sdg", "t", "tdg", "rx", "ry", "rz", "cx", "cy", "cz", "crz")
_WRITTEN: dict[int, dict[str, str]] = {
    2: {"i": "id", "p": "u1", "cp": "cu1", **{name: name for name in _BOTH}},
    3: {"i": "id", **{name: name for name in (*_BOTH, "sx", "p", "swap", "crx", "cry", "cp")}},
}
"""The gates of stdgates.inc, and of qelib1.inc as the paper on OpenQASM 2 has it (arXiv 1707.03429)."""

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
    version2.Opaque: "opaque: the gate has no definition; write one with gate",
}

MAX_GATES = 100_000
"""Longer programs are refused: a few lines of gates made of gates can say more than any memory holds."""


def from_qasm(text: str, inputs: Sequence[str] | None = None, weights: Sequence[str] | None = None) -> Circuit:
    """Reads an OpenQASM 3 or OpenQASM 2 program.

    Qubits are numbered in the order of their declaration. Parameters are OpenQASM 3's ``input float`` and ``input
    angle``; angles must be affine in them. OpenQASM 2 has no parameters. The circuit measures Z on every qubit, as
    always by default; measurements at the end of the program say nothing else, and barriers and delays nothing.

    Numbers mean what the version says: 1/2 is 0.5 in OpenQASM 2 and, between integers, 0 in OpenQASM 3. A value of type
    ``angle`` is a real number, as in Qiskit: it does not wrap at 2 pi. ``U``, ``u2`` and ``u3`` have the global phase
    that Qiskit gives them, which a control makes visible.

    Args:
        text: the program. One that does not say its version may be of either; if it is of both, they must agree on it.
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
        for parse in (version3.parse, version2.parse):
            with contextlib.suppress(ValueError):
                programs.append(parse(text))
        return programs or [version3.parse(text)]
    if header is None or header[1].partition(".")[0] == "3":
        return [version3.parse(text)]
    if header[1] in ("2", "2.0"):
        return [version2.parse(text)]
    raise ValueError(f"qasm: OPENQASM {header[1]}: only versions 2.0 and 3 are read")


_HEADER = re.compile(r"(?:\s|//[^\n]*\n|/\*(?:[^*]|\*(?!/))*\*/)*OPENQASM\s+([\d.]+)")
_REGISTER = re.compile(r"\bqreg\b")
"""How qubits are declared in OpenQASM 2. OpenQASM 3 allows it too."""


def _parameters(program: Any) -> list[str]:
    names: list[str] = []
    for statement in program.statements:
        if isinstance(statement, ast.IODeclaration) and statement.io_identifier == ast.IOKeyword.input:
            if not isinstance(statement.type, (ast.FloatType, ast.AngleType)):
                raise error_at(statement, f"input {statement.identifier.name!r} is neither float nor angle")
            if statement.identifier.name in names:
                raise error_at(statement, f"input {statement.identifier.name!r} is declared twice; rename one")
            names.append(statement.identifier.name)
    for statement in program.statements:
        if isinstance(statement, ast.QubitDeclaration) and statement.qubit.name in names:
            raise error_at(statement, f"{statement.qubit.name!r} is declared twice; rename one")
    return names


def _circuit(program: Any, parameters: Mapping[str, Angle]) -> Circuit:
    reader = _Reader(parameters)
    for statement in program.statements:
        try:
            reader.read(statement)
        except RecursionError:
            raise error_at(statement, "a gate is defined by itself, or an expression is too long") from None
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
        operations: Iterable[Operation] = [(gate.name, gate.angles, gate.qubits)]
        if gate.name == "unitary":
            operations = _rotations(np.reshape(gate.matrix, (2 ** len(gate.qubits), -1)), gate.qubits)
        for operation in operations:
            lines += _lines(operation, version)
    return "\n".join(lines) + "\n"


def _declarations(circuit: Circuit) -> list[str]:
    return [f"input float[64] x{k};" for k in range(circuit.n_inputs)] + [
        f"input float[64] w{k};" for k in range(circuit.n_weights)
    ]


def _rotations(matrix: Any, qubits: tuple[int, ...]) -> list[Operation]:
    """A constant matrix as rotations."""
    operations: list[Operation] = []
    for letters, constant in matrix_rotations(matrix):
        acting = tuple(q for letter, q in zip(letters, qubits, strict=True) if letter != "I") if letters != "I" else ()
        kind = letters.replace("I", "").lower()
        operations.append((f"r{kind}" if kind else "gphase", (Angle(constant if kind else -constant / 2),), acting))
    return operations


def _lines(operation: Operation, version: int) -> list[str]:
    name, angles, qubits = operation
    if name == "gphase":
        return [f"gphase({text_of(angles[0])});"] if version == 3 else []
    if name not in _WRITTEN[version]:
        return [line for part in expand(name, angles, qubits) for line in _lines(part, version)]
    values = f"({', '.join(map(text_of, angles))})" if angles else ""
    return [f"{_WRITTEN[version][name]}{values} {', '.join(f'q[{q}]' for q in qubits)};"]


class _Reader:
    """Walks over a program's statements and collects gates.

    Attributes:
        operations: what was read: gates of `hqfkernels.Circuit`, and ``gphase``.
        n_qubits: how many qubits are declared.
    """

    def __init__(self, parameters: Mapping[str, Angle]) -> None:
        self.operations: list[Operation] = []
        self.n_qubits = 0
        self._values: Mapping[str, Value] = parameters
        self._registers: dict[str, int | list[int]] = {}
        self._bits: set[str] = set()
        self._hardware = False
        self._definitions: dict[str, Definition] = {}
        self._measured: set[int] = set()
        self._n_gates = 0

    def read(self, node: Any) -> None:
        """Takes one statement in."""
        if isinstance(node, ast.Include):
            if node.filename not in ("stdgates.inc", "qelib1.inc"):
                raise error_at(
                    node, f"include {node.filename!r}: only stdgates.inc and qelib1.inc are known; paste it in"
                )
        elif isinstance(node, ast.QubitDeclaration):
            self._declare_qubits(node)
        elif isinstance(node, ast.ConstantDeclaration):
            self._declare(node, node.identifier.name)
            value = cast(node.type, node.init_expression, self._values, node, declared=True)
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
                raise error_at(node, f"gate {node.name.name!r} is defined twice; rename one")
            self._definitions[node.name.name] = Definition.of(node)
        elif isinstance(node, ast.QuantumMeasurementStatement):
            if node.target is not None:
                name = getattr(node.target.name, "name", node.target.name)
                if name not in self._bits:
                    raise error_at(node, f"bit register {name!r} is not declared")
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
            raise error_at(node, _ADVICE.get(type(node), f"{type(node).__name__} is no part of a circuit of gates"))

    def _declare(self, node: Any, name: str) -> None:
        if name in self._registers or name in self._values or name in self._bits:
            raise error_at(node, f"{name!r} is declared twice; rename one")

    def _declare_qubits(self, node: Any) -> None:
        name = node.qubit.name
        self._declare(node, name)
        if self._hardware:
            raise error_at(
                node, f"{name}: the program has hardware qubits such as $0 already; it can have one kind only"
            )
        size = 1 if node.size is None else integer_value(node.size, self._values)
        if not 1 <= size <= MAX_QUBITS - self.n_qubits:
            raise error_at(node, f"{name}: {size} qubits; a circuit has 1..{MAX_QUBITS}, {self.n_qubits} are declared")
        first, self.n_qubits = self.n_qubits, self.n_qubits + size
        self._registers[name] = first if node.size is None else list(range(first, self.n_qubits))

    def _named(self, node: Any) -> int | list[int]:
        """A qubit, or the qubits of a register or an alias."""
        name = node.name
        if not name.startswith("$"):
            if name not in self._registers:
                raise error_at(node, f"qubit register {name!r} is not declared")
            return self._registers[name]
        k = int(name[1:10])
        if self.n_qubits and not self._hardware:
            raise error_at(node, f"{name}: the program declares qubits, and can have one kind only")
        if k >= MAX_QUBITS:
            raise error_at(node, f"{name}: a circuit has 1..{MAX_QUBITS} qubits")
        self._hardware = True
        self.n_qubits = max(self.n_qubits, k + 1)  # those before it are there as well
        return k

    def _selected(self, name: str, found: int | list[int], index: Any, node: Any) -> int | list[int]:
        """One of the qubits of a register, or several by a range or a set."""
        register = [found] if isinstance(found, int) else found

        def element(k: int) -> int:
            if not -len(register) <= k < len(register):
                raise error_at(node, f"{name}[{k}]: the register has {len(register)} qubits")
            return register[k]

        if isinstance(index, ast.DiscreteSet):
            return [element(integer_value(value, self._values)) for value in index.values]
        if len(index) != 1:
            raise error_at(node, f"{name}: a register has one index")
        if not isinstance(index[0], ast.RangeDefinition):
            return element(integer_value(index[0], self._values))
        bounds, default = (index[0].start, index[0].step, index[0].end), (0, 1, len(register) - 1)
        start, step, end = (
            d if bound is None else integer_value(bound, self._values) for bound, d in zip(bounds, default, strict=True)
        )
        if min(start, end) < 0 or not step:
            raise error_at(node, f"{name}[{start}:{step}:{end}]: what it means is not settled; count from 0")
        chosen = range(start, end + (1 if step > 0 else -1), step)
        if not chosen:
            raise error_at(node, f"{name}[{start}:{step}:{end}]: there are no qubits in this range")
        return [element(k) for k in chosen]

    def _operand(self, node: Any) -> int | list[int]:
        """The qubit that an operand names, or those of a whole register."""
        if isinstance(node, ast.Identifier):
            return self._named(node)
        found = self._named(node.name)
        for index in node.indices:
            found = self._selected(node.name.name, found, index, node)
        if not isinstance(found, int):
            raise error_at(node, f"{node.name.name}: name single qubits, {node.name.name}[0], or the whole register")
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
            raise error_at(node, f"let {name}: its qubits must differ")
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
        raise error_at(node, "let: name qubits, such as q, q[0], q[0:2], q[{0, 2}], or some of them joined by ++")

    def _measure(self, node: Any) -> None:
        self._measured.update(self._qubits(node.qubit))

    def _call(self, node: Any) -> None:
        """A gate on qubits or, element by element, on registers."""
        name = _name(node)
        angles = [angle_value(a, self._values) for a in arguments_of(node)]
        operands = [self._operand(q) for q in node.qubits]
        sizes = {len(o) for o in operands if not isinstance(o, int)}
        if len(sizes) > 1:
            raise error_at(node, f"{name}: registers of different sizes {sorted(sizes)}")
        for k in range(max(sizes, default=1)):
            qubits = [o if isinstance(o, int) else o[k] for o in operands]
            if touched := self._measured.intersection(qubits):
                raise error_at(
                    node, f"{name} acts on qubit {min(touched)} after its measurement; measure at the end only"
                )
            self.operations += self._modified(node, angles, qubits, self._definitions, self._values)

    def _modified(
        self,
        node: Any,
        angles: Sequence[Angle],
        qubits: Sequence[int],
        definitions: Mapping[str, Definition],
        scope: Mapping[str, Value],
    ) -> list[Operation]:
        """A gate with its modifiers; ``definitions`` are the program's own, as far as they can be meant."""
        modifiers: list[tuple[str, int, Sequence[int]]] = []
        first = 0  # the first qubit behind the controls, of which the leftmost modifier has the first
        for modifier in node.modifiers:
            kind, count = modifier.modifier.name, 1
            if modifier.argument is not None:
                value = constant_value(
                    number_value(value_of(modifier.argument, scope), node), node, f"the argument of {kind}"
                )
                count = int(value)
                if value != count or (kind != "pow" and count < 1):
                    raise error_at(node, f"{kind}({value}) @: expected a{' positive' * (kind != 'pow')} whole number")
            controls = qubits[first : first + count] if kind in ("ctrl", "negctrl") else ()
            if controls != () and len(controls) != count:
                raise error_at(node, f"{kind}({count}) @ {_name(node)}: there are too few qubits")
            first += len(controls)
            modifiers.append((kind, count, controls))
        operations = self._gate(node, angles, qubits[first:], definitions)
        if len(set(qubits)) != len(qubits):
            raise error_at(node, f"{_name(node)}: its qubits must differ")
        for kind, count, controls in reversed(modifiers):
            if kind == "inv" or count < 0:
                operations = [part for operation in reversed(operations) for part in inverted(operation)]
            if kind == "pow":
                self._spend(node, len(operations) * abs(count))
                operations *= abs(count)
            elif controls:
                if _has_unsettled_phase(_name(node), definitions):
                    raise error_at(
                        node,
                        f"{kind} @ {_name(node)}: the gate is made of U, u2 or u3, whose global phase is another one "
                        "in Qiskit than in the specification, which a control makes visible; write them as p, ry and p",
                    )
                self._spend(node, len(operations) << min(count, 32))
                operations = [part for operation in operations for part in controlled(operation, controls)]
                if kind == "negctrl":
                    flips: list[Operation] = [("x", (), (q,)) for q in controls]
                    operations = [*flips, *operations, *flips]
        return operations

    def _spend(self, node: Any, count: int) -> None:
        self._n_gates += count
        if self._n_gates > MAX_GATES:
            raise error_at(
                node, f"{_name(node)}: the program has more than {MAX_GATES} gates, those inside others counted"
            )

    def _gate(
        self, node: Any, angles: Sequence[Angle], qubits: Sequence[int], definitions: Mapping[str, Definition]
    ) -> list[Operation]:
        """What a gate is in gates of `hqfkernels.Circuit`, its modifiers aside."""
        name = _name(node)
        self._spend(node, 1)
        ours = _SAME.get(name, name)
        definition = definitions.get(name)
        if definition is None and ours not in GATES and ours != "gphase":
            definition, definitions = library(DEFINITIONS).get(name), {}  # made of the library's gates
            if definition is None:
                raise error_at(
                    node, f"gate {name!r} is not known; define it in the program by gates of the standard library"
                )
        counts = (1, 0) if ours == "gphase" else GATES.get(ours, (0, 0))
        if definition is not None:
            counts = (len(definition.angles), len(definition.qubits))
        if (len(angles), len(qubits)) != counts:
            raise error_at(
                node,
                f"{name} takes {counts[0]} angle(s) and {counts[1]} qubit(s), got {len(angles)} and {len(qubits)}",
            )
        if definition is None:
            return [(ours, tuple(angles), tuple(qubits))]
        scope = {**self._values, **dict(zip(definition.angles, map(_plain, angles), strict=True))}
        wires = dict(zip(definition.qubits, qubits, strict=True))
        operations: list[Operation] = []
        for inner in definition.body:
            if isinstance(inner, (ast.QuantumGate, ast.QuantumPhase)):
                for q in inner.qubits:
                    if not isinstance(q, ast.Identifier) or q.name not in wires:
                        raise error_at(inner, f"gate {name} has no qubit of this name")
                values = [angle_value(a, scope) for a in arguments_of(inner)]
                operations += self._modified(
                    inner, values, [wires[str(q.name)] for q in inner.qubits], definitions, scope
                )
            elif not isinstance(inner, (ast.QuantumBarrier, ast.DelayInstruction)):
                raise error_at(inner, _ADVICE.get(type(inner), f"{type(inner).__name__} is no part of a gate"))
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


def _has_unsettled_phase(name: str, definitions: Mapping[str, Definition]) -> bool:
    """Whether a gate of the program has a part whose global phase Qiskit and the specification do not agree on."""
    parts = definitions[name].body if name in definitions else ()
    names = [part.name.name for part in parts if isinstance(part, ast.QuantumGate)]
    return any((n in ("U", "u2", "u3") and n not in definitions) or _has_unsettled_phase(n, definitions) for n in names)


def _plain(angle: Angle) -> Value:
    """An angle within a gate, where it is a real number even if the gate was called with an integer."""
    return angle if angle.inputs or angle.weights else angle.constant
