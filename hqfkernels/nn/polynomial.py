"""Trained circuits as plain torch: sines, cosines, matrix products."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hqfkernels.circuit import Circuit
from hqfkernels.engines import fourier
from hqfkernels.functional import HALF, check_tensor
from hqfkernels.nn.arguments import checked_circuits
from hqfkernels.series import MAX_FEATURES, Polynomials, halves


class _Member(nn.Module):
    """The polynomials of one circuit: (..., n_inputs) -> (..., n_observables)."""

    inputs: Tensor
    units: Tensor
    shifts: Tensor
    a: Tensor
    b: Tensor
    coefficients: Tensor

    def __init__(self, polynomials: Polynomials, parameters: Tensor) -> None:
        super().__init__()
        if max(products := halves(polynomials.axes)) > MAX_FEATURES:  # all are computed
            raise ValueError(
                f"half of the circuit's inputs have {max(products)} products of features, more than {MAX_FEATURES}"
            )
        self.degrees = [axis.degree for axis in polynomials.axes]
        self.split = polynomials.split
        pairs = sorted({term for terms in polynomials.terms for term in terms})
        row = {pair: k for k, pair in enumerate(pairs)}
        *own, shifts = parameters.split([*map(len, polynomials.terms), len(self.degrees)])
        table = parameters.new_zeros(len(pairs), len(own))
        for output, (terms, values) in enumerate(zip(polynomials.terms, own, strict=True)):
            table[[row[term] for term in terms], output] = values
        axes = polynomials.axes
        self.register_buffer("inputs", parameters.new_tensor([axis.input for axis in axes], dtype=torch.long))
        self.register_buffer("units", parameters.new_tensor([axis.unit for axis in axes]))
        self.register_buffer("shifts", shifts.clone())
        self.register_buffer("a", parameters.new_tensor([a for a, _ in pairs], dtype=torch.long))
        self.register_buffer("b", parameters.new_tensor([b for _, b in pairs], dtype=torch.long))
        self.register_buffer("coefficients", table)

    def forward(self, inputs: Tensor) -> Tensor:
        """Inputs (..., n_inputs) of any floating dtype."""
        dtype = torch.promote_types(self.units.dtype, torch.float32)
        inputs = inputs.to(dtype)
        angles = inputs.index_select(-1, self.inputs) * self.units.to(dtype) + self.shifts.to(dtype)
        features = [self._waves(angles[..., k : k + 1], degree) for k, degree in enumerate(self.degrees)]
        one = inputs.new_ones(*inputs.shape[:-1], 1)
        a = self._products(features[: self.split], one).index_select(-1, self.a)
        b = self._products(features[self.split :], one).index_select(-1, self.b)
        return (a * b) @ self.coefficients.to(dtype)

    @staticmethod
    def _waves(angle: Tensor, degree: int) -> Tensor:
        waves = [torch.ones_like(angle)]
        for order in range(1, degree + 1):
            waves += [(order * angle).cos(), (order * angle).sin()]
        return torch.cat(waves, -1)

    @staticmethod
    def _products(features: list[Tensor], one: Tensor) -> Tensor:
        result = one
        for feature in features:
            result = (result.unsqueeze(-1) * feature.unsqueeze(-2)).flatten(-2)
        return result


class PolynomialLayer(nn.Module):
    """What circuits with fixed weights compute, written as trigonometric polynomials (see `hqfkernels.series`).

    Args:
        circuits: with as many inputs each.
        weights: (n_weights,) of each.

    Shape:
        (..., n_inputs) in radians, of any floating dtype -> (..., sum of n_observables), float64 if the weights are,
        else float32; in the inputs' dtype if the weights, or its own buffers, are in half precision. As of any plain
        torch, autocast computes its matrix products in the lower precision.

    Raises:
        TypeError, ValueError: for arguments that do not fit; if a circuit is no trigonometric polynomial of a size that
            pays, the message says why.
    """

    def __init__(self, circuits: Sequence[Circuit], weights: Sequence[Tensor]) -> None:
        super().__init__()
        circuits = checked_circuits(circuits)
        if len(weights) != len(circuits):
            raise ValueError(f"weights: expected {len(circuits)} tensors, one for each circuit, got {len(weights)}")
        for circuit, own in zip(circuits, weights, strict=True):
            check_tensor(own, "weights")
            if own.shape != (circuit.n_weights,):
                raise ValueError(f"weights: expected shape {(circuit.n_weights,)}, got {tuple(own.shape)}")
        self.n_inputs = circuits[0].n_inputs
        self.from_half = all(own.dtype in HALF for own in weights)
        members = fourier.series(tuple(circuit.text for circuit in circuits), "expval").members  # or the refusal
        dtype = torch.float64 if weights[0].dtype == torch.float64 else torch.float32
        with torch.no_grad():
            parameters = [
                fourier.parameters((circuit,), (own.detach().cpu(),)).to(own.device, dtype)
                for circuit, own in zip(circuits, weights, strict=True)
            ]
        self.members = nn.ModuleList(_Member(*pair) for pair in zip(members, parameters, strict=True))

    def forward(self, inputs: Tensor) -> Tensor:
        """See the class for shapes."""
        if inputs.is_complex():
            raise TypeError(f"inputs: expected real numbers, got {inputs.dtype}")
        if inputs.dim() == 0 or inputs.shape[-1] != self.n_inputs:
            raise ValueError(f"inputs: expected shape (..., {self.n_inputs}), got {tuple(inputs.shape)}")
        each = [member(inputs) for member in self.members]
        values = each[0] if len(each) == 1 else torch.cat(each, -1)
        half = self.from_half or all(buffer.dtype in HALF for buffer in self.buffers() if buffer.is_floating_point())
        return values.to(inputs.dtype) if half and inputs.is_floating_point() else values
