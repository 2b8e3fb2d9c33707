"""Lowering: a circuit becomes a flat list of Pauli rotations, which is what every engine runs.

A rotation is ``exp(-i angle P / 2)`` with P a Pauli string. Every gate of `Circuit` is a product of rotations and
Clifford gates, and a Clifford C is never executed: ``R(P) C = C R(C^dagger P C)`` moves it to the end of the circuit,
where it turns the observables into other Pauli strings. So CNOT, SWAP, CZ, H, S, X, Y, Z cost nothing: they relabel.

`lower` applies these passes in turn; each maps a program to an equivalent one and is tested as such:

- `to_rotations`: gates to rotations, Cliffords into the observables (permutations only, for probabilities).
- `merge_rotations`: rotations about the same string with only commuting ones between them add their angles.
- `drop_dead`: what no observable can see (light cones, trailing phases) and what |0...0> cannot feel disappears.
- `make_real`: conjugates by S gates so that as many amplitudes as possible, from the start on, stay real.
- `group_layers`: reorders commuting rotations so that shared phases stand together; an engine runs each such run of
  diagonal rotations as one multiplication by a phase table, and the others in blocks.
- `relabel`: renames basis states linearly so that the states reached first have the smallest indices: after k
  rotations about independent strings the state lives in the first ``2**k`` amplitudes, and no engine touches more.

Masks are integers over basis-state indices: bit ``n - 1 - q`` is qubit q, since qubit 0 is the most significant.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray

from hqfkernels.circuit import MAX_INDEX, MAX_QUBITS, Angle, Circuit, Gate
from hqfkernels.words import Words

Measurement = Literal["expval", "probs", "state"]


@dataclass(frozen=True)
class Pauli:
    """The operator ``i**phase * X**x * Z**z`` (X^x and Z^z: X and Z on the qubits whose bits are set)."""

    x: int
    z: int
    phase: int = 0

    def __matmul__(self, other: Pauli) -> Pauli:
        swaps = 2 * (self.z & other.x).bit_count()
        return Pauli(self.x ^ other.x, self.z ^ other.z, (self.phase + other.phase + swaps) % 4)

    @staticmethod
    def hermitian(x: int, z: int) -> Pauli:
        """The Pauli string with X where only x is set, Z where only z is, Y where both are (Y = iXZ)."""
        return Pauli(x, z, (x & z).bit_count() % 4)

    @property
    def sign(self) -> int:
        """+1 or -1 times the Hermitian string with the same masks."""
        return 1 - (self.phase - (self.x & self.z).bit_count()) % 4

    def commutes(self, other: Pauli) -> bool:
        """Whether the two operators commute."""
        return ((self.x & other.z).bit_count() + (self.z & other.x).bit_count()) % 2 == 0


@dataclass(frozen=True)
class Rotation:
    """``exp(-i angle P / 2)``, P the Hermitian Pauli string with masks ``x`` and ``z``; angle in radians."""

    x: int
    z: int
    angle: Angle

    @property
    def pauli(self) -> Pauli:
        """The generator P."""
        return Pauli.hermitian(self.x, self.z)

    @property
    def shared(self) -> bool:
        """Whether the angle is the same for every sample that shares the weights."""
        return not self.angle.inputs

    def commutes(self, other: Rotation) -> bool:
        """Whether the generators commute."""
        return self.pauli.commutes(other.pauli)


@dataclass(frozen=True)
class Program:
    """A lowered circuit: rotations applied in order to the initial state, then a measurement.

    Attributes:
        n_qubits, n_inputs, n_weights: as in the circuit.
        rotations: applied first to last.
        measurement: "expval", "probs" or "state".
        observables: for "expval", (x, z, sign) of each Pauli string.
        frame: for "probs" and "state": the basis state with bits b sits at index
            ``offset ^ (xor of columns[k] for the set bits k of b)``, given as (offset, columns[0], ...).
        amplitudes: (first input, count) if the initial state is given by inputs, else |0...0>.
    """

    n_qubits: int
    n_inputs: int
    n_weights: int
    rotations: tuple[Rotation, ...]
    measurement: Measurement = "expval"
    observables: tuple[tuple[int, int, int], ...] = ()
    frame: tuple[int, ...] = ()
    amplitudes: tuple[int, int] | None = None

    @property
    def n_outputs(self) -> int:
        """Length of the last output dimension, in real numbers (a state has two per amplitude)."""
        if self.measurement == "expval":
            return len(self.observables)
        amplitudes: int = 2**self.n_qubits
        return amplitudes if self.measurement == "probs" else 2 * amplitudes

    @property
    def is_real(self) -> bool:
        """Whether all rotations are real matrices, so that the amplitudes stay real."""
        return all((r.x & r.z).bit_count() % 2 for r in self.rotations)

    @property
    def text(self) -> str:
        """The program as words separated by white space, for the native engines; see `Program.from_text`."""
        first, count = self.amplitudes or (0, 0)
        words: list[object] = ["hqf1", self.n_qubits, self.n_inputs, self.n_weights, first, count, len(self.rotations)]
        for r in self.rotations:
            words += [r.x, r.z, repr(r.angle.constant)]
            for terms in (r.angle.inputs, r.angle.weights):
                words += [len(terms), *(word for k, c in terms for word in (k, repr(c)))]
        words.append(self.measurement)
        words.append(len(self.observables))
        words += [word for observable in self.observables for word in observable]
        words += self.frame
        return " ".join(map(str, words))

    @staticmethod
    @lru_cache(maxsize=1024)
    def from_text(text: str) -> Program:
        """Reads `Program.text` back; raises ValueError for other texts."""
        words = Words(text, "program", "hqf1")
        n_qubits = words.number(1, MAX_QUBITS)
        n_inputs, n_weights, first = (words.number(0, MAX_INDEX) for _ in range(3))
        count = words.number(0, min(2**n_qubits, max(n_inputs - first, 0)))
        last = 2**n_qubits - 1

        def terms(size: int) -> tuple[tuple[int, float], ...]:
            return tuple((words.number(0, size - 1), words.real()) for _ in range(words.length()))

        rotations = tuple(
            Rotation(
                words.number(0, last), words.number(0, last), Angle(words.real(), terms(n_inputs), terms(n_weights))
            )
            for _ in range(words.length())
        )
        measurement = words.word()
        if measurement not in get_args(Measurement):
            raise ValueError(f"program: unknown measurement {measurement[:40]!r}")
        observables = tuple(
            (words.number(0, last), words.number(0, last), _sign(words.number(-1, 1))) for _ in range(words.length())
        )
        frame = () if measurement == "expval" else tuple(words.number(0, last) for _ in range(1 + n_qubits))
        words.finish()
        return Program(
            n_qubits,
            n_inputs,
            n_weights,
            rotations,
            cast(Measurement, measurement),
            observables,
            frame,
            (first, count) if count else None,
        )


def _sign(value: int) -> int:
    if not value:
        raise ValueError("program: an observable has the sign 0")
    return value


# --- gates to rotations ---------------------------------------------------------------------------------------------

PI = math.pi
# Each constant gate as rotations, in the order of action: (letters on its qubits, angle).
# "I" is a global phase, kept because `statevector` shows it.
_ROTATIONS: dict[str, tuple[tuple[str, float], ...]] = {
    "i": (),
    "x": (("I", -PI), ("X", PI)),
    "y": (("I", -PI), ("Y", PI)),
    "z": (("I", -PI), ("Z", PI)),
    "h": (("I", -PI), ("Z", PI), ("Y", PI / 2)),
    "s": (("I", -PI / 2), ("Z", PI / 2)),
    "sdg": (("I", PI / 2), ("Z", -PI / 2)),
    "t": (("I", -PI / 4), ("Z", PI / 4)),
    "tdg": (("I", PI / 4), ("Z", -PI / 4)),
    "sx": (("I", -PI / 2), ("X", PI / 2)),
    "cz": (("II", -PI / 2), ("ZI", PI / 2), ("IZ", PI / 2), ("ZZ", -PI / 2)),
}
# Each gate with an angle, likewise: (letters, factor of the angle).
PARAMETRIC: dict[str, tuple[tuple[str, float], ...]] = {
    "rx": (("X", 1.0),),
    "ry": (("Y", 1.0),),
    "rz": (("Z", 1.0),),
    "p": (("I", -1.0), ("Z", 1.0)),
    "crx": (("IX", 0.5), ("ZX", -0.5)),
    "cry": (("IY", 0.5), ("ZY", -0.5)),
    "crz": (("IZ", 0.5), ("ZZ", -0.5)),
    "cp": (("II", -0.5), ("ZI", 0.5), ("IZ", 0.5), ("ZZ", -0.5)),
    "rxx": (("XX", 1.0),),
    "ryy": (("YY", 1.0),),
    "rzz": (("ZZ", 1.0),),
}
# Clifford gates G by their action on generators: G^dagger P G for P = X or Z on each qubit, as a signed string.
_CLIFFORDS: dict[str, dict[str, str]] = {
    "i": {},
    "x": {"Z": "-Z"},
    "y": {"X": "-X", "Z": "-Z"},
    "z": {"X": "-X"},
    "h": {"X": "Z", "Z": "X"},
    "s": {"X": "-Y"},
    "sdg": {"X": "Y"},
    "sx": {"Z": "Y"},
    "cx": {"XI": "XX", "IZ": "ZZ"},
    "cy": {"XI": "XY", "IX": "ZX", "IZ": "ZZ"},
    "cz": {"XI": "XZ", "IX": "ZX"},
    "swap": {"XI": "IX", "IX": "XI", "ZI": "IZ", "IZ": "ZI"},
}
_PERMUTATIONS = {"i", "x", "cx", "swap"}


class _Frame:
    """The Clifford C met so far, as the images ``C^dagger P C`` of X and Z on every qubit."""

    def __init__(self, n_qubits: int) -> None:
        self.bits = [1 << (n_qubits - 1 - q) for q in range(n_qubits)]
        self.x = [Pauli(bit, 0) for bit in self.bits]
        self.z = [Pauli(0, bit) for bit in self.bits]

    def image(self, letters: str, qubits: Iterable[int]) -> Pauli:
        """``C^dagger P C`` of the signed Pauli string ``letters`` on ``qubits``."""
        negative = letters.startswith("-")
        result = Pauli(0, 0, 2 if negative else 0)
        for letter, q in zip(letters.lstrip("-"), qubits, strict=True):
            if letter in "XY":
                result = result @ self.x[q]
            if letter in "YZ":
                result = result @ self.z[q]
            if letter == "Y":
                result = result @ Pauli(0, 0, 1)
        return result

    def apply(self, gate: Gate) -> None:
        """Appends a Clifford gate: C becomes G C, so the image of P becomes that of ``G^dagger P G``."""
        images = {generator: self.image(to, gate.qubits) for generator, to in _CLIFFORDS[gate.name].items()}
        for generator, image in images.items():
            (position,) = (k for k, letter in enumerate(generator) if letter != "I")
            (self.x if generator[position] == "X" else self.z)[gate.qubits[position]] = image

    def permutation(self) -> tuple[int, ...]:
        """(offset, columns) of `Program.frame`; defined when only permutations were applied."""
        offset = sum(bit for bit, z in zip(self.bits, self._physical_z(), strict=True) if z)
        return (offset, *(self.x[q].x for q in reversed(range(len(self.bits)))))

    def _physical_z(self) -> list[bool]:
        # Z on physical bit k is a product of logical Z images; |0...0> in logical bits has logical Z = +1 everywhere,
        # so physical bit k of its index is 1 exactly when that product carries a minus sign.
        n = len(self.bits)
        rows = [[z.z, z.phase // 2] for z in self.z]
        for k, bit in enumerate(self.bits):
            pivot = next(r for r in range(k, n) if rows[r][0] & bit)
            rows[k], rows[pivot] = rows[pivot], rows[k]
            for r in range(n):
                if r != k and rows[r][0] & bit:
                    rows[r] = [rows[r][0] ^ rows[k][0], rows[r][1] ^ rows[k][1]]
        return [bool(sign) for _, sign in rows]


def to_rotations(circuit: Circuit, measurement: Measurement = "expval") -> Program:
    """Writes every gate as Pauli rotations and moves the Clifford gates into the measurement.

    For "expval" all Clifford gates move; for "probs" and "state" only permutations of basis states do, the others are
    rotations with a constant angle.
    """
    frame = _Frame(circuit.n_qubits)
    rotations: list[Rotation] = []
    amplitudes: tuple[int, int] | None = None

    def rotate(letters: str, angle: Angle, qubits: tuple[int, ...]) -> None:
        pauli = frame.image(letters, qubits)
        rotations.append(Rotation(pauli.x, pauli.z, angle * pauli.sign))

    free = _CLIFFORDS.keys() if measurement == "expval" else _PERMUTATIONS
    for gate in circuit.gates:
        if gate.name in free:
            frame.apply(gate)
        elif gate.name == "amplitudes":
            amplitudes = gate.angles[0].inputs[0][0], len(gate.angles)
        elif gate.name == "unitary":
            for letters, constant in matrix_rotations(np.reshape(gate.matrix, (2 ** len(gate.qubits),) * 2)):
                rotate(letters, Angle(constant), gate.qubits)
        elif gate.name == "rot":
            for letter, angle in zip("ZYZ", gate.angles, strict=True):
                rotate(letter, angle, gate.qubits)
        elif gate.name == "cy":
            target = gate.qubits[1]
            rotate("Z", Angle(-PI / 2), (target,))
            frame.apply(Gate("cx", gate.qubits))
            rotate("Z", Angle(PI / 2), (target,))
        elif gate.name in PARAMETRIC:
            for letters, factor in PARAMETRIC[gate.name]:
                rotate(letters, gate.angles[0] * factor, gate.qubits)
        else:
            for letters, constant in _ROTATIONS[gate.name]:
                rotate(letters, Angle(constant), gate.qubits)

    observables: tuple[tuple[int, int, int], ...] = ()
    if measurement == "expval":
        strings = [frame.image(string, range(circuit.n_qubits)) for string in circuit.observables]
        observables = tuple((p.x, p.z, p.sign) for p in strings)
    return Program(
        circuit.n_qubits,
        circuit.n_inputs,
        circuit.n_weights,
        tuple(rotations),
        measurement,
        observables,
        () if measurement == "expval" else frame.permutation(),
        amplitudes,
    )


def matrix_rotations(matrix: NDArray[np.complex128]) -> list[tuple[str, float]]:
    """(Pauli letters, angle) whose rotations multiply to ``matrix`` (2x2 or 4x4), first acting first."""
    return _zyz(matrix) if len(matrix) == 2 else _cartan(matrix)


def _zyz(matrix: NDArray[np.complex128]) -> list[tuple[str, float]]:
    """Euler angles: ``exp(-i g / 2) rz(c) ry(b) rz(a)``."""
    phase = np.angle(np.linalg.det(matrix)) / 2
    su2 = matrix * np.exp(-1j * phase)
    b = 2 * math.atan2(abs(su2[1, 0]), abs(su2[0, 0]))
    plus = 2 * np.angle(su2[1, 1]) if abs(su2[1, 1]) > 1e-12 else 0.0
    minus = 2 * np.angle(su2[1, 0]) if abs(su2[1, 0]) > 1e-12 else 0.0
    return [("I", -2 * float(phase)), ("Z", float(plus - minus) / 2), ("Y", b), ("Z", float(plus + minus) / 2)]


_MAGIC = np.array([[1, 0, 0, 1j], [0, 1j, 1, 0], [0, 1j, -1, 0], [1, 0, 0, -1j]]) / math.sqrt(2)


def _cartan(matrix: NDArray[np.complex128]) -> list[tuple[str, float]]:
    """KAK decomposition ``(A1 x A2) exp(i (a XX + b YY + c ZZ)) (B1 x B2)`` (Kraus, Cirac, quant-ph/0011050).

    In the magic basis local gates are real orthogonal and the middle factor is diagonal, so the symmetric unitary
    m^T m is diagonalised by a real orthogonal matrix.
    """
    m = _MAGIC.conj().T @ (matrix * np.exp(-1j * np.angle(np.linalg.det(matrix)) / 4)) @ _MAGIC
    symmetric = m.T @ m
    for k in range(16):
        # Real and imaginary part commute; almost every combination of them has the common eigenvectors alone.
        _, p = np.linalg.eigh(math.cos(k + 1) * symmetric.real + math.sin(k + 1) * symmetric.imag)
        diagonal = p.T @ symmetric @ p
        if np.abs(diagonal - np.diag(np.diag(diagonal))).max() < 1e-9:
            break
    if np.linalg.det(p) < 0:
        p[:, 0] *= -1
    theta = np.angle(np.diag(diagonal)) / 2
    left = m @ p @ np.diag(np.exp(-1j * theta))
    if np.linalg.det(left).real < 0:
        theta[0] += PI
        left[:, 0] *= -1
    # The diagonals of XX, YY, ZZ in the magic basis; with 1 they span all phases of four entries.
    basis = np.array([np.diag(_MAGIC.conj().T @ np.kron(s, s) @ _MAGIC).real for s in _PAULIS])
    _, a, b, c = basis @ theta / 4
    rotations: list[tuple[str, float]] = []
    for local in (p.T, left):
        first, second = _kronecker_factors(_MAGIC @ local @ _MAGIC.conj().T)
        if local is left:
            rotations += [("XX", -2 * a), ("YY", -2 * b), ("ZZ", -2 * c)]
        rotations += [(letter + "I", angle) for letter, angle in _zyz(first)]
        rotations += [("I" + letter, angle) for letter, angle in _zyz(second)]
    product = np.eye(4, dtype=complex)
    for letters, angle in rotations:
        string = np.kron(*(_PAULIS["IXYZ".index(letter)] for letter in letters))
        product = (math.cos(angle / 2) * np.eye(4) - 1j * math.sin(angle / 2) * string) @ product
    phase = np.angle(np.trace(product.conj().T @ matrix))
    return [("II", -2 * float(phase)), *((letters, float(angle)) for letters, angle in rotations)]


_PAULIS = (np.eye(2), np.array([[0, 1], [1, 0]]), np.array([[0, -1j], [1j, 0]]), np.diag([1.0, -1.0]))


def _kronecker_factors(matrix: NDArray[np.complex128]) -> tuple[NDArray[np.complex128], NDArray[np.complex128]]:
    """A, B unitary with ``kron(A, B) == matrix``."""
    blocks = matrix.reshape(2, 2, 2, 2).transpose(0, 2, 1, 3)
    row, column = np.unravel_index(np.abs(blocks).max(axis=(2, 3)).argmax(), (2, 2))
    second = blocks[row, column]
    second = second / np.sqrt(np.linalg.det(second))
    first = np.einsum("abcd,cd->ab", blocks, second.conj()) / 2
    return first, second


# --- passes ---------------------------------------------------------------------------------------------------------


def _sum(first: Angle, second: Angle) -> Angle | None:
    """The sum of two angles, or None if it has no finite numbers."""
    try:
        return first + second
    except ValueError:
        return None


def merge_rotations(program: Program) -> Program:
    """Adds the angles of rotations about the same string that only commuting rotations separate."""
    merged: list[Rotation] = []
    for rotation in program.rotations:
        for k in reversed(range(len(merged))):
            same = (merged[k].x, merged[k].z) == (rotation.x, rotation.z)
            if same and (total := _sum(merged[k].angle, rotation.angle)) is not None:
                merged[k] = replace(merged[k], angle=total)
                break
            if not merged[k].commutes(rotation):
                merged.append(rotation)
                break
        else:
            merged.append(rotation)
    return replace(program, rotations=tuple(r for r in merged if r.angle != Angle()))


def drop_dead(program: Program) -> Program:
    """Drops rotations that cannot change what is measured.

    From the end: one that commutes with every kept later rotation and with the measurement (light cones, trailing
    phases). From the start: a phase that commutes with every kept earlier rotation acts on |0...0>, where it is a
    global phase. A "state" shows global phases, so there the latter becomes one and nothing else is dropped.
    """
    kept: list[Rotation] = []
    strings = [Pauli.hermitian(x, z) for x, z, _ in program.observables]
    for rotation in reversed(program.rotations):
        invisible = {
            "expval": all(rotation.pauli.commutes(string) for string in strings),
            "probs": rotation.x == 0,
            "state": False,
        }[program.measurement]
        if not (invisible and all(rotation.commutes(later) for later in kept)):
            kept.append(rotation)
    alive: list[Rotation] = []
    global_phase = Angle()
    for rotation in reversed(kept):
        unseen = program.amplitudes is None and rotation.x == 0 and all(rotation.commutes(early) for early in alive)
        if unseen and (total := _sum(global_phase, rotation.angle)) is not None:
            global_phase = total
        else:
            alive.append(rotation)
    if program.measurement == "state" and global_phase != Angle():
        alive.append(Rotation(0, 0, global_phase))
    return replace(program, rotations=tuple(alive))


def make_real(program: Program) -> Program:
    """Conjugates by S on chosen qubits so that rotations turn real (an odd number of Y), from the first one on.

    exp(-i t P / 2) is a real matrix when P has an odd number of Y. S maps X to Y and Y to -X, so whether qubit q is
    chosen toggles the parity of every string with X or Y on q: a linear system over GF(2), solved greedily in order.
    Not for a "state", which would have to be conjugated back.
    """
    if program.measurement == "state" or program.amplitudes is not None:
        return program
    equations: dict[int, tuple[int, int]] = {}  # leading bit -> (mask over qubits, right-hand side)
    for rotation in program.rotations:
        mask, rhs = rotation.x, 1 - (rotation.x & rotation.z).bit_count() % 2
        while mask and mask.bit_length() in equations:
            pivot_mask, pivot_rhs = equations[mask.bit_length()]
            mask, rhs = mask ^ pivot_mask, rhs ^ pivot_rhs
        if mask:
            equations[mask.bit_length()] = (mask, rhs)
    chosen = 0
    for bit in sorted(equations):
        mask, rhs = equations[bit]
        if (mask & chosen).bit_count() % 2 != rhs:
            chosen |= 1 << (bit - 1)

    def conjugate(x: int, z: int) -> Pauli:
        toggled = x & chosen
        return Pauli(x, z ^ toggled, ((x & z).bit_count() + toggled.bit_count()) % 4)

    rotations = []
    for r in program.rotations:
        p = conjugate(r.x, r.z)
        rotations.append(Rotation(p.x, p.z, r.angle * p.sign))
    strings = [(conjugate(x, z), sign) for x, z, sign in program.observables]
    return replace(
        program,
        rotations=tuple(rotations),
        observables=tuple((p.x, p.z, p.sign * sign) for p, sign in strings),
    )


def group_layers(program: Program) -> Program:
    """Moves rotations ahead of ones they commute with, so that each kind stands together.

    Kinds: phases with shared angles (one table), phases with angles of their own per sample, and rotations that mix
    amplitudes. Each rotation joins the earliest layer of its kind that it can reach.
    """
    layers: list[tuple[int, list[Rotation]]] = []
    for rotation in program.rotations:
        kind = 2 if rotation.x else 0 if rotation.shared else 1
        home = len(layers)
        for k in reversed(range(len(layers))):
            if layers[k][0] == kind:
                home = k
            if not all(rotation.commutes(other) for other in layers[k][1]):
                break
        if home == len(layers):
            layers.append((kind, []))
        layers[home][1].append(rotation)
    return replace(program, rotations=tuple(r for _, layer in layers for r in layer))


def relabel(program: Program) -> Program:
    """Renames basis states by an invertible linear map of their bits so that x-masks met first become low bits.

    With b_0, b_1, ... the first linearly independent x-masks in order, the new x holds the coefficients of x in that
    basis and bit j of the new z is the parity of ``b_j & z``: X^x Z^z keeps all products, so only the sign hidden in
    the Hermitian form can change.
    """
    if program.amplitudes is not None:
        return program
    basis: list[int] = []
    reduced: dict[int, tuple[int, int]] = {}  # leading bit -> (mask, its coefficients in the basis)

    def coefficients(mask: int) -> tuple[int, int]:
        known = 0
        while mask and mask.bit_length() in reduced:
            pivot, pivot_coefficients = reduced[mask.bit_length()]
            mask, known = mask ^ pivot, known ^ pivot_coefficients
        return mask, known

    for mask in (*(r.x for r in program.rotations), *(1 << k for k in range(program.n_qubits))):
        rest, known = coefficients(mask)
        if rest:
            reduced[rest.bit_length()] = (rest, known | 1 << len(basis))
            basis.append(mask)

    def rename(x: int, z: int) -> tuple[int, int, int]:
        new_x = coefficients(x)[1]
        new_z = sum(1 << j for j, b in enumerate(basis) if (b & z).bit_count() % 2)
        return new_x, new_z, 1 - ((x & z).bit_count() - (new_x & new_z).bit_count()) % 4

    rotations = []
    for r in program.rotations:
        x, z, sign = rename(r.x, r.z)
        rotations.append(Rotation(x, z, r.angle * sign))
    observables = []
    for x, z, sign in program.observables:
        new_x, new_z, flip = rename(x, z)
        observables.append((new_x, new_z, sign * flip))
    return replace(
        program,
        rotations=tuple(rotations),
        observables=tuple(observables),
        frame=tuple(coefficients(mask)[1] for mask in program.frame),
    )


PASSES: tuple[Callable[[Program], Program], ...] = (
    merge_rotations,
    drop_dead,
    make_real,
    group_layers,
    relabel,
)
"""What `lower` applies after `to_rotations`, in this order."""


@lru_cache(maxsize=1024)
def lower(circuit_text: str, measurement: Measurement) -> str:
    """Text of the simplified program for the circuit whose `Circuit.text` is given; cached by content."""
    program = to_rotations(Circuit.from_text(circuit_text), measurement)
    for simplify in PASSES:
        program = simplify(program)
    return program.text
