"""Plain-torch trigonometric polynomials with their gradients: what the ops compute where no compiled kernel is.

Duck-typed on `hqfkernels.series.Series`, so that this package imports torch alone.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def _waves(axis: Any, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Features 1, cos(u x), sin(u x), cos(2 u x), ... of one axis, (..., 2 degree + 1), and their derivatives in x."""
    orders = axis.unit * torch.arange(1, axis.degree + 1, device=inputs.device, dtype=inputs.dtype)
    angles = inputs[..., axis.input, None] * orders
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


def _rows(series: Any, factors: list[Tensor], inputs: Tensor) -> Tensor:
    """(..., n_rows): the product that belongs to each row of coefficients."""
    first, second = (torch.tensor(index, device=inputs.device, dtype=torch.long) for index in series.row_indices)
    a = _products(factors[: series.split], inputs)
    b = _products(factors[series.split :], inputs)
    return a[..., first] * b[..., second]


def forward(series: Any, inputs: Tensor, coefficients: Tensor) -> Tensor:
    """Values (*batch, n_outputs) for inputs (*batch, n_inputs) and coefficients (*g, n_rows * n_outputs)."""
    rows = _rows(series, [_waves(axis, inputs)[0] for axis in series.axes], inputs)
    table = coefficients.unflatten(-1, (len(series.rows), series.n_outputs))
    return (rows[..., None, :] @ table).squeeze(-2)


def backward(series: Any, grad: Tensor, inputs: Tensor, coefficients: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of ``(grad * forward(...)).sum()`` in inputs and coefficients."""
    waves = [_waves(axis, inputs) for axis in series.axes]
    values = [value for value, _ in waves]
    table = coefficients.unflatten(-1, (len(series.rows), series.n_outputs))
    slope = (table @ grad[..., :, None]).squeeze(-1)  # of each row
    grad_inputs = torch.zeros_like(inputs)
    for k, axis in enumerate(series.axes):
        turned = [*values[:k], waves[k][1], *values[k + 1 :]]
        grad_inputs[..., axis.input] += (slope * _rows(series, turned, inputs)).sum(-1)
    grad_table = _rows(series, values, inputs)[..., :, None] * grad[..., None, :]
    return grad_inputs, grad_table.flatten(-2).sum_to_size(coefficients.shape)
