"""Plain-torch trigonometric polynomials with their gradients: what the ops compute where no compiled kernel is.

Duck-typed on `hqfkernels.series.Series`, so that this package imports torch alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor


def _waves(axis: Any, inputs: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    """Features 1, cos u, sin u, cos 2u, ... of one axis, (..., 2 degree + 1), and their derivatives in u."""
    orders = torch.arange(1, axis.degree + 1, device=inputs.device, dtype=inputs.dtype)
    angles = (inputs[..., axis.input, None] * axis.unit + shift[..., None]) * orders
    c, s = angles.cos(), angles.sin()
    pairs = torch.stack([c, s], -1).flatten(-2)
    slopes = torch.stack([-orders * s, orders * c], -1).flatten(-2)
    return torch.cat([torch.ones_like(pairs[..., :1]), pairs], -1), torch.cat(
        [torch.zeros_like(c[..., :1]), slopes], -1
    )


def _products(factors: list[Tensor], like: Tensor) -> Tensor:
    """All products of one entry of each factor, the last factor running fastest."""
    result = like.new_ones(*like.shape[:-1], 1)
    for factor in factors:
        result = (result[..., :, None] * factor[..., None, :]).flatten(-2)
    return result


def _rows(member: Any, factors: list[Tensor], inputs: Tensor) -> list[Tensor]:
    """For each output (..., n_terms): the product that belongs to each coefficient."""
    a = _products(factors[: member.split], inputs)
    b = _products(factors[member.split :], inputs)
    indices = (
        torch.tensor(terms, device=inputs.device, dtype=torch.long).view(-1, 2).unbind(-1) for terms in member.terms
    )
    return [a[..., first] * b[..., second] for first, second in indices]


def _members(series: Any, inputs: Tensor, parameters: Tensor) -> Iterator[tuple[Any, list[Tensor], Any]]:
    """Each member with the coefficients of its outputs and the waves of its axes."""
    for member, own in zip(series.members, parameters.split([m.n_parameters for m in series.members], -1), strict=True):
        *coefficients, shifts = own.split([*map(len, member.terms), len(member.axes)], -1)
        yield member, coefficients, [_waves(axis, inputs, shifts[..., k]) for k, axis in enumerate(member.axes)]


def forward(series: Any, inputs: Tensor, parameters: Tensor) -> Tensor:
    """Values (*batch, n_outputs) for inputs (*batch, n_inputs) and parameters (*g, n_parameters)."""
    return torch.stack(
        [
            (row * coefficient).sum(-1)
            for member, coefficients, waves in _members(series, inputs, parameters)
            for row, coefficient in zip(_rows(member, [value for value, _ in waves], inputs), coefficients, strict=True)
        ],
        -1,
    )


def backward(series: Any, grad: Tensor, inputs: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of ``(grad * forward(...)).sum()`` in inputs and parameters."""
    grad_inputs, grad_parameters = torch.zeros_like(inputs), []
    own = iter(grad.unbind(-1))
    for member, coefficients, waves in _members(series, inputs, parameters):
        slopes = [next(own)[..., None] for _ in member.terms]
        values = [value for value, _ in waves]
        grad_parameters += [row * slope for row, slope in zip(_rows(member, values, inputs), slopes, strict=True)]
        for k, axis in enumerate(member.axes):
            turned = _rows(member, [*values[:k], waves[k][1], *values[k + 1 :]], inputs)
            along = torch.zeros_like(inputs[..., 0])
            for slope, row, coefficient in zip(slopes, turned, coefficients, strict=True):
                along += (slope * row * coefficient).sum(-1)
            grad_inputs[..., axis.input] += along * axis.unit
            grad_parameters.append(along[..., None])
    return grad_inputs, torch.cat(grad_parameters, -1).sum_to_size(parameters.shape)
