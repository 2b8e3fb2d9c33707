"""Circuits by Kronecker products in numpy (complex128, one sample) and random circuits: independent of the package.

Every gate is built here from Pauli matrices and from exponentials of its generator, as a full 2**n x 2**n matrix.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from hqfkernels.circuit import GATES, Angle, Circuit, Gate, Input, Weight

Matrix = NDArray[np.complex128]
Vector = NDArray[np.float64]

ONE, X, Y, Z = (
    np.array(entries, dtype=complex).reshape(2, 2)
    for entries in ([1, 0, 0, 1], [0, 1, 1, 0], [0, -1j, 1j, 0], [1, 0, 0, -1])
)
PAULI = {"I": ONE, "X": X, "Y": Y, "Z": Z}
NUMBER = (ONE - Z) / 2  # |1><1|


def on(n: int, factors: dict[int, Matrix]) -> Matrix:
    """The Kronecker product of ``factors`` (qubit -> 2x2), identity on the other qubits; qubit 0 comes first."""
    return reduce(np.kron, [factors.get(q, ONE) for q in range(n)])


def exponential(generator: Matrix, angle: float) -> Matrix:
    """exp(-i angle generator) of a Hermitian generator."""
    values, vectors = np.linalg.eigh(generator)
    return (vectors * np.exp(-1j * angle * values)) @ vectors.conj().T


def gate_matrix(gate: Gate, angles: list[float], n: int) -> Matrix:
    """The full 2**n x 2**n matrix of ``gate`` with the given values of its angles (radians)."""
    name, qubits = gate.name, gate.qubits
    a, b = qubits[0], qubits[-1]
    if name == "unitary" and len(qubits) == 1:
        return on(n, {a: np.array(gate.matrix).reshape(2, 2)})
    if name == "unitary":
        entries = np.array(gate.matrix).reshape(2, 2, 2, 2)
        unit = np.eye(4, dtype=complex).reshape(2, 2, 2, 2)  # unit[i, j] = |i><j|
        terms = [entries[i, j, k, m] * on(n, {a: unit[i, k], b: unit[j, m]}) for i, j, k, m in np.ndindex(2, 2, 2, 2)]
        return np.sum(terms, axis=0)
    if name == "swap":
        return np.sum([on(n, {a: p, b: p}) for p in PAULI.values()], axis=0) / 2
    if name in ("rxx", "ryy", "rzz"):
        pauli = PAULI[name[-1].upper()]
        return exponential(on(n, {a: pauli, b: pauli}), angles[0] / 2)
    if name in ("cx", "cy", "cz", "crx", "cry", "crz", "cp"):
        return on(n, {a: ONE - NUMBER}) + on(n, {a: NUMBER, b: _single(name[1:], angles)})
    return on(n, {a: _single(name, angles)})


def _single(name: str, angles: list[float]) -> Matrix:
    if name.upper() in PAULI:
        return PAULI[name.upper()]
    if name == "h":
        return (X + Z) / np.sqrt(2)
    if name == "sx":
        return np.exp(0.25j * np.pi) * exponential(X, np.pi / 4)
    if name in ("s", "sdg", "t", "tdg"):
        return exponential(NUMBER, {"s": -0.5, "sdg": 0.5, "t": -0.25, "tdg": 0.25}[name] * np.pi)
    if name == "p":
        return exponential(NUMBER, -angles[0])
    if name == "rot":
        return exponential(Z, angles[2] / 2) @ exponential(Y, angles[1] / 2) @ exponential(Z, angles[0] / 2)
    return exponential(PAULI[name[1].upper()], angles[0] / 2)  # rx, ry, rz


def angle_values(circuit: Circuit, inputs: Vector, weights: Vector) -> list[list[float]]:
    """The value in radians of every angle of every gate."""

    def value(angle: Angle) -> float:
        terms = [*((c, inputs[j]) for j, c in angle.inputs), *((c, weights[k]) for k, c in angle.weights)]
        return angle.constant + sum(c * v for c, v in terms)

    return [[value(angle) for angle in gate.angles] for gate in circuit.gates]


def statevector(circuit: Circuit, inputs: Vector, weights: Vector) -> NDArray[np.complex128]:
    """Final state (2**n,) for inputs (n_inputs,) and weights (n_weights,)."""
    return _run(circuit, angle_values(circuit, inputs, weights))


def _run(circuit: Circuit, values: list[list[float]]) -> NDArray[np.complex128]:
    state = np.zeros(2**circuit.n_qubits, dtype=complex)
    state[0] = 1
    for gate, angles in zip(circuit.gates, values, strict=True):
        if gate.name == "amplitudes":
            state[: len(angles)] = np.array(angles) / np.linalg.norm(angles)
        else:
            state = gate_matrix(gate, angles, circuit.n_qubits) @ state
    return state


def probs(circuit: Circuit, inputs: Vector, weights: Vector) -> Vector:
    """Probabilities of the basis states, (2**n,)."""
    return np.abs(statevector(circuit, inputs, weights)) ** 2


def expval(circuit: Circuit, inputs: Vector, weights: Vector) -> Vector:
    """Expectation values of the observables, (n_observables,)."""
    return _measure(circuit, statevector(circuit, inputs, weights))


def _measure(circuit: Circuit, state: NDArray[np.complex128]) -> Vector:
    operators = [on(circuit.n_qubits, {q: PAULI[p] for q, p in enumerate(o)}) for o in circuit.observables]
    return np.array([np.vdot(state, operator @ state).real for operator in operators])


def gradients(circuit: Circuit, inputs: Vector, weights: Vector) -> tuple[Vector, Vector]:
    """Jacobians of `expval`: (n_observables, n_inputs) and (n_observables, n_weights).

    Each occurrence of an angle is shifted by itself: by the two-term rule, by the four-term rule for controlled
    rotations (arXiv 2104.05695, generator eigenvalues 0 and +-1/2), and by finite differences for amplitudes.
    """
    values = angle_values(circuit, inputs, weights)
    d_inputs = np.zeros((circuit.n_observables, circuit.n_inputs))
    d_weights = np.zeros((circuit.n_observables, circuit.n_weights))
    for g, gate in enumerate(circuit.gates):
        for a, angle in enumerate(gate.angles):

            def shifted(by: float, g: int = g, a: int = a) -> Vector:
                moved = [list(v) for v in values]
                moved[g][a] += by
                return _measure(circuit, _run(circuit, moved))

            slope = _slope(gate.name, shifted)
            for j, c in angle.inputs:
                d_inputs[:, j] += c * slope
            for k, c in angle.weights:
                d_weights[:, k] += c * slope
    return d_inputs, d_weights


def _slope(name: str, f: Callable[[float], Vector]) -> Vector:
    def difference(shift: float) -> Vector:
        return f(shift) - f(-shift)

    if name == "amplitudes":  # five-point stencil, right to about 1e-12
        return (8 * difference(1e-3) - difference(2e-3)) / 12e-3
    if name in ("crx", "cry", "crz"):
        near, far = (np.sqrt(2) + 1) / (4 * np.sqrt(2)), (np.sqrt(2) - 1) / (4 * np.sqrt(2))
        return near * difference(np.pi / 2) - far * difference(3 * np.pi / 2)
    return difference(np.pi / 2) / 2


def random_unitary(rng: np.random.Generator, size: int) -> Matrix:
    return np.linalg.qr(rng.normal(size=(size, size)) + 1j * rng.normal(size=(size, size)))[0]


def random_circuit(
    rng: np.random.Generator,
    n_qubits: int,
    n_gates: int,
    n_inputs: int,
    n_weights: int,
    *,
    n_observables: int = 4,
    gates: tuple[str, ...] = (*GATES, "unitary"),
    amplitudes: bool = False,
    letters: str = "IXYZ",
    coefficients: tuple[float, ...] = (1, 1, 1, 2, 3, 0.5, 0.7),
) -> Circuit:
    """A circuit of ``n_gates`` random gates (more if its parameters need them) that uses every input and weight.

    The gates are dealt from a shuffled deck, so that ``len(gates)`` of them in a row are all different. Angles are
    constants, inputs (again and again: re-uploading), weights, and affine expressions of both with whole and broken
    coefficients. The observables are random Pauli strings, the last one the identity.

    Args:
        rng: where all choices come from.
        n_qubits: size of the register; gates on more qubits than that are not drawn.
        n_gates: number of gates, if that is enough to use every parameter.
        n_inputs: number of inputs, not counting the amplitudes.
        n_weights: number of weights.
        n_observables: number of Pauli strings.
        gates: names to draw from, keys of `GATES` or "unitary".
        amplitudes: whether to start from amplitudes, 2**n_qubits further inputs that come first.
        letters: of the Pauli strings.
        coefficients: of parameters in angles, drawn with this frequency; positive.
    """
    circuit = Circuit(n_qubits)
    first = 0
    if amplitudes:
        circuit.amplitudes()
        first = 2**n_qubits
    parameters = [*(Input(first + j) for j in range(n_inputs)), *(Weight(k) for k in range(n_weights))]
    unused = [parameters[i] for i in rng.permutation(len(parameters))]

    def angle() -> Angle:
        total = Angle(round(rng.uniform(-3, 3), 3) * (not parameters or rng.random() < 0.4))
        for _ in range(rng.choice([0, 1, 2], p=[0.2, 0.6, 0.2]) if parameters else 0):
            # Coefficients of one sign, so that a parameter taken twice cannot cancel.
            coefficient = float(rng.choice(coefficients))
            total = total + coefficient * (unused.pop() if unused else parameters[rng.integers(len(parameters))])
        return -total if rng.random() < 0.3 else total

    names = [name for name in gates if name == "unitary" or GATES[name][1] <= n_qubits]
    deck: list[str] = []
    while len(circuit) < n_gates or unused:
        deck = deck or [names[i] for i in rng.permutation(len(names))]
        name = deck.pop()
        if name == "unitary":
            qubits = rng.permutation(n_qubits)[: rng.integers(1, min(n_qubits, 2) + 1)]
            circuit.unitary(random_unitary(rng, 2 ** len(qubits)), qubits.tolist())
        else:
            n_angles, size = GATES[name]
            circuit.append(name, [angle() for _ in range(n_angles)], rng.permutation(n_qubits)[:size].tolist())
    strings = ["".join(rng.choice(list(letters), n_qubits)) for _ in range(n_observables - 1)]
    return circuit.measure(*strings, "I" * n_qubits)
