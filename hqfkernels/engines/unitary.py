"""The unitary engine: all that follows the last input is one matrix, the same for the whole batch.

A circuit is cut after its last gate with an input. The state up to there is computed for every sample; the gates
behind it, whatever their number, act as a matrix U(weights), which the gate engine finds from the ``2**n`` basis
states. Matrix products do the rest: ``phi = psi U^T``, and expectation values of Z strings are ``|phi|^2`` times a
matrix of signs.

It pays for amplitude encoding and for deep circuits on few qubits. Its memory is that of the states: ``2**(n + 1)``
numbers per sample, twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from hqfkernels.circuit import Circuit
from hqfkernels.program import Measurement, Program, lower
from hqfkernels.static import static

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
        raise ValueError(f"it takes at most {MAX_QUBITS} qubits, the circuit has {whole.n_qubits}")
    if measurement == "state":
        raise ValueError("it computes probabilities, not states")
    if measurement == "expval" and any(set(string) - set("IZ") for string in whole.observables):
        raise ValueError("it measures strings of Z only")
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
    before, behind, real, amplitudes = _facts(circuit.text, measurement)
    features = inputs.shape[inputs.dim() - feature_dims :]
    batch = inputs.shape[: inputs.dim() - feature_dims]
    dtype = torch.float64 if inputs.dtype == torch.float64 else torch.float32
    inputs, weights = inputs.to(dtype).flatten(len(batch)), weights.to(dtype)
    run = torch.ops.hqfkernels.gate_forward

    if before:
        psi = run(inputs, weights, before, 1, [])
        psi = psi[..., ::2] if real else psi
    else:
        vectors = inputs[..., amplitudes[0] : amplitudes[0] + amplitudes[1]]
        psi = vectors / torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
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
    psi = psi.permute(*order, -1)
    phi = psi.flatten(len(own), -2) if len(own) < len(batch) else psi.unsqueeze(-2)
    phi = phi @ matrix.reshape(*(batch[d] for d in own), *matrix.shape[-2:])
    squares = phi.square()
    if measurement == "expval":
        values = squares @ _signs(circuit.observables, squares)
    else:
        values = squares.unflatten(-1, (-1, 2)).sum(-1)
    values = values.reshape(*(batch[d] for d in order), values.shape[-1])
    values = values.permute(*sorted(range(len(order)), key=order.__getitem__), -1)
    return values.reshape(*batch, *features) if feature_dims > 1 and len(output_order) > len(batch) + 1 else values


def _signs(observables: tuple[str, ...], like: Tensor) -> Tensor:
    """(2 * 2**n, n_observables): the eigenvalue of each string for the real and the imaginary part of an amplitude."""
    one, z = like.new_ones(2), like.new_tensor([1.0, -1.0])
    columns = []
    for string in observables:
        column = like.new_ones(1)
        for letter in string:
            column = torch.outer(column, z if letter == "Z" else one).flatten()
        columns.append(column)
    return torch.stack(columns, -1).repeat_interleave(2, 0)


@static
def _facts(circuit: str, measurement: Measurement) -> tuple[str, str, bool, tuple[int, int]]:
    """`parts`, whether the states between them are real, and (first input, count) of amplitude encoding."""
    before, behind = parts(circuit, measurement)
    first = Circuit.from_text(circuit).gates[0]
    amplitudes = (first.angles[0].inputs[0][0], len(first.angles)) if first.name == "amplitudes" else (0, 0)
    return before, behind, not before or Program.from_text(before).is_real, amplitudes
