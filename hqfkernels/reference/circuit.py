"""Circuits simulated gate by gate in plain torch: the oracle, and the fallback where nothing faster can run.

Imports torch and the standard library only, runs on any device, and is differentiable to any order in inputs and
weights. The arguments are taken as checked (`hqfkernels.functional` does that).

Shapes, for all functions: ``inputs`` is (..., n_inputs); ``weights`` is (*g, n_weights), where g broadcasts against the
leading dimensions of ``inputs`` as usual, aligned on the right. Angles are in radians. Float64 inputs are computed in
float64, all others in float32, whatever the dtype of the weights.
"""

from __future__ import annotations

import math
from functools import reduce
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from hqfkernels.circuit import Angle, Circuit

_R = 0.5**0.5
_COMPLEX = {torch.float32: torch.complex64, torch.float64: torch.complex128}
_CONSTANT: dict[str, list[list[complex]]] = {
    "i": [[1, 0], [0, 1]],
    "x": [[0, 1], [1, 0]],
    "y": [[0, -1j], [1j, 0]],
    "z": [[1, 0], [0, -1]],
    "h": [[_R, _R], [_R, -_R]],
    "s": [[1, 0], [0, 1j]],
    "sdg": [[1, 0], [0, -1j]],
    "t": [[1, 0], [0, _R + _R * 1j]],
    "tdg": [[1, 0], [0, _R - _R * 1j]],
    "sx": [[0.5 + 0.5j, 0.5 - 0.5j], [0.5 - 0.5j, 0.5 + 0.5j]],
    "swap": [[1, 0, 0, 0], [0, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 1]],
}
_ZERO: list[list[complex]] = [[1, 0], [0, 0]]  # |0><0|
_ONE: list[list[complex]] = [[0, 0], [0, 1]]  # |1><1|


def statevector(circuit: Circuit, inputs: Tensor, weights: Tensor) -> Tensor:
    """Final state of the circuit, complex (..., 2**n_qubits), qubit 0 being the high bit of the index.

    A sample that "amplitudes" encodes must not be all zeros: it has no direction, and its state is NaN.
    """
    n = circuit.n_qubits
    real = torch.float64 if inputs.dtype == torch.float64 else torch.float32
    inputs, weights = inputs.to(real), weights.to(real)
    batch = torch.broadcast_shapes(inputs.shape[:-1], weights.shape[:-1])

    # The state carries one axis of length 2 for each qubit after those of the batch.
    zero = torch.eye(1, 2**n, dtype=_COMPLEX[real], device=inputs.device)[0]
    state = zero.expand(*batch, 2**n).reshape(*batch, *(2,) * n)
    for gate in circuit.gates:
        angles = [_angle(a, inputs, weights) for a in gate.angles]
        if gate.name == "amplitudes":
            vector = torch.stack(angles, -1)
            # The result does not depend on this divisor, which keeps squares within the range of numbers.
            vector = vector / vector.detach().abs().amax(-1, keepdim=True)
            vector = vector / torch.linalg.vector_norm(vector, dim=-1, keepdim=True)
            vector = torch.nn.functional.pad(vector, (0, 2**n - vector.shape[-1]))
            state = vector.to(state.dtype).expand(*batch, 2**n).reshape(state.shape)
        elif gate.name == "unitary":
            size = 2 ** len(gate.qubits)
            state = _apply(state, zero.new_tensor(gate.matrix).reshape(size, size), gate.qubits, n)
        else:
            state = _apply(state, gate_matrix(gate.name, angles, zero), gate.qubits, n)
    return state.reshape(*batch, 2**n)


def probs(circuit: Circuit, inputs: Tensor, weights: Tensor) -> Tensor:
    """Probability of every basis state, real (..., 2**n_qubits), ordered like `statevector`."""
    state = statevector(circuit, inputs, weights)
    return state.real**2 + state.imag**2


def expval(circuit: Circuit, inputs: Tensor, weights: Tensor) -> Tensor:
    """Expectation values of the circuit's Pauli strings, real (..., n_observables), in the order of `measure`."""
    n = circuit.n_qubits
    flat = statevector(circuit, inputs, weights)
    state = flat.reshape(*flat.shape[:-1], *(2,) * n)
    values = []
    for observable in circuit.observables:
        image = state
        for qubit, pauli in enumerate(observable.lower()):
            if pauli != "i":
                image = _apply(image, flat.new_tensor(_CONSTANT[pauli]), (qubit,), n)
        overlap = state.real * image.real + state.imag * image.imag
        values.append(overlap.reshape(flat.shape).sum(-1))
    return torch.stack(values, -1)


def _angle(angle: Angle, inputs: Tensor, weights: Tensor) -> Tensor:
    """The value of ``angle`` for each sample, each group or, for a constant, once.

    Numbers are tensors here: in forward mode under vmap, torch takes a Python number times a tensor without dimensions
    to double precision.
    """

    def number(value: float) -> Tensor:
        if abs(value) > torch.finfo(inputs.dtype).max:
            value = math.copysign(math.inf, value)
        return torch.full((), value, dtype=inputs.dtype, device=inputs.device)

    value = number(within_turns(angle.constant))
    for k, coefficient in angle.inputs:
        value = value + number(coefficient) * inputs[..., k]
    for k, coefficient in angle.weights:
        value = value + number(coefficient) * weights[..., k]
    return value


def within_turns(angle: float) -> float:
    """The same angle within two turns, whatever its size: all gates repeat after two, and float32 holds it well."""
    return 2 * math.atan2(math.sin(angle / 2), math.cos(angle / 2))


def gate_matrix(name: str, angles: list[Tensor], like: Tensor) -> Tensor:
    """The gate as (..., 2**k, 2**k) with the dtype and device of ``like``; a gate's first qubit is the high bit."""
    if name in _CONSTANT:
        return like.new_tensor(_CONSTANT[name])
    zero, one = like.new_tensor(_ZERO), like.new_tensor(_ONE)
    if name.startswith("c"):
        return torch.kron(zero, zero + one) + torch.kron(one, gate_matrix(name[1:], angles, like))
    if name == "p":
        return zero + torch.exp(1j * angles[0][..., None, None]) * one
    if name == "rot":
        first, second, third = (gate_matrix(n, [a], like) for n, a in zip(("rz", "ry", "rz"), angles, strict=True))
        return third @ second @ first
    # What is left is exp(-i angle P / 2) with P spelled by the letters after the r: rx, ry, rz, rxx, ryy, rzz.
    pauli = reduce(torch.kron, [like.new_tensor(_CONSTANT[letter]) for letter in name[1:]])
    half = angles[0][..., None, None] / 2
    return torch.cos(half) * torch.eye(len(pauli), dtype=like.dtype, device=like.device) - 1j * torch.sin(half) * pauli


def _apply(state: Tensor, matrix: Tensor, qubits: tuple[int, ...], n: int) -> Tensor:
    """``matrix`` (..., 2**k, 2**k) on k qubits of ``state`` (..., 2, 2, ..., 2), whose last n axes are the qubits."""
    k = len(qubits)
    axes, last = tuple(q - n for q in qubits), tuple(range(-k, 0))
    moved = state.movedim(axes, last)
    rows = moved.reshape(*moved.shape[: moved.dim() - n], 2 ** (n - k), 2**k)
    return (rows @ matrix.mT).reshape(moved.shape).movedim(last, axes)
