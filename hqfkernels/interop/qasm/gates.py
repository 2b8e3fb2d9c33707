"""Gates of OpenQASM's standard libraries in gates of `hqfkernels.Circuit`, and what modifiers make of a gate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from openqasm3 import ast

from hqfkernels.circuit import Angle
from hqfkernels.interop.qasm import version3
from hqfkernels.interop.qasm.values import angle_value
from hqfkernels.interop.qasm.version3 import error_at

Operation = tuple[str, tuple[Angle, ...], tuple[int, ...]]

DEFINITIONS = """
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

PHASES = """
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

_CONTROLLED = {name: f"c{name}" for name in ("x", "y", "z", "rx", "ry", "rz", "p")}
"""Gates whose controlled gate is one of `hqfkernels.Circuit`."""


@dataclass(frozen=True)
class Definition:
    """A gate made of others."""

    angles: tuple[str, ...]
    qubits: tuple[str, ...]
    body: tuple[Any, ...]

    @staticmethod
    def of(node: Any) -> Definition:
        angles, qubits = (tuple(n.name for n in part) for part in (node.arguments, node.qubits))
        if any(len(set(names)) != len(names) for names in (angles, qubits)):
            raise error_at(node, f"gate {node.name.name}: its angles, and its qubits, must have different names")
        return Definition(angles, qubits, tuple(node.body))


@lru_cache(maxsize=2)
def library(text: str) -> dict[str, Definition]:
    """The gates that `DEFINITIONS` or `PHASES` defines."""
    return {node.name.name: Definition.of(node) for node in version3.parse(text).statements}


def expand(name: str, angles: Sequence[Angle], qubits: Sequence[int], text: str = DEFINITIONS) -> list[Operation]:
    """The body of a gate of the library, one level down; of a phase, the qubits are those that it asks for."""
    definition = library(text)[name]
    scope = dict(zip(definition.angles, angles, strict=True))
    wires = dict(zip(definition.qubits, qubits, strict=True))
    return [
        (
            "gphase" if isinstance(node, ast.QuantumPhase) else node.name.name,
            tuple(angle_value(a, scope) for a in arguments_of(node)),
            tuple(wires[q.name] for q in node.qubits),
        )
        for node in definition.body
    ]


def arguments_of(node: Any) -> list[Any]:
    """The expressions between the brackets of a gate."""
    return [node.argument] if isinstance(node, ast.QuantumPhase) else node.arguments


def inverted(operation: Operation) -> list[Operation]:
    """The inverse of one gate."""
    name, angles, qubits = operation
    if name in ("s", "t", "sdg", "tdg"):
        return [(name[0] if name.endswith("dg") else f"{name}dg", (), qubits)]
    if name == "sx":
        return [("h", (), qubits), ("sdg", (), qubits), ("h", (), qubits)]
    return [(name, tuple(-a for a in reversed(angles)), qubits)]


def controlled(operation: Operation, controls: Sequence[int]) -> list[Operation]:
    """A gate that acts where all controls are in ``|1>``."""
    name, angles, qubits = operation
    if name == "gphase":
        return _phase(angles[0], (*controls, *qubits))
    if len(controls) == 1 and name in _CONTROLLED:
        return [(_CONTROLLED[name], angles, (*controls, *qubits))]
    if name == "rot":
        return [part for inner in expand(name, angles, qubits) for part in controlled(inner, controls)]
    return [
        part
        for inner in expand(name, angles, qubits, PHASES)
        for part in (controlled(inner, controls) if inner[0] == "gphase" else [inner])
    ]


def _phase(angle: Angle, qubits: tuple[int, ...]) -> list[Operation]:
    """``exp(i angle)`` where all qubits are in ``|1>``.

    The product of n bits is the sum, over all non-empty sets of them, of their parity times plus or minus
    ``2 ** (1 - n)``: a phase each. For each last qubit, the sets go through a Gray code, one CNOT apart.
    """
    if angle == Angle(math.pi) and len(qubits) == 2:
        return [("cz", (), qubits)]
    if len(qubits) <= 2:
        return [(("gphase", "p", "cp")[len(qubits)], (angle,), qubits)]
    part = angle / 2 ** (len(qubits) - 1)
    operations: list[Operation] = []
    for last, target in enumerate(qubits):
        operations.append(("p", (part,), (target,)))
        for step in range(1, 1 << last):
            changed = (step & -step).bit_length() - 1
            sign = (-1) ** (step ^ step >> 1).bit_count()
            operations += [("cx", (), (qubits[changed], target)), ("p", (sign * part,), (target,))]
        if last:
            operations.append(("cx", (), (qubits[last - 1], target)))
    return operations
