"""PennyLane operations as gates: what is taken as it is, what PennyLane takes apart first, what is measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pennylane as qml
from pennylane.devices.preprocess import decompose
from pennylane.operation import DecompositionUndefinedError
from pennylane.ops import Controlled, Exp, Pow
from pennylane.tape import QuantumScript
from torch import Tensor

GATE_NAMES = {
    "PauliX": "x",
    "PauliY": "y",
    "PauliZ": "z",
    "Hadamard": "h",
    "S": "s",
    "Adjoint(S)": "sdg",
    "T": "t",
    "Adjoint(T)": "tdg",
    "SX": "sx",
    "RX": "rx",
    "RY": "ry",
    "RZ": "rz",
    "PhaseShift": "p",
    "U1": "p",
    "Rot": "rot",
    "CNOT": "cx",
    "CY": "cy",
    "CZ": "cz",
    "SWAP": "swap",
    "CRX": "crx",
    "CRY": "cry",
    "CRZ": "crz",
    "ControlledPhaseShift": "cp",
    "IsingXX": "rxx",
    "IsingYY": "ryy",
    "IsingZZ": "rzz",
}
"""PennyLane operation -> the gate that it is."""

TARGET_GATES = {*GATE_NAMES, "Identity", "GlobalPhase", "QubitUnitary"}
"""What PennyLane's decompositions should end in."""


def _is_trained(op: Any) -> bool:
    return any(map(qml.math.requires_grad, op.data))


def _is_constant(op: Any) -> bool:
    return op.batch_size is None and not _is_trained(op)


def _is_small_matrix(op: Any) -> bool:
    """Whether ``op`` goes in as a constant matrix on one or two qubits.

    Operations with angles are taken apart instead where PennyLane can, so that a new angle is not a new circuit.
    """
    if not 1 <= len(op.wires) <= 2 or not _is_constant(op):
        return False
    return bool(op.has_matrix) and (op.num_params == 0 or op.name == "QubitUnitary" or not op.has_decomposition)


def is_gate(op: Any) -> bool:
    """Whether `gates_of` takes the operation as it is."""
    return op.name in GATE_NAMES or op.name in ("Identity", "GlobalPhase") or _is_small_matrix(op)


def gates_of(op: Any) -> Iterator[tuple[str, tuple[int, ...], tuple[tuple[int, float], ...], tuple[complex, ...]]]:
    """The gates of an operation that `is_gate` and whose wires are qubit numbers.

    Yields:
        name, qubits, for each angle (index of the operation's parameter, its factor), and the matrix of a "unitary".
    """
    qubits = tuple(int(w) for w in op.wires)
    if op.name == "GlobalPhase":  # exp(-i phi) = p(-2 phi) rz(2 phi), on any qubit
        yield "rz", (qubits or (0,))[:1], ((0, 2.0),), ()
        yield "p", (qubits or (0,))[:1], ((0, -2.0),), ()
    elif op.name in GATE_NAMES:
        yield GATE_NAMES[op.name], qubits, tuple((k, 1.0) for k in range(op.num_params)), ()
    elif op.name != "Identity":
        matrix = np.asarray(qml.math.to_numpy(op.matrix()), dtype=np.complex128)
        yield "unitary", qubits, (), tuple(matrix.ravel().tolist())


def is_preparation(op: Any) -> bool:
    """Whether the operation sets the state, other than by gates."""
    return isinstance(op, qml.operation.StatePrepBase) and not isinstance(op, qml.BasisState)


def is_real_preparation(op: Any) -> bool:
    """Whether the operation prepares a state with real amplitudes, which is how a circuit may begin."""
    if not isinstance(op, qml.StatePrep) or qml.math.is_abstract(op.data[0]) or "sparse" in type(op.data[0]).__module__:
        return False
    return not np.any(np.imag(qml.math.to_numpy(op.data[0])))


@qml.transform
def to_gates(tape: QuantumScript, name: str) -> tuple[Sequence[QuantumScript], Any]:
    """Takes a tape apart until only gates are left, and matrices that are none; see `_stays`.

    A preparation of a state at the beginning stays as it is.

    Args:
        tape: the tape.
        name: who asks, for error messages.

    Raises:
        DeviceError: for an operation that is neither, with its name.
    """
    prepared = bool(tape.operations) and is_preparation(tape.operations[0])
    return [take_apart(tape, name, prepared, _stays, _parts_or_matrix)], lambda results: results[0]


def _stays(op: Any) -> bool:
    """Gates, and matrices that PennyLane cannot take apart for a batch, or not with derivatives."""
    whole = op.name == "QubitUnitary" and (_is_trained(op) or (op.batch_size is not None and len(op.wires) > 1))
    return whole or is_gate(op)


def _parts(op: Any) -> list[Any]:
    """PennyLane's decomposition of an operation, by way of its matrix where there is no other."""
    if isinstance(op, Controlled) and op.base.name in ("RX", "RY", "RZ") and len(op.control_wires) > 1:
        # PennyLane's own takes one angle at a time. Flips of the axis that are controlled turn the second half back.
        first, second = (type(op.base)(half, wires=op.base.wires) for half in (op.data[0] / 2, -op.data[0] / 2))
        axis = qml.Z if op.base.name == "RX" else qml.X
        flip = qml.ctrl(axis(op.base.wires), op.control_wires, op.control_values)
        return [first, flip, second, flip]
    # A root is one of several; PennyLane's simulator takes that of the matrix, except where it differentiates.
    root = isinstance(op, Pow) and op.z % 1 != 0 and not _is_trained(op)
    if root and op.batch_size is not None:
        raise DecompositionUndefinedError(f"{op.name} is not taken apart for a batch")
    if op.name == "QubitUnitary":
        _check_unitary(op)
    elif (root or not op.has_decomposition) and op.has_matrix and _is_constant(op):
        return [qml.QubitUnitary(op.matrix(), wires=op.wires)]
    parts = op.decomposition()
    return [parts] if isinstance(parts, qml.operation.Operator) else parts  # a power of qml.exp is no list


def _check_unitary(op: Any) -> None:
    if _is_constant(op):
        matrix = qml.math.to_numpy(op.matrix())
        if not np.allclose(matrix @ np.conj(matrix.T), np.eye(len(matrix)), rtol=0, atol=1e-8):
            raise ValueError(f"QubitUnitary on wires {op.wires.tolist()}: expected a unitary matrix, got another")


def _parts_or_matrix(op: Any) -> list[Any]:
    """As `_parts`, and the matrix where they fail. It is computed here, where its parameters are the caller's own."""
    if op.name == "QubitUnitary":
        return _parts(op)
    if op.has_matrix and _is_trained(op) and any(qml.math.ndim(d) > 1 for d in op.data):
        return [_by_matrix(op)]  # decompositions of matrices have no derivatives
    try:
        return _parts(op)
    except Exception:  # PennyLane's decompositions have many ways to fail, for batches above all
        if not op.has_matrix:
            raise
        return [_by_matrix(op)]


def _by_matrix(op: Any) -> Any:
    """The operation as a matrix, differentiable in its parameters by their own interface."""
    if isinstance(op, Controlled) and isinstance(op.base, Exp):
        op = Controlled(_by_matrix(op.base), op.control_wires, op.control_values)
    matrix = _exponential(op) if isinstance(op, Exp) else op.matrix()
    return qml.QubitUnitary(matrix, wires=op.wires)


def _exponential(op: Any) -> Any:
    """The matrix of a `qml.exp`, by eigenvectors: PennyLane's own has wrong derivatives in autograd."""
    base = op.base.matrix()
    if _is_trained(op.base) or not np.allclose(base, np.conj(base.T), rtol=0, atol=1e-8):
        if any(qml.math.get_interface(d) == "autograd" and qml.math.requires_grad(d) for d in op.data):
            raise NotImplementedError(
                f"{op.name} on wires {op.wires.tolist()}: autograd differentiates its first parameter only, "
                "and only of a Hermitian operator; the torch and jax interfaces differentiate all"
            )
        return op.matrix()
    values, vectors = np.linalg.eigh(base)
    phases = qml.math.exp(qml.math.tensordot(op.scalar, values, axes=0))
    spread = qml.math.expand_dims(phases, -2) * qml.math.cast_like(qml.math.convert_like(vectors, phases), phases)
    return qml.math.matmul(spread, qml.math.cast_like(qml.math.convert_like(np.conj(vectors.T), phases), phases))


def take_apart(
    tape: QuantumScript,
    name: str,
    keep_preparation: bool,
    stays: Callable[[Any], bool] = is_gate,
    parts: Callable[[Any], list[Any]] = _parts,
) -> QuantumScript:
    """The tape of the parts of its operations that ``stays`` is true of; errors as in `to_gates`.

    Args:
        tape: the tape.
        name: who asks, for error messages.
        keep_preparation: whether a preparation of a state at the beginning stays as it is.
        stays: what is not taken apart.
        parts: takes an operation apart.
    """
    (result,), _ = decompose(
        tape,
        stays,
        skip_initial_state_prep=keep_preparation,
        decomposer=parts,
        num_work_wires=0,
        target_gates=TARGET_GATES,
        name=name,
    )
    return result


def amplitude_positions(wires: Sequence[int], n_qubits: int) -> list[int]:
    """For each basis state of ``wires`` (the first one the high bit): its index in the register, the rest in |0>."""
    bits = [1 << (n_qubits - 1 - q) for q in wires]
    positions = [0]
    for bit in bits:
        positions = [p | value for p in positions for value in (0, bit)]
    return positions


def pauli_strings(observable: Any, n_qubits: int) -> dict[str, Any] | None:
    """The observable as Pauli string -> coefficient, or None if it is no sum of Pauli words."""
    if observable is None or observable.pauli_rep is None:
        return None
    strings = {}
    for word, coefficient in observable.pauli_rep.items():
        letters = ["I"] * n_qubits
        for wire, letter in word.items():
            letters[int(wire)] = letter
        strings["".join(letters)] = coefficient
    return strings


def marginal(every: Tensor, wires: tuple[int, ...], n_qubits: int) -> Tensor:
    """Probabilities of ``wires`` (all, if empty) in that order, from those of the register (..., 2**n)."""
    if not wires or wires == tuple(range(n_qubits)):
        return every
    batch = every.dim() - 1
    bits = every.unflatten(-1, (2,) * n_qubits)
    rest = [q for q in range(n_qubits) if q not in wires]
    order = [*range(batch), *(batch + q for q in (*wires, *rest))]
    return bits.permute(order).flatten(batch).unflatten(-1, (2 ** len(wires), -1)).sum(-1)
