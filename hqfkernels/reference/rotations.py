"""Plain-torch run of a lowered program with adjoint gradients: what the ops compute where no compiled kernel is.

Duck-typed on `hqfkernels.program.Program`, so that this package imports torch alone. Values follow the program
rotation by rotation; gradients follow the adjoint method (Jones, Gacon, arXiv 2009.02823): with ``lam`` the observable
applied to the final state, both are taken back through the rotations, and the gradient of an angle is
``Im <lam| P |psi>``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hqfkernels.reference.circuit import within_turns


def _parity(n_qubits: int, mask: int, device: torch.device) -> Tensor:
    """(2**n,) of +1 / -1: (-1) to the number of bits that an index shares with ``mask``."""
    index = torch.arange(2**n_qubits, device=device) & mask
    for shift in (16, 8, 4, 2, 1):
        index = index ^ (index >> shift)
    return 1 - 2 * (index & 1)


def _apply_pauli(state: Tensor, n_qubits: int, x: int, z: int) -> Tensor:
    """P state, P the Hermitian Pauli string with masks x and z; state (..., 2**n)."""
    phase = 1j ** ((x & z).bit_count() % 4)
    signed = state * (_parity(n_qubits, z, state.device) * phase)
    if x == 0:
        return signed
    return signed[..., torch.arange(2**n_qubits, device=state.device) ^ x]


def _angle(angle: Any, inputs: Tensor, weights: Tensor) -> Tensor:
    """The angle's value in radians, shape of the batch (or broadcastable to it)."""
    value = inputs.new_full((), within_turns(angle.constant))
    for k, c in angle.inputs:
        value = value + c * inputs[..., k]
    for k, c in angle.weights:
        value = value + c * weights[..., k]
    return value


def _inner_real(a: Tensor, b: Tensor) -> Tensor:
    """Re <a|b>. Written out because lazy conjugation is silently lost when a compiled graph calls an operator."""
    return (a.real * b.real + a.imag * b.imag).sum(-1)


def _inner_imag(a: Tensor, b: Tensor) -> Tensor:
    """Im <a|b>; see `_inner_real`."""
    return (a.real * b.imag - a.imag * b.real).sum(-1)


def _rotate(state: Tensor, n_qubits: int, rotation: Any, angle: Tensor) -> Tensor:
    half = 0.5 * angle[..., None]
    return half.cos() * state - 1j * half.sin() * _apply_pauli(state, n_qubits, rotation.x, rotation.z)


def _scaled_amplitudes(program: Any, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """The inputs that give the initial state over the largest of them, so that squares stay numbers; and that one."""
    first, count = program.amplitudes
    vector = inputs[..., first : first + count]
    scale = vector.abs().amax(-1, keepdim=True)
    return vector / scale, scale


def _final_state(program: Any, inputs: Tensor, weights: Tensor) -> Tensor:
    batch = torch.broadcast_shapes(inputs.shape[:-1], weights.shape[:-1])
    dtype = torch.complex128 if inputs.dtype == torch.float64 else torch.complex64
    state = torch.zeros(*batch, 2**program.n_qubits, dtype=dtype, device=inputs.device)
    if program.amplitudes is None:
        state[..., 0] = 1
    else:
        vector, _ = _scaled_amplitudes(program, inputs)
        state[..., : vector.shape[-1]] = vector / torch.linalg.vector_norm(vector, dim=-1, keepdim=True)
    for rotation in program.rotations:
        state = _rotate(state, program.n_qubits, rotation, _angle(rotation.angle, inputs, weights))
    return state


def _frame_index(program: Any, device: torch.device) -> Tensor:
    """(2**n,): where each logical basis state sits in the program's state."""
    offset, *columns = program.frame
    logical = torch.arange(2**program.n_qubits, device=device)
    index = torch.full_like(logical, offset)
    for k, column in enumerate(columns):
        index = index ^ (((logical >> k) & 1) * column)
    return index


def forward(program: Any, inputs: Tensor, weights: Tensor) -> Tensor:
    """Runs ``program``.

    Args:
        program: a `hqfkernels.program.Program`.
        inputs: (*batch, n_inputs), float32 or float64, radians.
        weights: (*g, n_weights), g broadcastable against batch, same dtype.

    Returns:
        (*batch, n_outputs), in the dtype of ``inputs``.
    """
    state = _final_state(program, inputs, weights)
    if program.measurement == "expval":
        values = [
            sign * _inner_real(state, _apply_pauli(state, program.n_qubits, x, z)) for x, z, sign in program.observables
        ]
        return torch.stack(values, -1)
    logical = state[..., _frame_index(program, state.device)]
    if program.measurement == "probs":
        return logical.real.square() + logical.imag.square()
    return torch.view_as_real(logical).flatten(-2)


def backward(program: Any, grad: Tensor, inputs: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of ``(grad * forward(...)).sum()``; shapes as in `forward`, grad (*batch, n_outputs).

    Returns:
        Gradients with the shapes of ``inputs`` (batch-broadcast) and ``weights``.
    """
    n = program.n_qubits
    psi = _final_state(program, inputs, weights)
    lam = torch.zeros_like(psi)
    if program.measurement == "expval":
        for k, (x, z, sign) in enumerate(program.observables):
            lam = lam + sign * grad[..., k, None] * _apply_pauli(psi, n, x, z)
    elif program.measurement == "probs":
        lam[..., _frame_index(program, psi.device)] = grad.to(psi.dtype)
        lam = lam * psi
    else:  # a change of psi by d changes the result by 2 Re <lam|d>
        lam[..., _frame_index(program, psi.device)] = (
            torch.view_as_complex(grad.unflatten(-1, (-1, 2)).contiguous()) / 2
        )
    batch = psi.shape[:-1]
    grad_inputs = inputs.new_zeros(*batch, inputs.shape[-1])
    grad_weights = weights.new_zeros(*batch, weights.shape[-1])
    for rotation in reversed(program.rotations):
        slope = _inner_imag(lam, _apply_pauli(psi, n, rotation.x, rotation.z))
        for k, c in rotation.angle.inputs:
            grad_inputs[..., k] += c * slope
        for k, c in rotation.angle.weights:
            grad_weights[..., k] += c * slope
        back = -_angle(rotation.angle, inputs, weights)
        psi, lam = _rotate(psi, n, rotation, back), _rotate(lam, n, rotation, back)
    if program.amplitudes is not None:
        first, count = program.amplitudes
        vector, scale = _scaled_amplitudes(program, inputs)
        norm = torch.linalg.vector_norm(vector, dim=-1, keepdim=True)
        slope = 2 * lam.real[..., :count]
        unit = vector / norm
        grad_inputs[..., first : first + count] += (slope - unit * (unit * slope).sum(-1, keepdim=True)) / norm / scale
    return grad_inputs, grad_weights.sum_to_size(weights.shape)
