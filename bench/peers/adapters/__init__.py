"""The benchmark circuit (`bench.cases`) in every peer's fastest form; one module for each library.

An adapter takes inputs (batch, n) and weights (layers, n, 2; RY, then RZ), float32, in radians, and returns one or more
forms of the step by name, of which the fastest will be measured. A step computes y, all <Z_k>, and the gradients of
sum(y**2); it returns them complete, as arrays (batch, n), (batch, n) and (layers, n, 2) for `numpy.asarray`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

Step = Callable[[], tuple[Any, ...]]
Adapter = Callable[[np.ndarray, np.ndarray], dict[str, Step]]


def signs(n: int) -> np.ndarray:
    """Eigenvalues of each <Z_k> on the basis states, (2**n, n), qubit 0 being the most significant bit."""
    bits = np.arange(2**n)[:, None] >> np.arange(n - 1, -1, -1) & 1
    return (1 - 2 * bits).astype(np.float32)


def torch_step(
    form: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], inputs: np.ndarray, weights: np.ndarray
) -> Step:
    """The step of a differentiable function of (inputs, weights) in torch."""
    import torch

    x, w = (torch.from_numpy(array).requires_grad_() for array in (inputs, weights))

    def step() -> tuple[Any, ...]:
        y = form(x, w)
        return y.detach(), *torch.autograd.grad(y.square().sum(), (x, w))

    return step
