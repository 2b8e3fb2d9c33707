"""Tapes that the engines do not take, and what is measured on states: in torch, so that torch differentiates it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pennylane as qml
import torch
from pennylane.devices.qubit import apply_operation, get_final_state
from pennylane.devices.qubit.measure import measure as measure_state
from pennylane.measurements import ExpectationMP, MeasurementProcess, VarianceMP
from pennylane.ops import Prod, SProd, Sum
from pennylane.tape import QuantumScript
from torch import Tensor

DOUBLE = (torch.float64, torch.complex128)


def in_double(tape: QuantumScript) -> QuantumScript:
    """The tape with its tensors in double precision; PennyLane computes in theirs."""
    given = tape.get_parameters(trainable_only=False)
    singles = [k for k, v in enumerate(given) if isinstance(v, Tensor) and v.dtype not in DOUBLE]
    return tape.bind_new_parameters([double(given[k], given[k].device) for k in singles], singles) if singles else tape


def double(value: Any, device: torch.device) -> Tensor:
    """A number or an array as a tensor in double precision, real or complex as it is."""
    tensor = torch.as_tensor(value if isinstance(value, Tensor) else np.asarray(value), device=device)
    return tensor.to(torch.complex128 if tensor.is_complex() else torch.float64)


def final_state(tape: QuantumScript, device: torch.device) -> Tensor:
    """PennyLane's simulation of a tape on wires 0, 1, ...: complex128 (2, ..., 2) or (B, 2, ..., 2)."""
    tape = in_double(tape)
    torches = any(isinstance(value, Tensor) for value in tape.get_parameters(trainable_only=False))
    state, _ = get_final_state(tape, interface="torch" if torches else None)
    return torch.as_tensor(state, device=device).to(torch.complex128)


@qml.transform
def check_observables(tape: QuantumScript, real: bool) -> tuple[Sequence[QuantumScript], Any]:
    """Refuses observables that are not Hermitian, except where their expectation values are right all the same.

    Args:
        tape: the tape.
        real: whether expectation values must be real.

    Raises:
        ValueError: with the measurement.
    """
    for mp in tape.measurements:
        # What jax traces has no values yet.
        traced = mp.obs and any(qml.math.get_interface(d) == "jax" and qml.math.requires_grad(d) for d in mp.obs.data)
        if mp.obs is None or traced or is_hermitian(mp.obs):
            continue
        if isinstance(mp, VarianceMP) or real:
            reason = "" if isinstance(mp, VarianceMP) else "; jax takes real results only"
            raise ValueError(f"{mp}: expected a Hermitian observable, got one that is not{reason}")
        if (tape.shots or not isinstance(mp, ExpectationMP)) and not _is_normal(mp.obs):
            raise ValueError(f"{mp}: expected an observable with orthogonal eigenvectors, to measure in their basis")
    return (tape,), lambda results: results[0]


def _is_normal(op: Any) -> bool:
    if isinstance(op, Sum):  # PennyLane measures its terms one by one
        return all(map(_is_normal, op.operands))
    if is_hermitian(op):
        return True
    matrix = qml.math.to_numpy(op.matrix())
    adjoint = np.conj(np.swapaxes(matrix, -1, -2))
    return bool(np.allclose(matrix @ adjoint, adjoint @ matrix, rtol=0, atol=1e-8))


def measure(mp: MeasurementProcess, state: Tensor, batched: bool) -> Tensor:
    """What the measurement gives on the state (2, ..., 2) or, if ``batched``, (B, 2, ..., 2).

    An expectation value is <state|O|state> for whatever operator O is, and complex if O is not Hermitian.

    Raises:
        ValueError: if a `qml.Hermitian` is not Hermitian.
    """
    if not isinstance(mp, (ExpectationMP, VarianceMP)) or mp.obs is None:
        if state.requires_grad:
            return measure_state(mp, state, is_state_batched=batched)
        # Measurements of one's own may be written for numpy, and return a plain number.
        value = measure_state(mp, state.cpu().numpy(), is_state_batched=batched)
        return torch.as_tensor(np.asarray(value), device=state.device)
    image = _image(mp.obs, state, batched)
    mean = _overlap(state, image, batched)
    if isinstance(mp, VarianceMP):
        return _overlap(image, image, batched).real - mean.real**2
    return mean.real if is_hermitian(mp.obs) else mean


def _overlap(bra: Tensor, ket: Tensor, batched: bool) -> Tensor:
    return (bra.conj() * ket).flatten(int(batched)).sum(-1) if ket.dim() > batched else bra.conj() * ket


def _image(op: Any, state: Tensor, batched: bool) -> Tensor:
    """The operator applied to the state, which is not normalised after it."""
    if isinstance(op, SProd):
        scalar = double(op.scalar, state.device)
        if scalar.dim():
            raise ValueError(f"{op}: expected one coefficient, got shape {tuple(scalar.shape)}")
        return scalar * _image(op.base, state, batched)
    if isinstance(op, Sum):
        images = [_image(term, state, batched) for term in op.operands]
        return torch.stack(images).sum(0)
    if isinstance(op, Prod):
        for factor in reversed(op.operands):
            state = _image(factor, state, batched)
        return state
    if isinstance(op, qml.Projector):
        return _project(op, state, batched)
    if isinstance(op, qml.SparseHamiltonian):
        entries = op.sparse_matrix(wire_order=range(state.dim() - batched)).tocoo()
        places = torch.from_numpy(np.stack([entries.row, entries.col])).to(state.device)
        values = torch.from_numpy(entries.data).to(state)
        matrix = torch.sparse_coo_tensor(places, values, entries.shape, check_invariants=False)
        columns = state.reshape(-1, entries.shape[0]).mT
        return torch.sparse.mm(matrix, columns).mT.reshape(state.shape)
    if not op.wires:  # an identity
        return state
    return apply_operation(op, state, is_state_batched=batched)


def _project(op: Any, state: Tensor, batched: bool) -> Tensor:
    """By vectors, as the matrix of a projector on many wires is huge."""
    size = 2 ** len(op.wires)
    onto = double(op.data[0], state.device).to(state.dtype)
    if op.name == "Projector" and len(onto) != size:  # a basis state by its bits
        index = int("".join(str(int(bit)) for bit in op.data[0]), 2)
        onto = state.new_zeros(size).index_fill(0, torch.tensor(index, device=state.device), 1)
    axes, first = [int(w) + batched for w in op.wires], list(range(int(batched), batched + len(op.wires)))
    moved = state.movedim(axes, first)
    flat = moved.reshape(*state.shape[: int(batched)], size, -1)
    return (onto[:, None] * (onto.conj() @ flat)[..., None, :]).reshape(moved.shape).movedim(first, axes)


def is_real(coefficient: Any) -> bool:
    """Whether a coefficient is real but for rounding: those of products of Pauli words are complex in dtype."""
    number = complex(qml.math.to_numpy(coefficient))
    return abs(number.imag) <= 1e-12 * max(1.0, abs(number))


def is_hermitian(op: Any) -> bool:
    """Whether the operator is Hermitian; raises ValueError for a `qml.Hermitian` that is not."""
    if op.pauli_rep is not None:
        return all(map(is_real, op.pauli_rep.values()))
    if isinstance(op, qml.Projector):
        return True
    if isinstance(op, SProd) and not np.any(np.imag(qml.math.to_numpy(op.scalar))) and is_hermitian(op.base):
        return True
    apart = isinstance(op, Sum) or (isinstance(op, Prod) and len(op.wires) == sum(len(o.wires) for o in op.operands))
    if apart and all(map(is_hermitian, op.operands)):
        return True
    if isinstance(op, qml.SparseHamiltonian):
        matrix = op.sparse_matrix()
        return bool(abs(matrix - matrix.conj().T).max() <= 1e-6)
    matrix = qml.math.to_numpy(op.matrix())
    # Matrices may come from a computation in single precision.
    hermitian = bool(np.allclose(matrix, np.conj(np.swapaxes(matrix, -1, -2)), rtol=1e-5, atol=1e-6))
    if isinstance(op, qml.Hermitian) and not hermitian:
        raise ValueError(f"{op}: expected a Hermitian matrix, got one that is not")
    return hermitian
