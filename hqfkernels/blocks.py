"""Circuits as matrices on a few qubits: what an engine runs that pays for every pass over a state in memory.

Gates on the same few qubits become one block, so that a layer of rotations and a ring of CNOTs is one pass for every
two CNOTs. A block is a product of factors ``cos(t / 2) C + sin(t / 2) S`` with constant matrices C, S and one angle t;
constant gates are multiplied into their neighbours. What is measured becomes bases: one-qubit turns after which strings
consist of Z.

A block's qubits ascend, the first being the high bit of its matrices, as everywhere (docs/conventions.md).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache, reduce
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

from hqfkernels.circuit import Angle, Circuit, Gate
from hqfkernels.program import PARAMETRIC, Measurement
from hqfkernels.reference.circuit import gate_matrix

Matrix = NDArray[np.complex128]

BLOCK_QUBITS = 3
"""Qubits of a block (docs/backends.md says why so many)."""

GROUP_QUBITS = 10
"""Probabilities of so many qubits at a time are read from a state for Z strings; longer strings read all of them."""

_PAULIS: dict[str, Matrix] = {
    "I": np.eye(2, dtype=complex),
    "X": np.array([[0, 1], [1, 0]], dtype=complex),
    "Y": np.array([[0, -1j], [1j, 0]]),
    "Z": np.diag([1.0 + 0j, -1.0]),
}
# What takes the eigenvectors of a Pauli matrix to those of Z: C P C^dagger = Z.
_TO_Z: dict[str, Matrix] = {
    "X": np.array([[1, 1], [1, -1]]) / np.sqrt(2) + 0j,
    "Y": np.array([[1, -1j], [1, 1j]]) / np.sqrt(2) + 0j,
    "Z": np.eye(2, dtype=complex),
}


@dataclass(frozen=True, eq=False)
class Factor:
    """``M(t) = cos(t / 2) cosine + sin(t / 2) sine``, a unitary matrix of the angle t (radians).

    Attributes:
        cosine, sine: constant matrices.
        generator: G with ``dM/dt = G M / 2``; zero for a constant.
        angle: t.
    """

    cosine: Matrix
    sine: Matrix
    generator: Matrix
    angle: Angle


@dataclass(frozen=True, eq=False)
class Block:
    """Factors on `BLOCK_QUBITS` qubits in ascending order, applied first to last."""

    qubits: tuple[int, ...]
    factors: tuple[Factor, ...]


@dataclass(frozen=True, eq=False)
class Group:
    """Strings of Z on some of ``qubits`` (ascending): (mask over these qubits, the first high; number of output)."""

    qubits: tuple[int, ...]
    strings: tuple[tuple[int, int], ...]


@dataclass(frozen=True, eq=False)
class Basis:
    """What is read after turning qubits from the basis before: (qubit, letters of the old and the new basis)."""

    turns: tuple[tuple[int, str], ...]
    groups: tuple[Group, ...]


@dataclass(frozen=True, eq=False)
class Blocks:
    """A circuit fused into blocks, then a measurement.

    Attributes:
        n_qubits, n_inputs, n_weights: as in the circuit.
        blocks: applied first to last.
        measurement: "expval", "probs" or "state".
        bases: for "expval", what is measured, each basis turned to from the one before.
        home: turns from the last basis back.
        n_outputs: length of the last output dimension, in real numbers (a state has two per amplitude).
        amplitudes: (first input, count) if the initial state is given by inputs, else |0...0>.
    """

    n_qubits: int
    n_inputs: int
    n_weights: int
    blocks: tuple[Block, ...]
    measurement: Measurement
    bases: tuple[Basis, ...]
    home: tuple[tuple[int, str], ...]
    n_outputs: int
    amplitudes: tuple[int, int] | None

    @staticmethod
    def text_of(circuit: str, measurement: Measurement) -> str:
        """The text that `from_text` reads, for the circuit whose `Circuit.text` is given."""
        return f"{measurement}\n{circuit}"

    @staticmethod
    @lru_cache(maxsize=256)
    def from_text(text: str) -> Blocks:
        """Fuses the circuit that `text_of` wrote down; cached by content.

        Raises:
            ValueError: if the circuit has fewer than `BLOCK_QUBITS` qubits.
        """
        measurement, _, rest = text.partition("\n")
        circuit = Circuit.from_text(rest)
        if circuit.n_qubits < BLOCK_QUBITS:
            raise ValueError(f"blocks: need at least {BLOCK_QUBITS} qubits, the circuit has {circuit.n_qubits}")
        gates = list(circuit.gates)
        amplitudes = None
        if gates and gates[0].name == "amplitudes":
            first = gates.pop(0)
            amplitudes = first.angles[0].inputs[0][0], len(first.angles)
        n_outputs = {"probs": 2**circuit.n_qubits, "state": 2 * 2**circuit.n_qubits}
        bases, home = _bases(circuit.observables) if measurement == "expval" else ((), ())
        return Blocks(
            circuit.n_qubits,
            circuit.n_inputs,
            circuit.n_weights,
            fuse(gates, circuit.n_qubits),
            cast(Measurement, measurement),
            bases,
            home,
            n_outputs.get(measurement, circuit.n_observables),
            amplitudes,
        )


# --- gates to blocks ------------------------------------------------------------------------------------------------


def fuse(gates: Iterable[Gate], n_qubits: int) -> tuple[Block, ...]:
    """Gathers gates in blocks of `BLOCK_QUBITS` qubits, each gate in the latest block that acts on one of its qubits.

    If that would then have too many qubits, a new block begins. A block that no other follows on any of its qubits may
    wait: it is moved into a later one that has room for it, when a gate acts on both, or in the end.
    """
    gathered: list[tuple[set[int], list[Gate]]] = []  # qubits and gates, in order of application; empty: moved away
    last: dict[int, int] = {}  # qubit -> the block that acted last on it

    def fits(block: int, qubits: Iterable[int]) -> bool:
        return len(gathered[block][0].union(qubits)) <= BLOCK_QUBITS

    def extend(block: int, qubits: Iterable[int], members: Iterable[Gate]) -> None:
        gathered[block][0].update(qubits)
        gathered[block][1].extend(members)
        last.update(dict.fromkeys(qubits, block))

    def move(block: int, later: int) -> None:
        qubits, members = gathered[block]
        gathered[block] = set(), []
        extend(later, qubits, members)

    def may_wait(block: int) -> bool:
        return all(last[q] == block for q in gathered[block][0])

    for gate in gates:
        blocks = sorted({last[q] for q in gate.qubits if q in last})
        if not blocks or not fits(blocks[-1], gate.qubits):
            blocks.append(len(gathered))
            gathered.append((set(gate.qubits), []))
        *earlier, latest = blocks
        for block in earlier:
            if may_wait(block) and fits(latest, {*gate.qubits, *gathered[block][0]}):
                move(block, latest)
        extend(latest, gate.qubits, [gate])
    for block in filter(may_wait, range(len(gathered))):
        roomy = (b for b in range(block + 1, len(gathered)) if gathered[b][1] and fits(b, gathered[block][0]))
        if (later := next(roomy, None)) is not None:
            move(block, later)
    return tuple(_block(qubits, members, n_qubits) for qubits, members in gathered if members)


def _block(qubits: set[int], gates: list[Gate], n_qubits: int) -> Block:
    others = [q for q in range(n_qubits) if q not in qubits]
    order = tuple(sorted([*qubits, *others[: BLOCK_QUBITS - len(qubits)]]))
    eye = np.eye(2**BLOCK_QUBITS, dtype=complex)
    factors: list[Factor] = []
    constant = eye  # gates so far that no factor has taken
    for gate in gates:
        for matrix, angle in _parts(gate, order):
            if angle is None and factors:
                f = factors[-1]
                turned = matrix @ f.generator @ matrix.conj().T
                factors[-1] = Factor(matrix @ f.cosine, matrix @ f.sine, turned, f.angle)
            elif angle is None:
                constant = matrix @ constant
            else:
                sine = -1j * matrix
                factors.append(Factor(constant, sine @ constant, sine, angle))
                constant = eye
    if not factors:
        factors.append(Factor(constant, np.zeros_like(eye), np.zeros_like(eye), Angle()))
    return Block(order, tuple(factors))


def _parts(gate: Gate, order: tuple[int, ...]) -> list[tuple[Matrix, Angle | None]]:
    """A gate as Pauli matrices with angles (rotations) and, without, constant matrices, on the qubits of a block."""
    if gate.name == "rot":
        return [(_embed(_PAULIS[p], gate.qubits, order), angle) for p, angle in zip("ZYZ", gate.angles, strict=True)]
    if gate.name in PARAMETRIC:
        return [
            (_embed(reduce(_kron, (_PAULIS[p] for p in letters)), gate.qubits, order), gate.angles[0] * factor)
            for letters, factor in PARAMETRIC[gate.name]
        ]
    if gate.name == "unitary":
        matrix = np.reshape(np.array(gate.matrix), (2 ** len(gate.qubits),) * 2)
    else:
        matrix = gate_matrix(gate.name, [], torch.empty(0, dtype=torch.complex128, device="cpu")).numpy()
    return [(_embed(matrix, gate.qubits, order), None)]


def _kron(a: Matrix, b: Matrix) -> Matrix:
    return np.kron(a, b).astype(np.complex128)


def _embed(matrix: Matrix, qubits: tuple[int, ...], order: tuple[int, ...]) -> Matrix:
    """A matrix on ``qubits`` as one on the qubits ``order``, among which they are."""
    size = len(order)
    sequence = [*qubits, *(q for q in order if q not in qubits)]  # whose matrix the Kronecker product is
    whole = _kron(matrix, np.eye(2 ** (size - len(qubits)), dtype=complex)).reshape((2,) * 2 * size)
    axes = [sequence.index(q) for q in order]
    return whole.transpose(*axes, *(size + axis for axis in axes)).reshape(2**size, 2**size)


# --- observables to bases -------------------------------------------------------------------------------------------


def _bases(observables: tuple[str, ...]) -> tuple[tuple[Basis, ...], tuple[tuple[int, str], ...]]:
    """Bases for the strings, each string in the first basis that agrees with its letters; and the turns back."""
    gathered: list[tuple[dict[int, str], list[tuple[int, tuple[int, ...]]]]] = []  # letters; outputs, their qubits
    for output, string in enumerate(observables):
        own = {q: letter for q, letter in enumerate(string) if letter != "I"}
        agreeing = (g for g in gathered if all(g[0].get(q, letter) == letter for q, letter in own.items()))
        letters, strings = place = next(agreeing, ({}, []))
        if not strings:
            gathered.append(place)
        letters.update(own)
        strings.append((output, tuple(own)))
    n_qubits = len(observables[0])
    bases = []
    before = ["Z"] * n_qubits
    for letters, strings in gathered:
        after = [letters.get(q, before[q]) for q in range(n_qubits)]
        bases.append(Basis(_turns(before, after), _groups(strings, n_qubits)))
        before = after
    return tuple(bases), _turns(before, ["Z"] * n_qubits)


def _turns(before: list[str], after: list[str]) -> tuple[tuple[int, str], ...]:
    changes = enumerate(zip(before, after, strict=True))
    return tuple((q, old + new) for q, (old, new) in changes if old != new)


def turn_matrix(change: str) -> Matrix:
    """The 2x2 matrix that turns a qubit from one basis to another: "ZX", after it X is measured where Z was."""
    return _TO_Z[change[1]] @ _TO_Z[change[0]].conj().T


def _groups(strings: list[tuple[int, tuple[int, ...]]], n_qubits: int) -> tuple[Group, ...]:
    """Gathers Z strings whose qubits together are no more than `GROUP_QUBITS`, or on all qubits if one alone is."""
    gathered: list[tuple[set[int], list[tuple[int, tuple[int, ...]]]]] = []
    for output, qubits in strings:
        wide = range(n_qubits) if len(qubits) > GROUP_QUBITS else qubits
        roomy = (g for g in gathered if len(g[0].union(wide)) <= max(GROUP_QUBITS, len(g[0])))
        together, own = place = next(roomy, (set(), []))
        if not own:
            gathered.append(place)
        together.update(wide)
        own.append((output, qubits))
    groups = []
    for together, own in gathered:
        order = sorted(together or {0})
        bits = {q: 1 << (len(order) - 1 - k) for k, q in enumerate(order)}
        groups.append(Group(tuple(order), tuple((sum(bits[q] for q in qubits), output) for output, qubits in own)))
    return tuple(groups)
