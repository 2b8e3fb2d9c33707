"""Plain-torch Pauli propagation with its gradient: what the operator computes where no compiled kernel is.

Duck-typed on `hqfkernels.propagation.Propagation`, so that this package imports torch alone.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def _value(angle: Any, weights: Tensor) -> Tensor:
    """Values of an angle, (*g,)."""
    return sum((factor * weights[..., k] for k, factor in angle.weights), weights.new_full((), angle.constant)).expand(
        weights.shape[:-1]
    )


def _add(angle: Any, slope: Tensor, grad_weights: Tensor) -> None:
    for k, factor in angle.weights:
        grad_weights[..., k] += factor * slope


def _turn(step: Any, angle: Tensor, numbers: Tensor) -> None:
    p, q, sign = torch.as_tensor(step.pairs, device=numbers.device).unbind(-1)
    c, s = angle.cos()[..., None], angle.sin()[..., None] * sign
    first, second = numbers[..., p], numbers[..., q]
    numbers[..., p] = c * first - s * second
    numbers[..., q] = c * second + s * first


def _columns(step: Any, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    new, old = torch.as_tensor(step.entries, device=like.device).unbind(-1)
    return new, old, torch.as_tensor(step.factors, device=like.device, dtype=like.dtype)


def _run(recipe: Any, weights: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The coefficients, and the numbers that each collection replaced."""
    start = torch.tensor(recipe.initial, device=weights.device, dtype=weights.dtype)
    numbers, before = start.repeat(*weights.shape[:-1], 1), []
    for step in recipe.steps:
        if hasattr(step, "pairs"):
            _turn(step, _value(step.angle, weights), numbers)
            continue
        before.append(numbers)
        new, old, factor = _columns(step, weights)
        numbers = numbers.new_zeros(*numbers.shape[:-1], step.size).index_add_(-1, new, factor * before[-1][..., old])
    return numbers, before


def forward(recipe: Any, weights: Tensor) -> Tensor:
    """Coefficients and shifts, (*g, n), for weights (*g, n_weights)."""
    shifts = [_value(shift, weights)[..., None] for shift in recipe.shifts]
    return torch.cat([_run(recipe, weights)[0], *shifts], -1)


def backward(recipe: Any, grad: Tensor, weights: Tensor) -> Tensor:
    """The gradient of ``(grad * forward(...)).sum()`` in the weights."""
    numbers, before = _run(recipe, weights)
    grad_weights = torch.zeros_like(weights)
    for k, shift in enumerate(recipe.shifts):
        _add(shift, grad[..., numbers.shape[-1] + k], grad_weights)
    slopes = grad[..., : numbers.shape[-1]].clone()
    for step in reversed(recipe.steps):
        if not hasattr(step, "pairs"):
            numbers = before.pop()
            new, old, factor = _columns(step, weights)
            slopes = torch.zeros_like(numbers).index_add_(-1, old, factor * slopes[..., new])
            continue
        p, q, sign = torch.as_tensor(step.pairs, device=weights.device).unbind(-1)
        slope = (sign * (slopes[..., q] * numbers[..., p] - slopes[..., p] * numbers[..., q])).sum(-1)
        _add(step.angle, slope, grad_weights)
        angle = _value(step.angle, weights)
        _turn(step, -angle, numbers)
        _turn(step, -angle, slopes)
    return grad_weights
