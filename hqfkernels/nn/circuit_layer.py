"""A circuit as a layer on the last dimension."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hqfkernels.circuit import Circuit
from hqfkernels.functional import expval
from hqfkernels.planner import check_names

INIT_ANGLE = 0.1
"""Weights start uniform in (-INIT_ANGLE, INIT_ANGLE) radians: near the identity, where gradients do not vanish
(Grant et al., arXiv 1903.05076)."""


def checked_circuit(circuit: object) -> Circuit:
    """Returns a copy of ``circuit``, so that later edits of the caller's cannot reach the layer; raises TypeError."""
    if not isinstance(circuit, Circuit):
        raise TypeError(f"circuit: expected a hqfkernels.Circuit, got {type(circuit).__name__}")
    return circuit.copy()


def initial_weights(*shape: int) -> nn.Parameter:
    """Weights near the identity; see `INIT_ANGLE`."""
    return nn.Parameter(torch.empty(*shape).uniform_(-INIT_ANGLE, INIT_ANGLE))


class CircuitLayer(nn.Module):
    """Expectation values of a circuit as a layer: (..., n_inputs) -> (..., n_observables).

    Args:
        circuit: the circuit; the layer keeps a copy.
        engine, backend: as in `hqfkernels.expval`.

    Attributes:
        weights: parameter (n_weights,), radians, float32; near zero at first.
    """

    def __init__(self, circuit: Circuit, engine: str = "auto", backend: str = "auto") -> None:
        super().__init__()
        check_names(engine, backend)
        self.circuit = checked_circuit(circuit)
        self.engine = engine
        self.backend = backend
        self.weights = initial_weights(self.circuit.n_weights)

    def forward(self, inputs: Tensor) -> Tensor:
        """Inputs (..., n_inputs) in radians to expectation values (..., n_observables)."""
        return expval(self.circuit, inputs, self.weights, self.engine, self.backend)

    def extra_repr(self) -> str:
        return repr(self.circuit)
