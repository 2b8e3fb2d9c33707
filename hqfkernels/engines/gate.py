"""The gate engine: state vectors and adjoint differentiation, rotation by rotation."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from hqfkernels.backends import cuda
from hqfkernels.blocks import Blocks
from hqfkernels.circuit import Angle, Circuit, Gate
from hqfkernels.ops import derivatives
from hqfkernels.program import Measurement, lower
from hqfkernels.static import static

MAX_NATIVE_QUBITS = 20
"""The CPU kernels hold two states per lane in memory; above this they refuse."""

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
    if not output_order and _few_samples_to_a_set(batch, weights.shape[:-1]):
        # In the precision of the computation: half-precision inputs must not cost the weights theirs.
        wide = torch.float64 if inputs.dtype == torch.float64 else torch.float32
        own = weights.to(wide).expand(*batch, weights.shape[-1])
        inputs, weights, feature_dims = torch.cat([inputs.to(wide).flatten(len(batch)), own], -1), own.new_empty(0), 1
        text = _program_of_inputs(circuit.text, measurement)
    else:
        text = _program(circuit.text, measurement)
    result: Tensor = derivatives.call("gate_forward", inputs, weights, text, feature_dims, list(output_order))
    return result


def max_qubits(on_gpu: bool, double: bool) -> int:
    """The largest register that the compiled kernels take on a device, in double precision or not."""
    if on_gpu:
        return cuda.MAX_QUBITS_DOUBLE if double else cuda.MAX_QUBITS
    return MAX_NATIVE_QUBITS


def own_weights(batch: Sequence[int], sets: Sequence[int]) -> bool:
    """Whether every sample has weights of its own; sizes that an export leaves open stay open."""
    return len(sets) == len(batch) > 0 and all(s == b for s, b in zip(sets, batch, strict=True))


def _few_samples_to_a_set(batch: Sequence[int], sets: Sequence[int]) -> bool:
    if torch.compiler.is_exporting():  # sizes that are to stay open must not be compared with numbers
        return own_weights(batch, sets)
    return math.prod(sets) > 1 and math.prod(batch) < SHARED_SAMPLES * math.prod(sets)


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
def _program(circuit: str, measurement: Measurement) -> str:
    return lower(circuit, measurement)


@static
def _program_of_inputs(circuit: str, measurement: Measurement) -> str:
    return lower(_weights_as_inputs(Circuit.from_text(circuit)).text, measurement)


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
