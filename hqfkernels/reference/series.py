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


def _products(factors: list[Tensor], numbers: Tensor, like: Tensor) -> Tensor:
    """Products of one entry of each factor, by their numbers among all such products; the last factor runs fastest."""
    if not factors:
        return like.new_ones(*like.shape[:-1], len(numbers))
    last = factors[-1]
    rest, where = (numbers // last.shape[-1]).unique(return_inverse=True)
    return _products(factors[:-1], rest, like)[..., where] * last[..., numbers % last.shape[-1]]


def _rows(member: Any, factors: list[Tensor], inputs: Tensor) -> list[Tensor]:
    """For each output (..., n_terms): the product that belongs to each coefficient."""
    every = [term for terms in member.terms for term in terms]
    halves = torch.tensor(every, device=inputs.device, dtype=torch.long).view(-1, 2).unbind(-1)
    (a, first), (b, second) = (half.unique(return_inverse=True) for half in halves)
    of_a, of_b = _products(factors[: member.split], a, inputs), _products(factors[member.split :], b, inputs)
    counts = [len(terms) for terms in member.terms]
    pairs = zip(first.split(counts), second.split(counts), strict=True)
    return [of_a[..., own_a] * of_b[..., own_b] for own_a, own_b in pairs]


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
