"""Circuits as data: gates on qubits, angles that are affine in inputs and weights, Pauli strings to measure.

Conventions (docs/conventions.md): qubit 0 is the most significant bit of a basis-state index, angles are in radians,
``rx(t) = exp(-i t X / 2)``, and gate methods take the angles first and then the qubits.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, SupportsFloat

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_QUBITS = 30
"""Upper limit on the register: a state of 2**30 complex64 amplitudes fills 8 GiB."""

MAX_INDEX = 1 << 24
"""As many inputs or weights a circuit can have at most."""

GATES: dict[str, tuple[int, int]] = {
    **dict.fromkeys(("i", "x", "y", "z", "h", "s", "sdg", "t", "tdg", "sx"), (0, 1)),
    **dict.fromkeys(("rx", "ry", "rz", "p"), (1, 1)),
    "rot": (3, 1),
    **dict.fromkeys(("cx", "cy", "cz", "swap"), (0, 2)),
    **dict.fromkeys(("crx", "cry", "crz", "cp", "rxx", "ryy", "rzz"), (1, 2)),
}
"""Gate name -> (number of angles, number of qubits). ``unitary`` and ``amplitudes`` carry data of their own."""


def _index(value: Any, what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{what} must be an int, got {value!r}")
    if value < 0:
        raise ValueError(f"{what} must not be negative, got {value}")
    return int(value)


def _number(value: Any) -> float:
    """``value`` as a finite float; raises TypeError or ValueError for what is not a finite real number."""
    if not isinstance(value, float):
        if getattr(value, "requires_grad", False):
            raise TypeError(f"an angle must not require gradients, which would be lost: use a Weight, got {value!r}")
        if isinstance(value, (np.generic, np.ndarray)) and value.ndim == 0:
            value = value.item()  # of a complex number, float() would take the real part
        try:
            if isinstance(value, (str, bytes, bool)):
                raise TypeError
            value = float(value)
        except OverflowError:
            raise ValueError("an angle must be finite, got an integer beyond all floats") from None
        except (TypeError, ValueError, RuntimeError):
            raise TypeError(f"an angle must be a number, Input, Weight or their sum, got {value!r}") from None
    if not math.isfinite(value):
        raise ValueError(f"an angle must be finite, got {value}")
    return float(value)


@dataclass(frozen=True, eq=False)
class Angle:
    """An angle ``constant + sum_j a_j * input_j + sum_k b_k * weight_k`` in radians.

    Made by arithmetic on `Input`, `Weight` and numbers: ``2 * Input(0) + Weight(3) - 0.5``.

    Attributes:
        constant: the part that depends on nothing.
        inputs: (input index, coefficient) pairs, brought into order: sorted by index, each index once, no zeros.
        weights: (weight index, coefficient) pairs, likewise.

    Raises:
        TypeError, ValueError: for what is no finite real number, sums and products included, and for indices that are
            no integers from 0 to 2**24 - 1.
    """

    constant: float = 0.0
    inputs: tuple[tuple[int, float], ...] = ()
    weights: tuple[tuple[int, float], ...] = ()

    @staticmethod
    def of(value: Angle | SupportsFloat) -> Angle:
        """Returns ``value`` as an `Angle`; raises TypeError or ValueError for what is not a finite real number."""
        return value if isinstance(value, Angle) else Angle(_number(value))

    def __post_init__(self) -> None:
        # Equal angles must have equal text: no minus zero, each index once and in order.
        object.__setattr__(self, "constant", _number(self.constant) + 0.0)
        object.__setattr__(self, "inputs", _collected(self.inputs))
        object.__setattr__(self, "weights", _collected(self.weights))

    def __eq__(self, other: object) -> bool:
        # By content: Input(0) and 1 * Input(0) are the same angle.
        return self._content == other._content if isinstance(other, Angle) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._content)

    @property
    def _content(self) -> tuple[Any, ...]:
        return self.constant, self.inputs, self.weights

    def __add__(self, other: Angle | SupportsFloat) -> Angle:
        other = Angle.of(other)
        return Angle(self.constant + other.constant, self.inputs + other.inputs, self.weights + other.weights)

    def __mul__(self, factor: SupportsFloat) -> Angle:
        if isinstance(factor, Angle):
            raise TypeError("an angle is affine in its parameters: it can be multiplied by a number only")
        scale = Angle.of(factor).constant
        return Angle(
            self.constant * scale,
            tuple((k, c * scale) for k, c in self.inputs),
            tuple((k, c * scale) for k, c in self.weights),
        )

    def __neg__(self) -> Angle:
        return self * -1.0

    def __sub__(self, other: Angle | SupportsFloat) -> Angle:
        return self + -Angle.of(other)

    def __rsub__(self, other: SupportsFloat) -> Angle:
        return -self + other

    def __truediv__(self, divisor: SupportsFloat) -> Angle:
        if isinstance(divisor, Angle):
            raise TypeError("an angle is affine in its parameters: it can be divided by a number only")
        if not _number(divisor):
            raise ValueError(f"an angle cannot be divided by {divisor}")
        return self * (1.0 / _number(divisor))

    __radd__ = __add__
    __rmul__ = __mul__

    def __str__(self) -> str:
        text = ""
        for letter, terms in (("x", self.inputs), ("w", self.weights)):
            for k, c in terms:
                sign = "-" if c < 0 else "+" if text else ""
                text += f"{sign}{'' if abs(c) == 1 else f'{abs(c):.4g}*'}{letter}{k}"
        if self.constant or not text:
            text += f"{self.constant:{'+' if text else ''}.4g}"
        return text

    def __repr__(self) -> str:
        return f"Angle({self})"


def _collected(terms: Iterable[tuple[int, float]]) -> tuple[tuple[int, float], ...]:
    total: dict[int, float] = {}
    for k, c in terms:
        k = _index(k, "parameter index")
        if k >= MAX_INDEX:
            raise ValueError(f"parameter index must be below {MAX_INDEX}, got {k}")
        total[k] = _number(total.get(k, 0.0) + _number(c))
    return tuple(sorted((k, c) for k, c in total.items() if c))


class Input(Angle):
    """``Input(j)``: entry ``j`` of a sample's inputs, as an angle in radians."""

    def __init__(self, index: int) -> None:
        super().__init__(0.0, ((_index(index, "Input index"), 1.0),), ())


class Weight(Angle):
    """``Weight(k)``: entry ``k`` of the weights that the batch shares, as an angle in radians."""

    def __init__(self, index: int) -> None:
        super().__init__(0.0, (), ((_index(index, "Weight index"), 1.0),))


@dataclass(frozen=True)
class Gate:
    """One gate: its ``name`` in `GATES` (or "unitary", "amplitudes"), the ``qubits`` it acts on and its ``angles``.

    Attributes:
        matrix: for "unitary", the 2x2 or 4x4 complex matrix, row by row; the first qubit is the high bit.
    """

    name: str
    qubits: tuple[int, ...]
    angles: tuple[Angle, ...] = ()
    matrix: tuple[complex, ...] = ()

    def __str__(self) -> str:
        angles = f"({', '.join(map(str, self.angles))})" if self.angles else ""
        return f"{self.name}{angles} {', '.join(map(str, self.qubits))}"


class Circuit:
    """A parameterised quantum circuit on ``n_qubits`` qubits, all starting in ``|0>``.

    Gate methods append a gate and return the circuit, so that calls can be chained. Angles (radians) are numbers,
    `Input`, `Weight` or affine expressions of them and come first, qubits last, as in Qiskit:
    ``Circuit(2).ry(Input(0), 0).crz(2 * Weight(0), 0, 1)``. Controlled gates take the control before the target.

    Two circuits are equal, and hash alike, when they hold the same gates and measurements. The hash follows the
    content, so a circuit that serves as a dictionary key must not be changed afterwards.

    Args:
        n_qubits: size of the register, 1 to 30.

    Raises:
        TypeError, ValueError: for a register size, qubit, angle or Pauli string that is not possible.
    """

    def __init__(self, n_qubits: int) -> None:
        self.n_qubits = _index(n_qubits, "n_qubits")
        if not 1 <= self.n_qubits <= MAX_QUBITS:
            raise ValueError(f"n_qubits must be 1..{MAX_QUBITS}, got {n_qubits}")
        self._gates: list[Gate] = []
        self._observables: list[str] = []
        self.n_inputs = 0
        self.n_weights = 0
        # The content as text, kept up to date: it is what compiled code receives and what torch.compile guards on.
        self._gate_lines: tuple[str, ...] = ()
        self._head_line = f'[{self.n_qubits},""]'

    # --- building -------------------------------------------------------------------------------------------------

    def append(
        self,
        name: str,
        angles: Sequence[Angle | SupportsFloat],
        qubits: Sequence[int],
        matrix: Sequence[complex] = (),
    ) -> Circuit:
        """Appends a gate given by its parts, as `Gate` has them.

        ``circuit.append(gate.name, gate.angles, gate.qubits, gate.matrix)`` appends any gate of another circuit.

        Args:
            name: a key of `GATES`, "unitary" or "amplitudes".
            angles: as many as the gate has, in radians; of "amplitudes", consecutive inputs.
            qubits: as many as the gate acts on; of "amplitudes", the whole register in order.
            matrix: of "unitary" alone, the 4 or 16 entries of its matrix, row by row.

        Raises:
            TypeError, ValueError: for a gate that is not known, and for parts that do not fit it.
        """
        if not isinstance(name, str) or name not in (*GATES, "unitary", "amplitudes"):
            raise ValueError(f"gate {name!r} is not known; known are {', '.join(GATES)}, unitary, amplitudes")
        if not isinstance(angles, (tuple, list)) or not isinstance(qubits, (tuple, list)):
            raise TypeError(f"{name}: angles and qubits must be sequences, got {angles!r} and {qubits!r}")
        if not isinstance(matrix, (tuple, list)):
            raise TypeError(f"{name}: matrix must be a sequence of its entries, got {matrix!r}")
        if name == "unitary":
            return self._append_unitary(angles, qubits, matrix)
        if matrix:
            raise ValueError(f"{name} takes no matrix, got {matrix!r}")
        if name == "amplitudes":
            return self._append_amplitudes(angles, qubits)
        n_angles, n_qubits = GATES[name]
        if len(angles) != n_angles or len(qubits) != n_qubits:
            raise ValueError(
                f"{name} takes {n_angles} angle(s) and {n_qubits} qubit(s), got {len(angles)} and {len(qubits)}"
            )
        return self._append(Gate(name, self._qubits(name, qubits), tuple(Angle.of(a) for a in angles)))

    def _append_unitary(self, angles: Sequence[Any], qubits: Sequence[int], matrix: Sequence[complex]) -> Circuit:
        if angles:
            raise ValueError(f"unitary takes no angles, got {angles!r}")
        side = 2 ** len(qubits)
        if len(matrix) != side**2:
            raise ValueError(
                f"unitary: matrix must have {side**2} entries for {len(qubits)} qubit(s), row by row, got {len(matrix)}"
            )
        return self.unitary(np.reshape(matrix, (side, side)), qubits)

    def _append_amplitudes(self, angles: Sequence[Any], qubits: Sequence[int]) -> Circuit:
        first = next((a.inputs[0][0] for a in angles[:1] if isinstance(a, Angle) and a.inputs), 0)
        if not angles or tuple(angles) != tuple(Input(first + k) for k in range(len(angles))):
            raise ValueError(f"amplitudes: takes consecutive inputs, got {angles!r}")
        if self._qubits("amplitudes", qubits) != tuple(range(self.n_qubits)):
            raise ValueError(f"amplitudes: takes all {self.n_qubits} qubits in order, got {list(qubits)}")
        return self.amplitudes(first, len(angles))

    def _qubits(self, name: str, qubits: Sequence[int]) -> tuple[int, ...]:
        checked = tuple(_index(q, f"{name}: qubit") for q in qubits)
        for q in checked:
            if q >= self.n_qubits:
                raise ValueError(f"{name}: qubit {q} is not in a register of {self.n_qubits} (0..{self.n_qubits - 1})")
        if len(set(checked)) != len(checked):
            raise ValueError(f"{name}: qubits must differ, got {list(checked)}")
        return checked

    def _append(self, gate: Gate) -> Circuit:
        for angle in gate.angles:
            self.n_inputs = max([self.n_inputs, *(k + 1 for k, _ in angle.inputs)])
            self.n_weights = max([self.n_weights, *(k + 1 for k, _ in angle.weights)])
        self._gates.append(gate)
        angles = [[a.constant, a.inputs, a.weights] for a in gate.angles]
        matrix = [[m.real, m.imag] for m in gate.matrix]
        self._gate_lines += (json.dumps([gate.name, gate.qubits, angles, matrix], separators=(",", ":")),)
        return self

    def i(self, qubit: int) -> Circuit:
        """Identity: keeps its place in a drawing, does nothing."""
        return self.append("i", (), (qubit,))

    def x(self, qubit: int) -> Circuit:
        """Pauli X."""
        return self.append("x", (), (qubit,))

    def y(self, qubit: int) -> Circuit:
        """Pauli Y."""
        return self.append("y", (), (qubit,))

    def z(self, qubit: int) -> Circuit:
        """Pauli Z."""
        return self.append("z", (), (qubit,))

    def h(self, qubit: int) -> Circuit:
        """Hadamard."""
        return self.append("h", (), (qubit,))

    def s(self, qubit: int) -> Circuit:
        """diag(1, i)."""
        return self.append("s", (), (qubit,))

    def sdg(self, qubit: int) -> Circuit:
        """diag(1, -i)."""
        return self.append("sdg", (), (qubit,))

    def t(self, qubit: int) -> Circuit:
        """diag(1, exp(i pi / 4))."""
        return self.append("t", (), (qubit,))

    def tdg(self, qubit: int) -> Circuit:
        """diag(1, exp(-i pi / 4))."""
        return self.append("tdg", (), (qubit,))

    def sx(self, qubit: int) -> Circuit:
        """Square root of X: ``exp(i pi / 4) rx(pi / 2)``."""
        return self.append("sx", (), (qubit,))

    def rx(self, angle: Angle | SupportsFloat, qubit: int) -> Circuit:
        """exp(-i angle X / 2)."""
        return self.append("rx", (angle,), (qubit,))

    def ry(self, angle: Angle | SupportsFloat, qubit: int) -> Circuit:
        """exp(-i angle Y / 2)."""
        return self.append("ry", (angle,), (qubit,))

    def rz(self, angle: Angle | SupportsFloat, qubit: int) -> Circuit:
        """exp(-i angle Z / 2)."""
        return self.append("rz", (angle,), (qubit,))

    def p(self, angle: Angle | SupportsFloat, qubit: int) -> Circuit:
        """Phase gate diag(1, exp(i angle))."""
        return self.append("p", (angle,), (qubit,))

    def rot(
        self,
        phi: Angle | SupportsFloat,
        theta: Angle | SupportsFloat,
        omega: Angle | SupportsFloat,
        qubit: int,
    ) -> Circuit:
        """rz(omega) ry(theta) rz(phi): phi acts first, as in PennyLane's Rot."""
        return self.append("rot", (phi, theta, omega), (qubit,))

    def cx(self, control: int, target: int) -> Circuit:
        """Controlled X (CNOT)."""
        return self.append("cx", (), (control, target))

    def cy(self, control: int, target: int) -> Circuit:
        """Controlled Y."""
        return self.append("cy", (), (control, target))

    def cz(self, control: int, target: int) -> Circuit:
        """Controlled Z."""
        return self.append("cz", (), (control, target))

    def swap(self, a: int, b: int) -> Circuit:
        """Exchanges two qubits."""
        return self.append("swap", (), (a, b))

    def crx(self, angle: Angle | SupportsFloat, control: int, target: int) -> Circuit:
        """Controlled rx."""
        return self.append("crx", (angle,), (control, target))

    def cry(self, angle: Angle | SupportsFloat, control: int, target: int) -> Circuit:
        """Controlled ry."""
        return self.append("cry", (angle,), (control, target))

    def crz(self, angle: Angle | SupportsFloat, control: int, target: int) -> Circuit:
        """Controlled rz."""
        return self.append("crz", (angle,), (control, target))

    def cp(self, angle: Angle | SupportsFloat, control: int, target: int) -> Circuit:
        """Controlled phase diag(1, 1, 1, exp(i angle))."""
        return self.append("cp", (angle,), (control, target))

    def rxx(self, angle: Angle | SupportsFloat, a: int, b: int) -> Circuit:
        """exp(-i angle XX / 2)."""
        return self.append("rxx", (angle,), (a, b))

    def ryy(self, angle: Angle | SupportsFloat, a: int, b: int) -> Circuit:
        """exp(-i angle YY / 2)."""
        return self.append("ryy", (angle,), (a, b))

    def rzz(self, angle: Angle | SupportsFloat, a: int, b: int) -> Circuit:
        """exp(-i angle ZZ / 2)."""
        return self.append("rzz", (angle,), (a, b))

    def unitary(self, matrix: Any, qubits: int | Sequence[int]) -> Circuit:
        """A constant unitary on one or two qubits.

        Args:
            matrix: array-like, complex, (2, 2) or (4, 4); the first qubit is the high bit of its index.
            qubits: one qubit, or a sequence of one or two.

        Raises:
            ValueError: if the shape does not fit the qubits, or ``matrix`` is not unitary to 1e-8.
        """
        targets = self._qubits("unitary", qubits if isinstance(qubits, (tuple, list, range)) else (qubits,))
        try:
            array = np.asarray(matrix, dtype=np.complex128)
        except (TypeError, ValueError, RuntimeError):
            raise TypeError(f"unitary: matrix must be an array of complex numbers, got {matrix!r}") from None
        if len(targets) not in (1, 2) or array.shape != (2 ** len(targets),) * 2:
            raise ValueError(
                f"unitary: takes a (2, 2) matrix on one qubit or (4, 4) on two, got {array.shape} on {len(targets)}"
            )
        with np.errstate(over="ignore", invalid="ignore"):
            error = float(np.abs(array @ array.conj().T - np.eye(len(array))).max())
        if not error < 1e-8:
            raise ValueError(f"unitary: matrix must be unitary to 1e-8, but matrix @ matrix^H differs by {error:.1e}")
        return self._append(Gate("unitary", targets, (), tuple(array.ravel().tolist())))

    def amplitudes(self, first_input: int = 0, count: int | None = None) -> Circuit:
        """Starts in the state whose amplitudes are ``count`` inputs, normalised, the rest of the register 0.

        Args:
            first_input: index of the input that becomes the amplitude of ``|0...0>``.
            count: how many inputs to take, at most (and by default) ``2**n_qubits``.

        Raises:
            ValueError: if the circuit already holds a gate, or ``count`` is not in 1..2**n_qubits.
        """
        if self._gates:
            raise ValueError("amplitudes: sets the initial state, so it must come before every gate")
        size = 2**self.n_qubits if count is None else _index(count, "amplitudes: count")
        if not 1 <= size <= 2**self.n_qubits:
            raise ValueError(f"amplitudes: count must be 1..{2**self.n_qubits}, got {count}")
        first = _index(first_input, "amplitudes: first_input")
        angles = tuple(Input(first + k) for k in range(size))
        return self._append(Gate("amplitudes", tuple(range(self.n_qubits)), angles))

    def measure(self, *paulis: str) -> Circuit:
        """Adds Pauli strings such as "ZIXY" to measure; character k acts on qubit k. Default: Z on every qubit."""
        for pauli in paulis:
            if not isinstance(pauli, str):
                raise TypeError(f"measure: takes Pauli strings, got {pauli!r}")
            if len(pauli) != self.n_qubits or set(pauli) - set("IXYZ"):
                raise ValueError(
                    f"measure: a Pauli string has {self.n_qubits} characters (one per qubit) of IXYZ, got {pauli!r}"
                )
        self._observables += paulis
        self._head_line = f'[{self.n_qubits},"{",".join(self._observables)}"]'
        return self

    # --- reading --------------------------------------------------------------------------------------------------

    @property
    def gates(self) -> tuple[Gate, ...]:
        """The gates in the order in which they act."""
        return tuple(self._gates)

    @property
    def observables(self) -> tuple[str, ...]:
        """The Pauli strings measured, in output order."""
        if self._observables:
            return tuple(self._observables)
        n = self.n_qubits
        return tuple("I" * q + "Z" + "I" * (n - q - 1) for q in range(n))

    @property
    def n_observables(self) -> int:
        """How many expectation values `expval` returns per sample."""
        return len(self._observables) or self.n_qubits

    @property
    def text(self) -> str:
        """The content as JSON lines: the register and the observables, then a line per gate. See `from_text`."""
        return "\n".join((self._head_line, *self._gate_lines))

    @staticmethod
    def from_text(text: str) -> Circuit:
        """Builds the circuit that `text` describes, with every check of the gate methods."""
        try:
            (n_qubits, observables), *gates = [json.loads(line) for line in text.splitlines()]
            circuit = Circuit(n_qubits)
            for name, qubits, angles, matrix in gates:
                expressions = [Angle(float(constant), inputs, weights) for constant, inputs, weights in angles]
                circuit.append(name, expressions, qubits, [complex(re, im) for re, im in matrix])
            return circuit.measure(*filter(None, observables.split(",")))
        except (TypeError, ValueError, IndexError, AttributeError, OverflowError, RecursionError) as error:
            raise ValueError(f"text: does not describe a circuit: {error}") from error

    def draw(self, style: str = "text") -> str | Figure:
        """Draws the circuit: ``"text"`` returns a string, ``"mpl"`` a matplotlib figure."""
        from hqfkernels import drawing

        if style == "text":
            return drawing.draw_text(self)
        if style == "mpl":
            return drawing.draw_mpl(self)
        raise ValueError(f'style: must be "text" or "mpl", got {style!r}')

    def copy(self) -> Circuit:
        """An independent circuit with the same content."""
        twin = Circuit(self.n_qubits)
        twin.__dict__.update(self.__dict__, _gates=[*self._gates], _observables=[*self._observables])
        return twin

    __copy__ = copy

    def __len__(self) -> int:
        return len(self._gates)

    def __eq__(self, other: object) -> bool:
        return self.text == other.text if isinstance(other, Circuit) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.text)

    def __repr__(self) -> str:
        return (
            f"Circuit({self.n_qubits} qubits, {len(self)} gates, {self.n_inputs} inputs, {self.n_weights} weights, "
            f"{self.n_observables} observables)"
        )
