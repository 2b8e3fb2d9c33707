"""The Fourier engine: the parameters of a circuit's trigonometric polynomials, contracted with the batch.

The batch never pays for what depends on the weights alone: coefficients come from Pauli propagation
(`hqfkernels.propagation`) or, for circuits in which too many strings occur, from the gate engine's values on a grid,
and `hqfkernels.ops` contracts them with the batch. See `hqfkernels.series` and docs/math/fourier.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hqfkernels import costs, ops
from hqfkernels.circuit import Circuit
from hqfkernels.engines import gate
from hqfkernels.ops import derivatives
from hqfkernels.program import Measurement, Program, lower
from hqfkernels.propagation import Propagation, propagate
from hqfkernels.series import MAX_FEATURES, Axis, Polynomials, Series, axes_of, balanced_split, centred, halves
from hqfkernels.static import static

Array = np.ndarray[Any, Any]

MAX_TERMS = 65536
"""Polynomials with more terms are refused: contracting them costs more than simulating the circuit."""

FREE_PAIRS = 100_000
"""As many pairs of strings a propagation may turn in any case: preparing it takes a tenth of a second ..."""
MAX_PAIRS = 400_000
"""... and as many at most: it takes a second, and 40 MB are kept."""
WORTH = 100
"""In between, a propagation may cost as much as simulating so many samples."""


@dataclass(frozen=True, eq=False)
class Grid:
    """From the values of a program at the points ``u_j = 2 pi t / (2 d_j + 1)`` to the parameters of its polynomials.

    It holds numpy arrays: it is kept between calls, and what torch makes follows what is in force at the time, such as
    a default device or the fake tensors of an export.

    Attributes:
        program: text of the program in the shifted variables.
        points: (G, n_inputs), the grid, float64.
        first: (A, A), values to coefficients along the axes of index a.
        second: (B, B), likewise of b.
        kept: (n_terms,), which of the n_outputs * A * B coefficients the polynomials keep.
        shift_constants: (n_axes,), the part of the shifts that does not depend on weights.
        shift_factors: (n_axes, n_weights), their factors.
    """

    program: str
    points: Array
    first: Array
    second: Array
    kept: Array
    shift_constants: Array
    shift_factors: Array

    def parameters(self, weights: Tensor) -> Tensor:
        """(*g, n_parameters) for weights (*g, n_weights)."""
        points, first, second, kept, shift_constants, shift_factors = _tensors(self, weights.device)
        points = points.expand(*weights.shape[:-1], *points.shape)
        run = self._gate_operator("gate_forward", weights.is_cuda)
        values = run(points, weights.unsqueeze(-2), self.program, 1, [])
        halves = values.mT.unflatten(-1, (len(first), len(second)))
        table = _product(_product(halves, second.mT).mT, first.mT).mT.flatten(-3)
        shifts = _product(weights, shift_factors.mT) + shift_constants
        return torch.cat([table.index_select(-1, kept), shifts], -1)

    def adjoint(self, grad: Tensor, weights: Tensor) -> Tensor:
        """The gradient of ``(grad * parameters(weights)).sum()``."""
        points, first, second, kept, shift_constants, shift_factors = _tensors(self, weights.device)
        slopes, shift_slopes = grad.split([len(kept), len(shift_constants)], -1)
        n_outputs = Program.from_text(self.program).n_outputs
        table = slopes.new_zeros(*slopes.shape[:-1], n_outputs * len(points))
        table.index_copy_(-1, kept, slopes)
        table = table.unflatten(-1, (n_outputs, len(first), len(second)))
        halves = _product(_product(table, second).mT, first).mT
        points = points.expand(*weights.shape[:-1], *points.shape)
        run = self._gate_operator("gate_backward", weights.is_cuda)
        _, grad_weights = run(halves.flatten(-2).mT, points, weights.unsqueeze(-2), self.program, 1, [])
        return grad_weights.squeeze(-2) + _product(shift_slopes, shift_factors)

    def _gate_operator(self, name: str, on_gpu: bool) -> Callable[..., Any]:
        """The operator, or its plain-torch form for registers that no kernel takes."""
        too_large = Program.from_text(self.program).n_qubits > gate.max_qubits(on_gpu, double=True)
        return ops.PLAIN[name] if too_large else getattr(torch.ops.hqfkernels, name)


def _product(left: Tensor, right: Tensor) -> Tensor:
    """``left @ right`` for (..., m, k) and (k, n), by the operator that sums in the same order on any threads."""
    rows = left.reshape(math.prod(left.shape[:-1]), left.shape[-1])
    result: Tensor = torch.ops.hqfkernels.product(rows.contiguous(), right.contiguous())
    return result.view(*left.shape[:-1], right.shape[-1])


@lru_cache(maxsize=256)
def _tensors(grid: Grid, device: torch.device) -> tuple[Tensor, ...]:
    """The arrays of a grid on a device: copying them for every call would wait for it."""
    arrays = (grid.points, grid.first, grid.second, grid.kept, grid.shift_constants, grid.shift_factors)
    return tuple(torch.from_numpy(array).to(device) for array in arrays)


@dataclass(frozen=True)
class Recipe:
    """The polynomials of a program and the way to their parameters, with what that costs."""

    polynomials: Polynomials
    source: Propagation | Grid
    cost: costs.Cost

    def parameters(self, weights: Tensor) -> Tensor:
        """(*g, n_parameters) for weights (*g, n_weights), float64."""
        if isinstance(self.source, Grid):
            return self.source.parameters(weights)
        result: Tensor = torch.ops.hqfkernels.propagation_forward(weights.contiguous(), self.source.text)
        return result

    def adjoint(self, grad: Tensor, weights: Tensor) -> Tensor:
        """The gradient of ``(grad * parameters(weights)).sum()``."""
        if isinstance(self.source, Grid):
            return self.source.adjoint(grad, weights)
        result: Tensor = torch.ops.hqfkernels.propagation_backward(
            grad.contiguous(), weights.contiguous(), self.source.text
        )
        return result


@lru_cache(maxsize=256)
def recipe(program: str) -> Recipe:
    """The `Recipe` of a program, given by its text.

    Raises:
        ValueError: if the program has no polynomials of a size that pays; the message says why.
    """
    lowered = Program.from_text(program)
    axes = axes_of(lowered)
    max_pairs = min(max(FREE_PAIRS, costs.affordable_pairs(lowered, WORTH)), MAX_PAIRS)
    found = propagate(lowered, axes, max_pairs)
    n_points = math.prod(axis.size for axis in axes)
    n_terms = found[0].n_terms if found else n_points * lowered.n_outputs
    if n_terms > MAX_TERMS:
        raise ValueError(f"the circuit's polynomials have {n_terms} terms, more than {MAX_TERMS}")
    features = max(found[0].n_products if found else halves(axes))
    if features > MAX_FEATURES:
        raise ValueError(f"half of the circuit's inputs have {features} products of features, more than {MAX_FEATURES}")
    grid_cost = costs.grid(lowered, axes)
    if found is not None:
        cost = costs.propagation(found[1])
        cheaper = costs.total(cost.prices, 0, 1) <= costs.total(grid_cost.prices, 0, 1)
        if cheaper or n_points * lowered.n_outputs > MAX_TERMS:
            return Recipe(*found, cost)
    polynomials = found[0] if found else _dense(axes, lowered.n_outputs)
    return Recipe(polynomials, _grid(lowered, polynomials), grid_cost)


def _dense(axes: tuple[Axis, ...], n_outputs: int) -> Polynomials:
    """All terms."""
    split = balanced_split(axes)
    size_a, size_b = (math.prod(axis.size for axis in part) for part in (axes[:split], axes[split:]))
    every = tuple((a, b) for a in range(size_a) for b in range(size_b))
    return Polynomials(axes, split, (every,) * n_outputs)


def _grid(program: Program, polynomials: Polynomials) -> Grid:
    axes, split = polynomials.axes, polynomials.split
    plain, shifts = centred(program)
    first, second = _analysis(axes[:split]), _analysis(axes[split:])
    points = np.zeros((len(first) * len(second), program.n_inputs))
    steps = [np.arange(axis.size) * (2 * math.pi / axis.size / axis.unit) for axis in axes]
    for axis, values in zip(axes, np.meshgrid(*steps, indexing="ij"), strict=True):
        points[:, axis.input] = values.ravel()
    kept = [
        (output * len(first) + a) * len(second) + b for output, terms in enumerate(polynomials.terms) for a, b in terms
    ]
    own = [shifts[axis.input] * axis.unit for axis in axes]
    factors = np.zeros((len(axes), program.n_weights))
    for k, shift in enumerate(own):
        for weight, factor in shift.weights:
            factors[k, weight] = factor
    constants = np.array([shift.constant for shift in own], dtype=np.float64)
    return Grid(plain.text, points, first, second, np.array(kept, dtype=np.int64), constants, factors)


def _analysis(axes: tuple[Axis, ...]) -> Array:
    """The matrix from values at all points of the axes' grid to coefficients of all products of features."""
    result: Array = np.ones((1, 1))
    for axis in axes:
        steps = np.arange(axis.size) * (2 * math.pi / axis.size)
        angles = np.arange(1, axis.degree + 1)[:, None] * steps
        waves = np.stack([np.cos(angles), np.sin(angles)], 1).reshape(-1, axis.size)
        result = np.kron(result, np.concatenate([np.ones((1, axis.size)), 2 * waves]) / axis.size)
    return result


# The parameters as an operator of their own: one call, whatever it does inside, and nothing for a compiler to trace.
torch.library.define("hqfkernels::fourier_parameters", "(Tensor weights, str program) -> Tensor")
torch.library.define("hqfkernels::fourier_parameters_backward", "(Tensor grad, Tensor weights, str program) -> Tensor")


@torch.library.impl("hqfkernels::fourier_parameters", "CompositeExplicitAutograd")
def _parameters(weights: Tensor, program: str) -> Tensor:
    return ops.read(recipe, program).parameters(weights.double())


@torch.library.register_fake("hqfkernels::fourier_parameters")
def _parameters_fake(weights: Tensor, program: str) -> Tensor:
    return weights.new_empty(
        (*weights.shape[:-1], ops.read(recipe, program).polynomials.n_parameters), dtype=torch.float64
    )


@torch.library.impl("hqfkernels::fourier_parameters_backward", "CompositeExplicitAutograd")
def _parameters_backward(grad: Tensor, weights: Tensor, program: str) -> Tensor:
    return ops.read(recipe, program).adjoint(grad, weights.double()).to(weights.dtype)


@torch.library.register_fake("hqfkernels::fourier_parameters_backward")
def _parameters_backward_fake(grad: Tensor, weights: Tensor, program: str) -> Tensor:
    return torch.empty_like(weights, memory_format=torch.contiguous_format)


def _save(ctx: Any, inputs: tuple[Tensor, str], output: Tensor) -> None:
    weights, ctx.program = inputs
    ctx.save_for_backward(weights)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
    return derivatives.call("fourier_parameters_backward", grad, *ctx.saved_tensors, ctx.program), None


derivatives.register("fourier_parameters", _save, _differentiate)
derivatives.refuse("fourier_parameters_backward", "fourier")


@torch.library.register_vmap("hqfkernels::fourier_parameters")
def _parameters_vmap(info: Any, in_dims: tuple[Any, ...], weights: Tensor, program: str) -> tuple[Tensor, int]:
    return torch.ops.hqfkernels.fourier_parameters(weights.movedim(in_dims[0], 0), program), 0


@torch.library.register_vmap("hqfkernels::fourier_parameters_backward")
def _parameters_backward_vmap(
    info: Any, in_dims: tuple[Any, ...], grad: Tensor, weights: Tensor, program: str
) -> tuple[Tensor, int]:
    grad, weights = (
        ops.lead(tensor, dim, info.batch_size) for tensor, dim in zip((grad, weights), in_dims[:2], strict=True)
    )
    return torch.ops.hqfkernels.fourier_parameters_backward(grad, weights, program), 0


def parameters(circuits: Sequence[Circuit], weights: Sequence[Tensor], measurement: Measurement = "expval") -> Tensor:
    """The parameters (*g, n) of the series of circuits on the same inputs, from weights (*g, n_weights) of each."""
    found = [
        derivatives.call("fourier_parameters", own, _program(circuit.text, measurement))
        for circuit, own in zip(circuits, weights, strict=True)
    ]
    return found[0] if len(found) == 1 else torch.cat(found, -1)


def contract(
    circuits: Sequence[Circuit],
    inputs: Tensor,
    parameters: Tensor,
    measurement: Measurement = "expval",
    feature_dims: int = 1,
    output_order: Sequence[int] = (),
) -> Tensor:
    """Evaluates circuits on the same inputs, their outputs one after the other.

    Arguments are checked, and mean what they mean to `hqfkernels.ops`.
    """
    text = _series(tuple(circuit.text for circuit in circuits), measurement)
    result: Tensor = derivatives.call("fourier_forward", inputs, parameters, text, feature_dims, list(output_order))
    return result


@lru_cache(maxsize=1024)
def series(circuits: tuple[str, ...], measurement: Measurement) -> Series:
    """The series of circuits on the same inputs, given by their texts.

    Raises:
        ValueError: if a circuit has no polynomials of a size that pays; the message says why.
    """
    return Series(
        max(Circuit.from_text(circuit).n_inputs for circuit in circuits),
        tuple(recipe(lower(circuit, measurement)).polynomials for circuit in circuits),
    )


@static
def _program(circuit: str, measurement: Measurement) -> str:
    return lower(circuit, measurement)


@static
def _series(circuits: tuple[str, ...], measurement: Measurement) -> str:
    return series(circuits, measurement).text
