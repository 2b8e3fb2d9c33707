"""Random OpenQASM programs, which must mean what Qiskit's importers make of them, or be refused.

    python -m fuzz.programs --seconds 300

What the parsers do with broken texts is for `fuzz.targets`; these programs are valid, or nearly so.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

import hqfkernels as hqf
from hqfkernels.interop.qasm import from_qasm

GATES: dict[int, dict[str, tuple[int, int]]] = {
    2: {
        **dict.fromkeys(("x", "y", "z", "h", "s", "sdg", "t", "tdg", "id"), (0, 1)),
        **dict.fromkeys(("rx", "ry", "rz", "u1"), (1, 1)),
        **{"u2": (2, 1), "u3": (3, 1), "U": (3, 1), "ccx": (0, 3), "cu3": (3, 2)},
        **dict.fromkeys(("cx", "cy", "cz", "ch", "CX"), (0, 2)),
        **dict.fromkeys(("crz", "cu1"), (1, 2)),
    },
    3: {
        **dict.fromkeys(("x", "y", "z", "h", "s", "sdg", "t", "tdg", "sx", "id"), (0, 1)),
        **dict.fromkeys(("rx", "ry", "rz", "p", "phase", "u1"), (1, 1)),
        **{"u2": (2, 1), "u3": (3, 1), "U": (3, 1), "cu": (4, 2), "gphase": (1, 0)},
        **dict.fromkeys(("cx", "cy", "cz", "ch", "CX", "swap"), (0, 2)),
        **dict.fromkeys(("cp", "crx", "cry", "crz", "cphase"), (1, 2)),
        **dict.fromkeys(("ccx", "cswap"), (0, 3)),
    },
}
"""qelib1.inc of the paper on OpenQASM 2, stdgates.inc, and what is built in: (angles, qubits)."""

# fmt: off
WORDS = (
    "angle", "array", "bit", "bool", "box", "break", "cal", "case", "complex", "const", "continue", "ctrl", "def",
    "default", "defcal", "defcalgrammar", "delay", "duration", "durationof", "else", "end", "euler", "extern",
    "false", "float", "for", "gphase", "im", "in", "input", "int", "inv", "let", "mutable", "negctrl", "nop",
    "output", "pow", "qubit", "readonly", "return", "sizeof", "stretch", "switch", "tau", "true", "uint", "void",
    "while",
)
# fmt: on
"""Words of OpenQASM 3, which are names in OpenQASM 2."""

PARAMETERS = {"x0": 0.37, "w0": -1.2}
"""Parameters of the programs, with values."""

_NUMBERS = {
    2: ("1", "2", "3", "7", "0", "pi", "0.5", "1.25", "2.0", ".5", "3.", "1e-1"),
    3: ("1", "2", "3", "7", "0", "pi", "0.5", "1.25", "2.0", ".5", "3.", "1e-1", "0x3", "0b11", "tau", "euler", "π"),
}
_FUNCTIONS = ("sin", "cos", "tan", "exp", "ln", "sqrt")


class _Writer:
    """Draws a program, line by line."""

    def __init__(self, seed: int, version: int) -> None:
        self.rng = np.random.default_rng([seed, version])
        self.version = version
        self.gates = dict(GATES[version])
        self.lines = ["OPENQASM 3.0;", 'include "stdgates.inc";']
        if version == 2:
            self.lines = ["OPENQASM 2.0;", 'include "qelib1.inc";']

    def one(self, of: Sequence[Any]) -> Any:
        return of[int(self.rng.integers(len(of)))]

    def some(self, of: Sequence[Any], count: int) -> list[Any]:
        return [of[k] for k in self.rng.permutation(len(of))[:count]]

    def expression(self, names: Sequence[str] = (), depth: int = 0) -> str:
        kind = self.rng.random()
        if depth > 3 or kind < 0.35:
            return str(self.one((*_NUMBERS[self.version], *names, *names)))
        inner = self.expression(names, depth + 1)
        if kind < 0.45:
            return f"-{inner}"
        if kind < 0.55:
            return f"({inner})"
        if kind < 0.62 and self.version == 2:
            return f"{self.one(_FUNCTIONS)}({inner})"
        operator = self.one(("+", "-", "*", "/", "/", "^") if self.version == 2 else ("+", "-", "*", "/", " / "))
        return f"{inner}{operator}{self.expression(names, depth + 1)}"

    def call(self, qubits: Sequence[str], names: Sequence[str]) -> list[str]:
        """A gate, if there are qubits enough."""
        gate = self.one(list(self.gates))
        n_angles, n_qubits = self.gates[gate]
        modifiers = ""
        for _ in range(self.rng.choice([0, 0, 0, 1, 1, 2]) if self.version == 3 else 0):
            modifier = self.one(("inv", "ctrl", "negctrl", "ctrl(2)", f"pow({self.rng.integers(-2, 4)})"))
            n_qubits += {"ctrl": 1, "negctrl": 1, "ctrl(2)": 2}.get(modifier, 0)
            modifiers += f"{modifier} @ "
        if n_qubits > len(qubits) or (modifiers and not n_qubits):
            return []
        if gate == "cu" and "inv" in modifiers:
            return []  # Qiskit inverts ctrl @ cu to something else than its adjoint
        angles = ", ".join(self.expression(names, 1 if names else 0) for _ in range(n_angles))
        operands = ", ".join(self.some(qubits, n_qubits))
        return [f"{modifiers}{gate}{f'({angles})' if n_angles else ''} {operands};"]

    def define(self, name: str, names: Sequence[str], qubits: Sequence[str]) -> None:
        body = " ".join(line for _ in range(self.rng.integers(5)) for line in self.call(qubits, names))
        angles = f"({', '.join(names)})" if names else ""
        self.lines.append(f"gate {name}{angles} {', '.join(qubits)} {{ {body} }}")
        self.gates[name] = (len(names), len(qubits))

    def program(self) -> str:
        whole: list[str] = []
        names: list[str] = []
        if self.version == 3 and self.rng.random() < 0.3:
            names = list(PARAMETERS)
            self.lines += ["input float[64] x0;", "input angle w0;"]
        if self.version == 2:
            words = self.some(WORDS, 8)
            sizes = self.rng.integers(1, 4, size=self.rng.integers(1, 3))
            whole = words[: len(sizes)]
            self.lines += [f"qreg {name}[{size}];" for name, size in zip(whole, sizes, strict=True)]
            qubits = [f"{name}[{k}]" for name, size in zip(whole, sizes, strict=True) for k in range(size)]
            self.lines.append(f"opaque {words[2]}(a) b;")
            self.define(words[3], words[4 : 4 + self.rng.integers(3)], words[6 : 7 + self.rng.integers(2)])
        else:
            n = int(self.rng.integers(1, 5))
            kind = self.one(("register", "single", "hardware", "alias"))
            qubits = [{"single": "a{}", "hardware": "${}"}.get(kind, "q[{}]").format(k) for k in range(n)]
            if kind == "single":
                self.lines += [f"qubit {qubit};" for qubit in qubits]
            elif kind != "hardware":
                self.lines.append(f"qubit[{n}] q;")
                whole = ["q"]
            if kind == "alias":
                first, last = sorted(self.rng.integers(n, size=2))
                self.lines.append(f"let v = q[{first}:{last}];")
                self.lines.append(f"let u = q[{{{', '.join(map(str, self.rng.permutation(n)))}}}];")
                qubits += [f"v[{k}]" for k in range(last - first + 1)] + [f"u[{k}]" for k in range(n)]
                whole += ["u", "v"]
            for k in range(self.rng.integers(3)):
                self.define(f"g{k}", ["s0", "s1"][: self.rng.integers(3)], ["b0", "b1"][: self.rng.integers(1, 3)])
        for _ in range(self.rng.integers(1, 9)):
            kind = self.rng.random()
            if kind < 0.05:
                self.lines.append(f"barrier {self.one(qubits)};")
            elif kind < 0.1 and self.version == 3:
                self.lines.append(f"delay[10ns] {self.one(qubits)};")
            elif kind < 0.2 and whole:
                self.lines.append(f"h {self.one(whole)};")
            elif kind < 0.25 and len(whole) == 2:
                self.lines.append(f"cx {whole[0]}, {whole[1]};")
            else:
                self.lines += self.call(qubits, names)
        return "\n".join(self.lines) + "\n"


def program(seed: int, version: int) -> str:
    """A random program."""
    return _Writer(seed, version).program()


def outcome(text: str, load: Callable[[str], Any]) -> str:
    """How reading a program went, beside Qiskit's ``load``.

    Raises:
        AssertionError: if both read it, and differently.
    """
    from qiskit.quantum_info import Statevector

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            theirs = load(text)
    except Exception:  # Qiskit's importers raise errors of many types
        theirs = None
    try:
        ours = from_qasm(text)
    except ValueError:
        return "refused"
    if theirs is None:
        return "refused by Qiskit"
    assert ours.n_qubits == theirs.num_qubits, text
    if not ours.gates:
        return "empty"
    values = {name: value for name, value in PARAMETERS.items() if theirs.has_parameter(name)}
    expected = Statevector(theirs.assign_parameters(values)).reverse_qargs().data
    inputs, weights = (torch.tensor([PARAMETERS[name]], dtype=torch.float64) for name in ("x0", "w0"))
    found = hqf.statevector(ours, inputs[: ours.n_inputs], weights[: ours.n_weights]).numpy()
    largest = max((abs(a.constant) for gate in ours.gates for a in gate.angles), default=0.0)
    np.testing.assert_allclose(found, expected, atol=1e-9 + 1e-13 * largest, rtol=0, err_msg=text)
    return "equal"


def loads(version: int) -> Callable[[str], Any]:
    """Qiskit's importer."""
    from qiskit import qasm2, qasm3

    return qasm3.loads if version == 3 else qasm2.loads


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m fuzz.programs", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="how long (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="the first (%(default)s)")
    options = parser.parse_args()
    end, seed, counts = time.monotonic() + options.seconds, options.seed, Counter[tuple[int, str]]()
    while time.monotonic() < end:
        for version in (2, 3):
            counts[version, outcome(program(seed, version), loads(version))] += 1
        seed += 1
    for (version, what), count in sorted(counts.items()):
        print(f"OpenQASM {version}: {count} {what}")


if __name__ == "__main__":
    main()
