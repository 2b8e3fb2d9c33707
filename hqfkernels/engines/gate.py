"""The gate engine: state vectors and adjoint differentiation, rotation by rotation."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from hqfkernels.blocks import Blocks
from hqfkernels.circuit import Angle, Circuit, Gate
from hqfkernels.ops import derivatives
from hqfkernels.program import Measurement, lower
from hqfkernels.static import static

SHARED_SAMPLES = 8
"""With fewer samples than this to a set of weights, the weights are handled as inputs: a lane each."""


def forward(
    circuit: Circuit,
    inputs: Tensor,
    weights: Tensor,
    measurement: Measurement = "expval",
    feature_dims: int = 1,
    output_order: Sequence[int] = (),
) -> Tensor:
    """Evaluates the circuit; arguments are checked, and mean what they mean to `hqfkernels.ops`."""
    batch = inputs.shape[: inputs.dim() - feature_dims]
    sets = math.prod(weights.shape[:-1])
    as_inputs = sets > 1 and not output_order and math.prod(batch) < SHARED_SAMPLES * sets
    if as_inputs:
        # In the precision of the computation: half-precision inputs must not cost the weights theirs.
        wide = torch.float64 if inputs.dtype == torch.float64 else torch.float32
        own = weights.to(wide).expand(*batch, weights.shape[-1])
        inputs, weights, feature_dims = torch.cat([inputs.to(wide).flatten(len(batch)), own], -1), own.new_empty(0), 1
    text = _program(circuit.text, measurement, as_inputs)
    result: Tensor = derivatives.call("gate_forward", inputs, weights, text, feature_dims, list(output_order))
    return result


def forward_large(
    circuit: Circuit,
    inputs: Tensor,
    weights: Tensor,
    measurement: Measurement = "expval",
    feature_dims: int = 1,
    output_order: Sequence[int] = (),
) -> Tensor:
    """As `forward`, on a GPU by cuStateVec: for registers that its kernels cannot hold."""
    text = _blocks(circuit.text, measurement)
    result: Tensor = derivatives.call("custatevec_forward", inputs, weights, text, feature_dims, list(output_order))
    return result


@static
def _blocks(circuit: str, measurement: Measurement) -> str:
    return Blocks.text_of(circuit, measurement)


@static
def _program(circuit: str, measurement: Measurement, weights_as_inputs: bool) -> str:
    if weights_as_inputs:
        circuit = _weights_as_inputs(Circuit.from_text(circuit)).text
    return lower(circuit, measurement)


def _weights_as_inputs(circuit: Circuit) -> Circuit:
    """The same circuit with weight k read from input ``n_inputs + k``."""
    result = Circuit(circuit.n_qubits).measure(*circuit.observables)
    for gate in circuit.gates:
        angles = tuple(
            Angle(a.constant, (*a.inputs, *((circuit.n_inputs + k, c) for k, c in a.weights))) for a in gate.angles
        )
        result._append(Gate(gate.name, gate.qubits, angles, gate.matrix))
    result.n_inputs = circuit.n_inputs + circuit.n_weights
    return result
