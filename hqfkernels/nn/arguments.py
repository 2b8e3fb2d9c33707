"""Checks of arguments that several layers take."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from hqfkernels.circuit import Circuit


def checked_circuit(circuit: object, name: str = "circuit") -> Circuit:
    """Returns a copy of ``circuit``, so that later edits of the caller's cannot reach the layer; raises TypeError."""
    if not isinstance(circuit, Circuit):
        raise TypeError(f"{name}: expected a hqfkernels.Circuit, got {type(circuit).__name__}")
    return circuit.copy()


def checked_circuits(circuits: object) -> tuple[Circuit, ...]:
    """Copies of circuits that take the same inputs; raises TypeError or ValueError for other things."""
    if not isinstance(circuits, Sequence) or not circuits:
        raise TypeError(f"circuits: expected a sequence of hqfkernels.Circuit, got {circuits!r}")
    result = tuple(checked_circuit(circuit, f"circuits[{k}]") for k, circuit in enumerate(circuits))
    for k, circuit in enumerate(result):
        if circuit.n_inputs != result[0].n_inputs:
            raise ValueError(
                f"circuits: all must take the same inputs, but circuits[0] takes {result[0].n_inputs} and "
                f"circuits[{k}] takes {circuit.n_inputs}"
            )
    return result


def check_routing(routing: object, shape: tuple[int, ...], inputs: Tensor) -> None:
    """Raises TypeError or ValueError if ``routing`` is not a real tensor of this shape where the inputs are."""
    if not isinstance(routing, Tensor) or routing.is_complex():
        got = routing.dtype if isinstance(routing, Tensor) else type(routing).__name__
        raise TypeError(f"routing: expected a real tensor of shape {shape}, got {got}")
    if routing.shape != shape:
        raise ValueError(f"routing: expected shape {shape}, got {tuple(routing.shape)}")
    if routing.device != inputs.device:
        raise ValueError(f"routing: expected on {inputs.device} like the inputs, got {routing.device}")
