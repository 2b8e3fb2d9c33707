"""The Fourier engine: coefficients of a circuit's trigonometric polynomials from its values on a grid.

The batch never pays for what depends on the weights alone: the gate engine runs on the grid's points, a fixed matrix
turns values into coefficients, and `hqfkernels.ops` contracts them with the batch. See `hqfkernels.series` and
docs/math/fourier.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from hqfkernels import ops
from hqfkernels.circuit import Angle, Circuit
from hqfkernels.planner import static
from hqfkernels.program import Measurement, Program, lower
from hqfkernels.series import Axis, Series, axes_of, balanced_split

ZERO = 1e-14
"""Terms below this for a few random choices of all shared angles vanish identically: rounding alone leaves 1e-16."""
MAX_SPARSE_ROTATIONS = 64
"""Longer products of cosines could get that small by themselves, so all their terms are kept."""


@dataclass(frozen=True)
class Transform:
    """From the values of a program on its grid to coefficients.

    Attributes:
        series: the terms.
        points: (G, n_inputs), the grid, float64.
        first: (A, A), values to coefficients along the axes of index a.
        second: (B, B), likewise of b.
        kept: (rows,), which of the A * B terms the series keeps.
    """

    series: Series
    points: Tensor
    first: Tensor
    second: Tensor
    kept: Tensor

    def points_for(self, weights: Tensor) -> Tensor:
        """The grid for every set of weights, (*g, G, n_inputs)."""
        return self.points.to(weights.device).expand(*weights.shape[:-1], *self.points.shape)

    def values(self, weights: Tensor, program: str) -> Tensor:
        """(*g, G, outputs) for weights (*g, n_weights), by the gate engine."""
        return torch.ops.hqfkernels.gate_forward(self.points_for(weights), weights.unsqueeze(-2), program, 1, [])

    def coefficients(self, values: Tensor) -> Tensor:
        """(*g, rows * outputs) for values on the grid (*g, G, outputs)."""
        first, second = self.first.to(values.device), self.second.to(values.device)
        halves = values.unflatten(-2, (len(first), len(second)))
        table = (second @ (first @ halves.flatten(-2)).unflatten(-1, halves.shape[-2:])).flatten(-3, -2)
        return table.index_select(-2, self.kept.to(values.device)).flatten(-2)

    def adjoint(self, grad: Tensor) -> Tensor:
        """The transpose of `coefficients`."""
        first, second = self.first.to(grad.device), self.second.to(grad.device)
        rows = grad.unflatten(-1, (len(self.kept), self.series.n_outputs))
        table = rows.new_zeros(*rows.shape[:-2], len(first) * len(second), rows.shape[-1])
        table.index_copy_(-2, self.kept.to(grad.device), rows)
        halves = second.mT @ table.unflatten(-2, (len(first), len(second)))
        return (first.mT @ halves.flatten(-2)).unflatten(-1, halves.shape[-2:]).flatten(-3, -2)


def _analysis(axes: tuple[Axis, ...]) -> Tensor:
    """The matrix from values at all points of the axes' grid to coefficients of all products of features."""
    result = torch.ones(1, 1, dtype=torch.float64)
    for axis in axes:
        steps = torch.arange(axis.size, dtype=torch.float64) * (2 * math.pi / axis.size)
        angles = steps[None, :] * torch.arange(1, axis.degree + 1, dtype=torch.float64)[:, None]
        waves = torch.stack([angles.cos(), angles.sin()], 1).flatten(0, 1)
        result = torch.kron(result, torch.cat([torch.ones(1, axis.size, dtype=torch.float64), 2 * waves]) / axis.size)
    return result


@lru_cache(maxsize=256)
def transform(program: str) -> Transform:
    """The `Transform` of a program, given by its text.

    Raises:
        ValueError: if the program has no polynomials of a size that pays; the message says why.
    """
    lowered = Program.from_text(program)
    axes = axes_of(lowered)
    split = balanced_split(axes)
    first, second = _analysis(axes[:split]), _analysis(axes[split:])
    steps = [torch.arange(a.size, dtype=torch.float64) * (2 * math.pi / a.size / a.unit) for a in axes]
    points = torch.zeros(math.prod(a.size for a in axes), lowered.n_inputs, dtype=torch.float64)
    if axes:
        points[:, [a.input for a in axes]] = torch.cartesian_prod(*steps).view(len(points), len(axes))

    every = torch.arange(len(points))
    pairs = tuple((k // len(second), k % len(second)) for k in range(len(points)))
    dense = Transform(Series(lowered.n_inputs, lowered.n_outputs, axes, split, pairs), points, first, second, every)
    if len(lowered.rotations) > MAX_SPARSE_ROTATIONS:
        return dense
    # Every shared angle becomes a free parameter: angles, not weights, must be of order one in the trials.
    free = replace(
        lowered,
        n_weights=len(lowered.rotations),
        rotations=tuple(
            replace(r, angle=Angle(0.0, r.angle.inputs, ((k, 1.0),))) for k, r in enumerate(lowered.rotations)
        ),
    )
    generator = torch.Generator().manual_seed(0)
    angles = 0.4 + 0.8 * torch.rand(3, free.n_weights, dtype=torch.float64, generator=generator)
    table = dense.coefficients(dense.values(angles, free.text)).view(3, len(points), -1)
    kept = (table.abs() > ZERO).any(0).any(-1).nonzero().flatten()
    rows = tuple(pairs[k] for k in kept.tolist())
    return Transform(Series(lowered.n_inputs, lowered.n_outputs, axes, split, rows), points, first, second, kept)


# The coefficients as an operator of their own: one call, whatever it does inside, and nothing for a compiler to trace.
torch.library.define("hqfkernels::fourier_coefficients", "(Tensor weights, str program) -> Tensor")
torch.library.define(
    "hqfkernels::fourier_coefficients_backward", "(Tensor grad, Tensor weights, str program) -> Tensor"
)


@torch.library.impl("hqfkernels::fourier_coefficients", "CompositeExplicitAutograd")
def _coefficients(weights: Tensor, program: str) -> Tensor:
    parts = transform(program)
    return parts.coefficients(parts.values(weights.double(), program))


@torch.library.register_fake("hqfkernels::fourier_coefficients")
def _coefficients_fake(weights: Tensor, program: str) -> Tensor:
    series = transform(program).series
    return weights.new_empty((*weights.shape[:-1], len(series.rows) * series.n_outputs), dtype=torch.float64)


@torch.library.impl("hqfkernels::fourier_coefficients_backward", "CompositeExplicitAutograd")
def _coefficients_backward(grad: Tensor, weights: Tensor, program: str) -> Tensor:
    parts = transform(program)
    slope = parts.adjoint(grad)
    own = weights.double().unsqueeze(-2)
    _, grad_weights = torch.ops.hqfkernels.gate_backward(slope, parts.points_for(weights), own, program, 1, [])
    return grad_weights.squeeze(-2).to(weights.dtype)


@torch.library.register_fake("hqfkernels::fourier_coefficients_backward")
def _coefficients_backward_fake(grad: Tensor, weights: Tensor, program: str) -> Tensor:
    return torch.empty_like(weights, memory_format=torch.contiguous_format)


def _save(ctx: Any, inputs: tuple[Tensor, str], output: Tensor) -> None:
    weights, ctx.program = inputs
    ctx.save_for_backward(weights)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
    return torch.ops.hqfkernels.fourier_coefficients_backward(grad, *ctx.saved_tensors, ctx.program), None


torch.library.register_autograd("hqfkernels::fourier_coefficients", _differentiate, setup_context=_save)
ops.refuse_gradients("fourier_coefficients_backward", "fourier")


@torch.library.register_vmap("hqfkernels::fourier_coefficients")
def _coefficients_vmap(info: Any, in_dims: tuple[Any, ...], weights: Tensor, program: str) -> tuple[Tensor, int]:
    return torch.ops.hqfkernels.fourier_coefficients(weights.movedim(in_dims[0], 0), program), 0


@torch.library.register_vmap("hqfkernels::fourier_coefficients_backward")
def _coefficients_backward_vmap(
    info: Any, in_dims: tuple[Any, ...], grad: Tensor, weights: Tensor, program: str
) -> tuple[Tensor, int]:
    size = info.batch_size
    grad, weights = (
        t.expand(size, *t.shape) if dim is None else t.movedim(dim, 0)
        for t, dim in zip((grad, weights), in_dims[:2], strict=True)
    )
    return torch.ops.hqfkernels.fourier_coefficients_backward(grad, weights, program), 0


def forward(
    circuit: Circuit,
    inputs: Tensor,
    weights: Tensor,
    measurement: Measurement = "expval",
    feature_dims: int = 1,
    output_order: Sequence[int] = (),
) -> Tensor:
    """Evaluates the circuit; arguments are checked, and mean what they mean to `hqfkernels.ops`."""
    program, series = _texts(circuit.text, measurement)
    coefficients = torch.ops.hqfkernels.fourier_coefficients(weights, program)
    result: Tensor = torch.ops.hqfkernels.fourier_forward(
        inputs, coefficients, series, feature_dims, list(output_order)
    )
    return result


@static
def _texts(circuit: str, measurement: Measurement) -> tuple[str, str]:
    program = lower(circuit, measurement)
    return program, transform(program).series.text
