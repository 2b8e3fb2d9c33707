"""The unitary engine: all that follows the last input is one matrix, the same for the whole batch.

A circuit is cut after its last gate with an input. The state up to there is computed for every sample; the gates
behind it, whatever their number, act as a matrix U(weights), which the gate engine finds from the ``2**n`` basis
states. Matrix products do the rest: ``phi = psi U^T``, and expectation values of Z strings are ``|phi|^2`` times a
matrix of signs.

It pays for amplitude encoding and for deep circuits on few qubits. Its memory is that of the states before the
products, ``2**n`` to ``2**(n + 1)`` numbers per sample; those behind them are made in pieces, again for the backward
pass.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from hqfkernels import ops
from hqfkernels.circuit import Circuit
from hqfkernels.ops import derivatives
from hqfkernels.program import Measurement, Program, lower
from hqfkernels.static import static

CHUNK = 1 << 16
"""How many numbers of the states after the products are worked on at a time, so that they stay in the cache."""

MAX_QUBITS = 10
"""The matrix of more qubits takes longer than simulating the circuits of any batch that fits into memory."""


@lru_cache(maxsize=256)
def parts(circuit: str, measurement: Measurement) -> tuple[str, str]:
    """Programs of a circuit, given by its text: up to the last input, and behind it on states given as amplitudes.

    The first is empty if it is nothing but amplitude encoding.

    Raises:
        ValueError: if the engine cannot take the circuit; the message says why.
    """
    whole = Circuit.from_text(circuit)
    if whole.n_qubits > MAX_QUBITS:
        raise ValueError(f"the engine takes at most {MAX_QUBITS} qubits, the circuit has {whole.n_qubits}")
    if measurement == "state":
        raise ValueError("the engine computes probabilities, not states")
    other = [string for string in whole.observables if set(string) - set("IZ")]
    if measurement == "expval" and other:
        raise ValueError(f"the engine measures strings of Z only, the circuit asks for {other[0]}")
    with_inputs = [k for k, gate in enumerate(whole.gates) if any(angle.inputs for angle in gate.angles)]
    cut = with_inputs[-1] + 1 if with_inputs else 0
    first, second = Circuit(whole.n_qubits), Circuit(whole.n_qubits).amplitudes()
    for k, gate in enumerate(whole.gates):
        (first if k < cut else second)._append(gate)
    only_amplitudes = cut == 1 and whole.gates[0].name == "amplitudes"
    before, behind = (
        replace(Program.from_text(lower(part.text, "state")), n_weights=whole.n_weights).text
        for part in (first, second)
    )
    return "" if only_amplitudes else before, behind


def forward(
    circuit: Circuit,
    inputs: Tensor,
    weights: Tensor,
    measurement: Measurement = "expval",
    feature_dims: int = 1,
    output_order: Sequence[int] = (),
) -> Tensor:
    """Evaluates the circuit; arguments are checked, and mean what they mean to `hqfkernels.ops`.

    The result's dimensions lie in memory as they come; ``output_order`` tells its shape only.
    """
    before, behind, real, amplitudes, strings = _facts(circuit.text, measurement)
    batch = inputs.shape[: inputs.dim() - feature_dims]
    dtype = torch.float64 if inputs.dtype == torch.float64 else torch.float32
    flat, weights = inputs.to(dtype).flatten(len(batch)), weights.to(dtype)
    run = partial(derivatives.call, "gate_forward")

    if before:
        psi = run(flat, weights, before, 1, [])
        psi = psi[..., ::2] if real else psi
    else:
        psi = flat[..., amplitudes[0] : amplitudes[0] + amplitudes[1]]
        # Their length does not matter, which is why the divisor has no gradient; but its square must be a number.
        psi = psi / psi.detach().abs().amax(-1, keepdim=True)
        if amplitudes[1] < 2**circuit.n_qubits:
            psi = F.pad(psi, (0, 2**circuit.n_qubits - amplitudes[1]))
    basis = torch.eye(2**circuit.n_qubits, dtype=dtype, device=inputs.device)
    sets = weights.shape[:-1]
    matrix = run(basis.expand(*sets, *basis.shape), weights.unsqueeze(-2), behind, 1, [])  # row b: U|b>, (re, im) each
    if not real:  # rows for the imaginary parts: i U|b>
        re, im = matrix.unflatten(-1, (-1, 2)).unbind(-1)
        matrix = torch.stack([matrix, torch.stack([-im, re], -1).flatten(-2)], -2).flatten(-3, -2)

    # Dimensions of the batch along which weights differ go first, so that each set meets its samples in one product.
    offset = len(batch) - len(sets)
    own = [d for d in range(len(batch)) if d >= offset and sets[d - offset] != 1]
    order = own + [d for d in range(len(batch)) if d not in own]
    n_sets = math.prod(sets)
    psi = psi.permute(*order, -1).reshape(n_sets, math.prod(batch) // max(n_sets, 1), psi.shape[-1])
    matrix = matrix.reshape(n_sets, *matrix.shape[-2:])
    values = derivatives.call("born_forward", psi.contiguous(), matrix.contiguous(), strings)
    values = values.reshape(*(batch[d] for d in order), values.shape[-1])
    values = values.permute(*sorted(range(len(order)), key=order.__getitem__), -1)
    return values.reshape(ops.output_shape(inputs, values.shape[-1], feature_dims, output_order))


@static
def _facts(circuit: str, measurement: Measurement) -> tuple[str, str, bool, tuple[int, int], list[int]]:
    """What `forward` needs to know of a circuit, given by its text.

    `parts`, whether the states between them are real, (first input, count) of amplitude encoding, and which bits of a
    basis state have a Z in each observable: none to measure probabilities.
    """
    before, behind = parts(circuit, measurement)
    whole = Circuit.from_text(circuit)
    first = whole.gates[0]
    amplitudes = (first.angles[0].inputs[0][0], len(first.angles)) if first.name == "amplitudes" else (0, 0)
    observables = whole.observables if measurement == "expval" else ()
    strings = [int(string.replace("I", "0").replace("Z", "1"), 2) for string in observables]
    real = not before or Program.from_text(before).is_real
    return before, behind, real, amplitudes, strings


# Probabilities after a matrix: an operator of its own, so that the states behind the matrix are never kept and no state
# needs to be normalised. psi (g, B, K), matrix (g, K, N), the last of real and imaginary parts in turns, both
# contiguous; `strings` are masks of the bits with a Z, none for the probabilities themselves: (g, B, n_outputs).
torch.library.define("hqfkernels::born_forward", "(Tensor psi, Tensor matrix, int[] strings) -> Tensor")
torch.library.define(
    "hqfkernels::born_backward", "(Tensor grad, Tensor psi, Tensor matrix, int[] strings) -> (Tensor, Tensor)"
)


def _pieces(psi: Tensor, matrix: Tensor) -> list[tuple[int, slice]]:
    """Sets of weights and rows of samples that are worked on at a time."""
    rows = max(1, CHUNK // matrix.shape[-1])
    return [(g, slice(k, k + rows)) for g in range(len(psi)) for k in range(0, psi.shape[1], rows)]


def _signs(matrix: Tensor, strings: Sequence[int]) -> Tensor:
    """(N, n_outputs): how the squares of an amplitude's real and imaginary part count in each output."""
    states = torch.arange(matrix.shape[-1] // 2, device=matrix.device)
    if strings:
        bits = states.unsqueeze(-1) & torch.tensor(strings, device=matrix.device)
        signs = torch.stack([1 - 2 * (bits >> k & 1) for k in range(MAX_QUBITS)]).prod(0)
    else:
        signs = torch.eye(len(states), dtype=torch.int64, device=matrix.device)
    return signs.repeat_interleave(2, 0).to(matrix.dtype)


@torch.library.impl("hqfkernels::born_forward", "CompositeExplicitAutograd")
def _born(psi: Tensor, matrix: Tensor, strings: Sequence[int]) -> Tensor:
    """``(psi @ matrix)**2 @ signs / |psi|**2``."""
    result, signs = _born_fake(psi, matrix, strings), _signs(matrix, strings)
    with ops.exact(psi):
        for g, piece in _pieces(psi, matrix):
            states = psi[g, piece]
            values = (states @ matrix[g]).square_() @ signs
            torch.div(values, states.square().sum(-1, keepdim=True), out=result[g, piece])
    return result


@torch.library.register_fake("hqfkernels::born_forward")
def _born_fake(psi: Tensor, matrix: Tensor, strings: Sequence[int]) -> Tensor:
    return psi.new_empty(*psi.shape[:2], len(strings) or matrix.shape[-1] // 2)


@torch.library.impl("hqfkernels::born_backward", "CompositeExplicitAutograd")
def _born_backward(grad: Tensor, psi: Tensor, matrix: Tensor, strings: Sequence[int]) -> tuple[Tensor, Tensor]:
    grad_psi, grad_matrix = _born_backward_fake(grad, psi, matrix, strings)
    grad_matrix.zero_()
    signs = _signs(matrix, strings)
    with ops.exact(psi):
        for g, piece in _pieces(psi, matrix):
            states = psi[g, piece]
            phi = states @ matrix[g]
            scaled = grad[g, piece] / states.square().sum(-1, keepdim=True)
            along = scaled @ signs.mT
            norm_slope = (phi.square() * along).sum(-1, keepdim=True) / states.square().sum(-1, keepdim=True)
            slopes = phi.mul_(along).mul_(2)
            grad_matrix[g].addmm_(states.mT, slopes)
            torch.addmm(states * norm_slope, slopes, matrix[g].mT, beta=-2, out=grad_psi[g, piece])
    return grad_psi, grad_matrix


@torch.library.register_fake("hqfkernels::born_backward")
def _born_backward_fake(grad: Tensor, psi: Tensor, matrix: Tensor, strings: Sequence[int]) -> tuple[Tensor, Tensor]:
    return psi.new_empty(psi.shape), matrix.new_empty(matrix.shape)


def _save(ctx: Any, inputs: tuple[Tensor, Tensor, list[int]], output: Tensor) -> None:
    psi, matrix, ctx.strings = inputs
    ctx.save_for_backward(psi, matrix)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
    return *derivatives.call("born_backward", grad.contiguous(), *ctx.saved_tensors, ctx.strings), None


derivatives.register("born_forward", _save, _differentiate)
derivatives.refuse("born_backward", "unitary")


def _folded(
    size: int, tensors: Sequence[Tensor], in_dims: Sequence[int | None]
) -> tuple[tuple[int, int], list[Tensor]]:
    """The mapped dimension as a part of the first one; the sizes of the two, and the tensors."""
    leading = [ops.lead(tensor, dim, size) for tensor, dim in zip(tensors, in_dims, strict=True)]
    return (size, leading[0].shape[1]), [tensor.flatten(0, 1).contiguous() for tensor in leading]


@torch.library.register_vmap("hqfkernels::born_forward")
def _born_vmap(
    info: Any, in_dims: tuple[Any, ...], psi: Tensor, matrix: Tensor, strings: list[int]
) -> tuple[Tensor, int]:
    sizes, folded = _folded(info.batch_size, (psi, matrix), in_dims[:2])
    return torch.ops.hqfkernels.born_forward(*folded, strings).unflatten(0, sizes), 0


@torch.library.register_vmap("hqfkernels::born_backward")
def _born_backward_vmap(
    info: Any, in_dims: tuple[Any, ...], grad: Tensor, psi: Tensor, matrix: Tensor, strings: list[int]
) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
    sizes, folded = _folded(info.batch_size, (grad, psi, matrix), in_dims[:3])
    grads = torch.ops.hqfkernels.born_backward(*folded, strings)
    return (grads[0].unflatten(0, sizes), grads[1].unflatten(0, sizes)), (0, 0)
