"""The gate engine on cuStateVec: batches of large states, adjoint gradients.

The results are those of `hqfkernels.reference.rotations`, computed block by block (`hqfkernels.blocks`): each block is
one call for the whole batch. Gradients follow the adjoint method (Jones, Gacon, arXiv 2009.02823): psi and lam, the
observables applied to psi, go back through the blocks together, one call for both. Before a block with angles is
undone, its environment E = lam psi^dagger, traced over all other qubits, is all that its gradients need: with
M = F_L ... F_1, the slope along the angle of the last factor is Re tr(E^dagger G_L), and E' = F_L^dagger E F_L is the
environment of the factors before it. Those are small matrices, handled for all blocks at once.

Matrices and environments are double precision whatever the states are; nothing waits for the device.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache, reduce
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from hqfkernels.backends.custatevec import Session, session
from hqfkernels.blocks import BLOCK_QUBITS, Block, Blocks, Matrix, turn_matrix
from hqfkernels.circuit import Angle

MEMORY_FRACTION = 0.5
"""Share of the free memory that a chunk of the batch may take."""

ENVIRONMENT_AMPLITUDES = 2**24
"""Amplitudes that are copied at a time for environments, or those of one sample if it has more."""
ENVIRONMENT_SUM = 4096
"""Products of amplitudes that a multiplication of matrices adds up in one go."""

SIDE = 2**BLOCK_QUBITS
"""Rows of a block's matrix."""

HADAMARD_QUBITS = 5
"""Signs of Z strings are multiplied in for so many qubits at a time."""


def forward(recipe: Blocks, inputs: Tensor, weights: Tensor) -> Tensor:
    """Runs ``recipe`` on a GPU.

    Args:
        recipe: blocks and measurement.
        inputs: (*batch, n_inputs), float32 or float64, radians.
        weights: (*g, n_weights), g broadcastable against batch, same dtype.

    Returns:
        (*batch, n_outputs), in the dtype of ``inputs``.

    Raises:
        RuntimeError: if the inputs are not on a GPU, or cuStateVec cannot be used.
    """
    batch = inputs.shape[:-1]
    with torch.cuda.device_of(inputs):
        run = session(inputs.device)
        inputs, weights = _flat(inputs, weights)
        result = inputs.new_empty(len(inputs), recipe.n_outputs)
        for chunk in _chunks(run, recipe, inputs, weights, copies=1):
            gates = Gates(run, recipe, inputs[chunk], _own(weights, chunk))
            states = _initial(recipe, inputs[chunk], copies=1)
            gates.apply(states[0])
            result[chunk] = _measure(run, recipe, states[0])
    return result.view(*batch, recipe.n_outputs)


def backward(recipe: Blocks, grad: Tensor, inputs: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of ``(grad * forward(...)).sum()``; shapes as in `forward`, grad (*batch, n_outputs).

    Returns:
        Gradients with the shapes of ``inputs`` and ``weights``.
    """
    shapes = inputs.shape, weights.shape
    with torch.cuda.device_of(inputs):
        run = session(inputs.device)
        inputs, weights = _flat(inputs, weights)
        grad = grad.reshape(len(inputs), recipe.n_outputs)
        grad_inputs = torch.empty_like(inputs)
        slopes: list[Tensor] = []  # along the weights, of each sample
        for chunk in _chunks(run, recipe, inputs, weights, copies=2):
            gates = Gates(run, recipe, inputs[chunk], _own(weights, chunk))
            states = _initial(recipe, inputs[chunk], copies=2)
            gates.apply(states[0])
            _observe(run, recipe, states, grad[chunk])
            along_inputs, along_weights = gates.undo(states)
            if recipe.amplitudes is not None:
                _differentiate_amplitudes(recipe.amplitudes, inputs[chunk], states[1], along_inputs)
            grad_inputs[chunk] = along_inputs
            slopes.append(along_weights)
        sample_slopes = torch.cat([weights.new_zeros(0, recipe.n_weights, dtype=torch.float64), *slopes])
        if weights.dim() == 1:  # one sum over all samples, so that it does not depend on the chunks
            grad_weights = sample_slopes.sum(0).view(shapes[1])
        else:
            grad_weights = sample_slopes.view(*shapes[0][:-1], recipe.n_weights).sum_to_size(shapes[1])
    return grad_inputs.view(shapes[0]), grad_weights.to(weights.dtype)


# --- the batch ------------------------------------------------------------------------------------------------------


def _flat(inputs: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Inputs (B, n_inputs); weights (n_weights,) if all samples share them, else (B, n_weights)."""
    batch = inputs.shape[:-1]
    if weights.shape[:-1].numel() == 1:
        weights = weights.reshape(-1)
    else:
        weights = weights.expand(*batch, weights.shape[-1]).reshape(batch.numel(), weights.shape[-1])
    return inputs.reshape(batch.numel(), inputs.shape[-1]), weights


def _own(weights: Tensor, chunk: slice) -> Tensor:
    return weights if weights.dim() == 1 else weights[chunk]


def _chunks(run: Session, recipe: Blocks, inputs: Tensor, weights: Tensor, copies: int) -> Iterator[slice]:
    """Parts of the batch whose states, with what else a sample needs, fit into a fraction of the free memory."""
    amplitudes = 2**recipe.n_qubits
    widest = max((2 ** len(group.qubits) for basis in recipe.bases for group in basis.groups), default=0)
    if recipe.measurement != "expval":
        widest = amplitudes
    _, own, _ = _kinds(run, recipe, weights.dim() == 2)
    matrices = math.prod(own.shape) + len(recipe.blocks)  # factors of their own, environments
    # States; three arrays of probabilities; three arrays of matrices.
    sample = copies * amplitudes * 2 * inputs.itemsize + 3 * 8 * widest + 3 * 16 * SIDE**2 * matrices
    environment = 16 * max(2 * amplitudes, ENVIRONMENT_AMPLITUDES) if copies == 2 else 0
    rows = max(1, int(MEMORY_FRACTION * run.free_memory() - environment) // sample)
    for start in range(0, len(inputs), rows):
        yield slice(start, min(start + rows, len(inputs)))


def _initial(recipe: Blocks, inputs: Tensor, copies: int) -> Tensor:
    """(copies, S, 2**n): the first copy in its initial state, the others zero."""
    dtype = torch.complex128 if inputs.dtype == torch.float64 else torch.complex64
    states = torch.zeros(copies, len(inputs), 2**recipe.n_qubits, dtype=dtype, device=inputs.device)
    if recipe.amplitudes is None:
        states[0, :, 0] = 1
    else:
        vector, _ = _scaled_amplitudes(recipe.amplitudes, inputs)
        states[0, :, : vector.shape[-1]] = vector / torch.linalg.vector_norm(vector, dim=-1, keepdim=True)
    return states


def _scaled_amplitudes(amplitudes: tuple[int, int], inputs: Tensor) -> tuple[Tensor, Tensor]:
    """The inputs that give the initial state over the largest of them, so that squares stay numbers; and that one."""
    first, count = amplitudes
    vector = inputs[:, first : first + count]
    scale = vector.abs().amax(-1, keepdim=True)
    return vector / scale, scale


def _differentiate_amplitudes(amplitudes: tuple[int, int], inputs: Tensor, lam: Tensor, along_inputs: Tensor) -> None:
    """Adds the gradients that the initial state gives, ``lam`` being back there."""
    first, count = amplitudes
    vector, scale = _scaled_amplitudes(amplitudes, inputs)
    norm = torch.linalg.vector_norm(vector, dim=-1, keepdim=True)
    slope = 2 * lam[:, :count].real
    unit = vector / norm
    along_inputs[:, first : first + count] += (slope - unit * (unit * slope).sum(-1, keepdim=True)) / norm / scale


# --- blocks ---------------------------------------------------------------------------------------------------------


class _Kind:
    """The blocks of a recipe whose angles differ between samples, or those whose angles all samples share, as tensors.

    Attributes:
        cosine, sine, generator: (L, b, 1, d, d), factors of b blocks, filled up to L by constant ones.
        constant: (L * b,), of the angles.
        inputs: (k,), which inputs any of the angles depends on; amplitudes are many more.
        on_inputs, on_weights: (L * b, k) and (L * b, n_weights), coefficients of the angles.
    """

    def __init__(self, recipe: Blocks, blocks: list[Block], device: torch.device) -> None:
        depth = max((len(block.factors) for block in blocks), default=0)
        eye, zero = np.eye(SIDE, dtype=complex), np.zeros((SIDE, SIDE), dtype=complex)
        slots = [block.factors[k] if k < len(block.factors) else None for k in range(depth) for block in blocks]

        def stacked(matrices: list[Matrix]) -> Tensor:
            array = np.array(matrices, dtype=complex).reshape(depth, len(blocks), 1, SIDE, SIDE)
            return torch.from_numpy(array).to(device)

        self.shape = depth, len(blocks)
        self.cosine = stacked([eye if slot is None else slot.cosine for slot in slots])
        self.sine = stacked([zero if slot is None else slot.sine for slot in slots])
        self.generator = stacked([zero if slot is None else slot.generator for slot in slots])
        angles = [Angle() if slot is None else slot.angle for slot in slots]
        self.constant = torch.tensor([angle.constant for angle in angles], dtype=torch.float64).to(device)
        used = sorted({k for angle in angles for k, _ in angle.inputs})
        self.inputs = torch.tensor(used, dtype=torch.int64).to(device)
        self.on_inputs = _coefficients([angle.inputs for angle in angles], used).to(device)
        self.on_weights = _coefficients([angle.weights for angle in angles], range(recipe.n_weights)).to(device)

    def factors(self, angles: Tensor) -> Tensor:
        """(L, b, S, d, d) from angles (S, L * b)."""
        half = 0.5 * angles.mT.reshape(*self.shape, len(angles), 1, 1)
        return half.cos() * self.cosine + half.sin() * self.sine

    def slopes(self, environments: Tensor, factors: Tensor) -> Tensor:
        """(S, L * b): along the angles, for environments (b, S, d, d) behind the blocks."""
        found = []
        for factor, generator in zip(reversed(factors.unbind()), reversed(self.generator.unbind()), strict=True):
            products = torch.view_as_real(environments) * torch.view_as_real(generator)
            found.append(products.sum((-1, -2, -3)))
            environments = factor.mH @ environments @ factor
        return torch.stack(found[::-1]).flatten(0, 1).mT


def _coefficients(terms: list[tuple[tuple[int, float], ...]], parameters: Sequence[int]) -> Tensor:
    column = {k: position for position, k in enumerate(parameters)}
    matrix = torch.zeros(len(terms), len(parameters), dtype=torch.float64)
    for row, own in enumerate(terms):
        for k, c in own:
            matrix[row, column[k]] = c
    return matrix


# This and the constants below are cached for each session: what one stream makes must not be used on another at once.
@lru_cache(maxsize=64)
def _kinds(run: Session, recipe: Blocks, weights_differ: bool) -> tuple[list[tuple[bool, int]], _Kind, _Kind]:
    """For each block whether it is of the own kind and its place there; blocks with own angles, with shared ones."""
    kinds: dict[bool, list[Block]] = {True: [], False: []}
    places = []
    for block in recipe.blocks:
        own = any(f.angle.inputs or (weights_differ and f.angle.weights) for f in block.factors)
        places.append((own, len(kinds[own])))
        kinds[own].append(block)
    return places, _Kind(recipe, kinds[True], run.device), _Kind(recipe, kinds[False], run.device)


class Gates:
    """The blocks of a recipe with the angles of a chunk of the batch.

    Args:
        run: where they are applied.
        recipe: the blocks.
        inputs: (S, n_inputs).
        weights: (n_weights,) or (S, n_weights).
    """

    def __init__(self, run: Session, recipe: Blocks, inputs: Tensor, weights: Tensor) -> None:
        self._run = run
        self._recipe = recipe
        weights_differ = weights.dim() == 2
        self._places, own, shared = _kinds(run, recipe, weights_differ)
        self._kinds = {True: own, False: shared}
        # In double precision: angles may be large, and products of float32 matrices may be TF32.
        x, w = inputs.index_select(1, own.inputs).double(), weights.double()
        with_inputs = own.constant + x @ own.on_inputs.mT + w @ own.on_weights.mT
        # If weights differ, blocks that have any are of the own kind.
        without = shared.constant + (0 if weights_differ else shared.on_weights @ w)
        self._factors = {True: own.factors(with_inputs), False: shared.factors(without.view(1, -1))}
        dtype = torch.complex128 if inputs.dtype == torch.float64 else torch.complex64
        self._matrices = {
            own: reduce(lambda done, factor: factor @ done, factors.unbind()).to(dtype).contiguous()
            for own, factors in self._factors.items()
            if len(factors)
        }
        self._indices = torch.arange(len(inputs), dtype=torch.int32, device=inputs.device)

    def _apply(self, states: Tensor, number: int, indices: Tensor, adjoint: bool) -> None:
        own, place = self._places[number]
        matrices = self._matrices[own][place]
        self._run.apply(states, matrices, self._recipe.blocks[number].qubits, indices if own else None, adjoint)

    def apply(self, states: Tensor) -> None:
        """Applies all blocks to states (S, 2**n), in place."""
        for number in range(len(self._places)):
            self._apply(states, number, self._indices, adjoint=False)

    def undo(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Takes psi and lam, (2, S, 2**n), back to the start, in place.

        Returns:
            Gradients of each sample along inputs (S, n_inputs) and weights (S, n_weights), in float64.
        """
        samples = states.shape[1]
        both = self._indices.repeat(2)
        environments = {
            own: states.new_zeros(kind.shape[1], samples, SIDE, SIDE, dtype=torch.complex128)
            for own, kind in self._kinds.items()
        }
        for number in reversed(range(len(self._places))):
            own, place = self._places[number]
            block = self._recipe.blocks[number]
            if any(f.angle.inputs or f.angle.weights for f in block.factors):
                _environment(states, block.qubits, environments[own][place])
            self._apply(states.flatten(0, 1), number, both, adjoint=True)
        along_inputs = states.new_zeros(samples, self._recipe.n_inputs, dtype=torch.float64)
        along_weights = states.new_zeros(samples, self._recipe.n_weights, dtype=torch.float64)
        for own in self._matrices:
            kind = self._kinds[own]
            slopes = kind.slopes(environments[own], self._factors[own])
            along_inputs[:, kind.inputs] += slopes @ kind.on_inputs
            along_weights += slopes @ kind.on_weights
        return along_inputs, along_weights


def _environment(states: Tensor, qubits: tuple[int, ...], result: Tensor) -> None:
    """Writes sum_r lam[i, r] conj(psi[j, r]) to ``result`` (S, d, d): i, j states of the qubits, r of all others."""
    n_qubits = states.shape[-1].bit_length() - 1
    sizes, inside = _runs(qubits, n_qubits)
    axes = [2 + k for k in sorted(range(len(sizes)), key=inside.__getitem__)]  # those of the qubits last
    others = 2 ** (n_qubits - len(qubits))
    terms = min(others, ENVIRONMENT_SUM)
    rows = max(1, ENVIRONMENT_AMPLITUDES // 2 ** (n_qubits + 1))
    for start in range(0, len(result), rows):
        piece = states[:, start : start + rows].unflatten(-1, sizes).permute(0, 1, *axes)
        wide = torch.empty(piece.shape, dtype=torch.complex128, device=piece.device).copy_(piece)
        psi, lam = wide.view(2, -1, terms, SIDE)
        parts = psi.mH @ lam  # in this order, cuBLAS conjugates as it reads
        result[start : start + rows] = parts.view(-1, others // terms, SIDE, SIDE).sum(1).mT


# --- measurements ---------------------------------------------------------------------------------------------------


def _measure(run: Session, recipe: Blocks, psi: Tensor) -> Tensor:
    """What is measured in states (S, 2**n), which it may turn: (S, n_outputs)."""
    if recipe.measurement == "probs":
        return run.probabilities(psi, tuple(range(recipe.n_qubits)))
    if recipe.measurement == "state":
        return torch.view_as_real(psi).flatten(1)
    values = torch.empty(len(psi), recipe.n_outputs, dtype=torch.float64, device=psi.device)
    for basis in recipe.bases:
        _turn(run, psi, basis.turns)
        for group in basis.groups:
            expectations = _signed_sums(run, run.probabilities(psi, group.qubits))
            for mask, output in group.strings:
                values[:, output] = expectations[:, mask]
    return values


def _observe(run: Session, recipe: Blocks, states: Tensor, grad: Tensor) -> None:
    """Writes lam to the second of states (2, S, 2**n), such that a change d of psi changes the result by 2 Re <lam|d>.

    grad: (S, n_outputs). Both states are turned from basis to basis and back, so that no third is needed.
    """
    psi, lam = states
    if recipe.measurement == "probs":
        torch.mul(psi, grad, out=lam)
        return
    if recipe.measurement == "state":
        torch.view_as_real(lam).copy_(grad.view(len(psi), -1, 2)).mul_(0.5)
        return
    for basis in recipe.bases:
        _turn(run, states.flatten(0, 1), basis.turns)
        for group in basis.groups:
            slopes = grad.new_zeros(len(psi), 2 ** len(group.qubits), dtype=torch.float64)
            for mask, output in group.strings:
                slopes[:, mask] += grad[:, output]
            sizes, inside = _runs(group.qubits, recipe.n_qubits)
            along = [size if member else 1 for size, member in zip(sizes, inside, strict=True)]
            diagonal = _signed_sums(run, slopes).to(grad.dtype).view(-1, *along, 1)
            lam_numbers, psi_numbers = (torch.view_as_real(s).view(len(psi), *sizes, 2) for s in (lam, psi))
            lam_numbers.addcmul_(psi_numbers, diagonal)
    _turn(run, states.flatten(0, 1), recipe.home)


def _turn(run: Session, states: Tensor, turns: tuple[tuple[int, str], ...]) -> None:
    for qubit, change in turns:
        run.apply(states, _turn_matrix(run, change, states.dtype), (qubit,), None)


@lru_cache(maxsize=64)
def _turn_matrix(run: Session, change: str, dtype: torch.dtype) -> Tensor:
    return torch.from_numpy(turn_matrix(change)).to(run.device, dtype)[None].contiguous()


def _signed_sums(run: Session, values: Tensor) -> Tensor:
    """sum_b (-1)**|b & mask| values[:, b] for every mask; values (S, 2**k). Its own inverse but for 2**k."""
    done, left = 1, values.shape[1].bit_length() - 1
    result = values
    while left:
        size = 2 ** min(left, HADAMARD_QUBITS)
        result = _hadamard(run, size) @ result.view(len(values), done, size, -1)
        done, left = done * size, left - (size.bit_length() - 1)
    return result.view(values.shape)


@lru_cache(maxsize=64)
def _hadamard(run: Session, size: int) -> Tensor:
    one = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)
    return reduce(torch.kron, [one] * (size.bit_length() - 1)).to(run.device)


def _runs(qubits: tuple[int, ...], n_qubits: int) -> tuple[list[int], list[bool]]:
    """A state's axes, one for each run of qubits that are all among ``qubits`` or all not: their sizes, and which."""
    runs = [(member, len(list(run))) for member, run in groupby(q in qubits for q in range(n_qubits))]
    return [2**length for _, length in runs], [member for member, _ in runs]
