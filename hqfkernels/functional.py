"""Circuits as functions of tensors: `expval`, `probs`, `statevector`, and `explain`.

Every function checks its arguments before any kernel starts. All work under ``torch.compile(fullgraph=True)``,
autocast and ``torch.func.vmap``; `expval` and `probs` are differentiable in inputs and weights, by ``torch.func.grad``
and ``jacrev`` too. States are not: derivatives through them raise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.autograd import forward_ad

from hqfkernels import ops
from hqfkernels.circuit import Circuit
from hqfkernels.engines import fourier, gate, unitary
from hqfkernels.ops import derivatives, states
from hqfkernels.planner import Choice, Plan, Schedule, choose, explain_choice, place_of, scheduled
from hqfkernels.program import Measurement
from hqfkernels.reference import circuit as _reference
from hqfkernels.static import static

HALF = (torch.float16, torch.bfloat16)

EXPORTED_SAMPLES = 4096
"""`torch.export` leaves the batch open; "auto" chooses an engine for a batch of this size there."""


def expval(
    circuit: Circuit, inputs: Tensor, weights: Tensor | None = None, engine: str = "auto", backend: str = "auto"
) -> Tensor:
    """Expectation values of the circuit's observables, for a batch of inputs.

    Args:
        circuit: the circuit; what it measures are its ``observables`` (Z on every qubit by default).
        inputs: (..., n_inputs), float64, float32, float16 or bfloat16, any strides; angles in radians.
        weights: (*g, n_weights), of any of these dtypes, g broadcastable against ``inputs.shape[:-1]`` (aligned on the
            right): one set for all samples, or one per group. May be left out if the circuit has none.
        engine: "auto", "gate" (state vectors), "fourier" (trigonometric polynomials; depth costs nothing) or "unitary"
            (one matrix for all that follows the last input).
        backend: "auto", "cpu" or "cuda" (compiled kernels for inputs there), "triton" (the Fourier engine on a GPU),
            "custatevec" (large registers on a GPU), or "reference" (plain torch, any device, differentiable twice).

    Returns:
        (..., n_observables): float64 for float64 inputs, else float32. NaN or Inf in a sample stays in that sample.

    Raises:
        TypeError, ValueError: for arguments that do not fit, naming the argument, what came and what was expected; for
            an engine asked for by name that cannot take the circuit.
        RuntimeError: if the backend asked for by name cannot take the call.
        NotImplementedError: for forward-mode and, in the backward pass, second derivatives, except of the reference.
    """
    return _run(circuit, inputs, check(circuit, inputs, weights), engine, backend, "expval")


def probs(
    circuit: Circuit, inputs: Tensor, weights: Tensor | None = None, engine: str = "auto", backend: str = "auto"
) -> Tensor:
    """Probabilities of all basis states, (..., 2**n_qubits), qubit 0 the high bit; arguments as in `expval`."""
    return _run(circuit, inputs, check(circuit, inputs, weights), engine, backend, "probs")


def statevector(
    circuit: Circuit, inputs: Tensor, weights: Tensor | None = None, engine: str = "auto", backend: str = "auto"
) -> Tensor:
    """Final states, complex (..., 2**n_qubits), global phase included; arguments as in `expval`.

    They may be used in whatever is differentiated, but differentiating through them raises NotImplementedError, with
    every engine and backend: in the backward pass, or in forward mode at once.
    """
    weights = check(circuit, inputs, weights)
    if _have_tangents(inputs, weights):
        raise NotImplementedError(states.REFUSAL)
    with torch.no_grad():
        result = _run(circuit, inputs, weights, engine, backend, "state")
        if not result.is_complex():
            result = torch.view_as_complex(result.unflatten(-1, (-1, 2)))
    if torch.is_grad_enabled() and _may_be_differentiated(inputs, weights):
        result = derivatives.call("states_forward", result, inputs, weights)
    return result


def explain(
    circuit: Circuit, inputs: Tensor, weights: Tensor | None = None, engine: str = "auto", backend: str = "auto"
) -> Plan:
    """The `Plan` that `expval` would follow for these arguments; print it to read it."""
    weights = check(circuit, inputs, weights)
    samples, sets = inputs.shape[:-1].numel(), weights.shape[:-1].numel()
    return explain_choice(circuit.text, place_of(inputs), engine, backend, samples, sets)


def _run(
    circuit: Circuit,
    inputs: Tensor,
    weights: Tensor,
    engine: str,
    backend: str,
    measurement: Measurement,
) -> Tensor:
    schedule = choose((circuit.text,), measurement, place_of(inputs), engine, backend)
    return evaluate((circuit,), inputs, (weights,), schedule, measurement)


def evaluate(
    circuits: Sequence[Circuit],
    inputs: Tensor,
    weights: Sequence[Tensor],
    schedule: Schedule,
    measurement: Measurement = "expval",
    feature_dims: int = 1,
    output_order: Sequence[int] = (),
    cache: ParameterCache | None = None,
) -> Tensor:
    """Runs circuits on the same inputs, arguments checked, as the schedule says for their number.

    The last ``feature_dims`` dimensions of ``inputs`` are a sample's; see `hqfkernels.ops` for ``output_order``. The
    outputs of the circuits follow each other. A ``cache`` keeps what the Fourier engine computes from weights alone.
    """
    batch_dims = inputs.dim() - feature_dims
    choice = scheduled(schedule, *_counts(inputs.shape[:batch_dims], weights[0].shape[:-1]))
    if not choice.simulated and _have_tangents(inputs, *weights):
        # They would silently be lost: the operators have no forward mode.
        raise NotImplementedError(derivatives.NO_FORWARD_MODE)
    if choice.engine == "fourier":
        own = fourier.parameters(circuits, weights, measurement) if cache is None else cache.get(circuits, weights)
        return fourier.contract(circuits, inputs, own, measurement, feature_dims, output_order)
    run = _runner(choice)
    if len(circuits) == 1:
        return run(circuits[0], inputs, weights[0], measurement, feature_dims, output_order)
    if len(output_order) <= batch_dims + 1:
        pairs = zip(circuits, weights, strict=True)
        return torch.cat([run(c, inputs, w, measurement, feature_dims, output_order) for c, w in pairs], -1)
    order = ops.input_order(inputs, feature_dims, output_order)
    pairs = zip(circuits, weights, strict=True)
    return torch.stack([run(c, inputs, w, measurement, feature_dims, order) for c, w in pairs], batch_dims)


def _counts(batch: Sequence[int], groups: Sequence[int]) -> tuple[int, int]:
    """Samples and sets of weights, for the planner."""
    if torch.compiler.is_exporting():  # sizes that are to stay open must not be compared with numbers
        return EXPORTED_SAMPLES, EXPORTED_SAMPLES if gate.own_weights(batch, groups) else 1
    return math.prod(batch), math.prod(groups)


def _runner(choice: Choice) -> Callable[..., Tensor]:
    """What evaluates a circuit, except for the Fourier engine, which takes several at once."""
    if choice.simulated:
        return _simulate
    if choice.engine == "unitary":
        return unitary.forward
    return gate.forward_large if choice.backend == "custatevec" else gate.forward


def _simulate(
    circuit: Circuit,
    inputs: Tensor,
    weights: Tensor,
    measurement: Measurement,
    feature_dims: int,
    output_order: Sequence[int],
) -> Tensor:
    """The reference in the place of an engine."""
    compute = {"expval": _reference.expval, "probs": _reference.probs, "state": _reference.statevector}
    value = compute[measurement](circuit, inputs.flatten(inputs.dim() - feature_dims), weights)
    return value.reshape(ops.output_shape(inputs, value.shape[-1], feature_dims, output_order))


class ParameterCache:
    """Keeps the parameters that the Fourier engine computes from weights, for as long as the weights are the same.

    Weights are compared by value, so no way to change them goes unseen. Not for training: what comes out carries no
    gradients. Threads may share it.
    """

    def __init__(self) -> None:
        self._kept: tuple[tuple[str, ...], list[Tensor], Tensor] | None = None  # circuits, weights, parameters

    def get(self, circuits: Sequence[Circuit], weights: Sequence[Tensor]) -> Tensor:
        """`hqfkernels.engines.fourier.parameters` for expectation values, computed now or kept."""
        texts = tuple(circuit.text for circuit in circuits)
        kept = self._kept  # read once and replaced as a whole, as other threads may replace it meanwhile
        if (
            kept is None
            or kept[0] != texts
            or any(
                new.dtype != old.dtype or new.device != old.device or not torch.equal(new, old)
                for new, old in zip(weights, kept[1], strict=True)
            )
        ):
            # From the copies that later weights are compared with: the originals may change meanwhile.
            own = [w.detach().clone() for w in weights]
            kept = self._kept = texts, own, fourier.parameters(circuits, own)
        return kept[2]


def check(circuit: Circuit, inputs: Tensor, weights: Tensor | None) -> Tensor:
    """Checks the arguments of a call; returns the weights, empty ones if the circuit has none."""
    if not isinstance(circuit, Circuit):
        raise TypeError(f"circuit: expected a hqfkernels.Circuit, got {type(circuit).__name__}")
    if not len(circuit):
        raise ValueError("circuit: it has no gates, so there is nothing to compute")
    check_tensor(inputs, "inputs")
    if inputs.dim() == 0 or inputs.shape[-1] != circuit.n_inputs:
        raise ValueError(f"inputs: expected shape (..., {circuit.n_inputs}), got {tuple(inputs.shape)}")
    return _check_weights(circuit, inputs, weights)


def check_tensor(value: object, what: str) -> None:
    """Raises TypeError if ``value`` is not a dense tensor of a floating dtype that is known."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{what}: expected a torch.Tensor, got {type(value).__name__}")
    if value.dtype not in ops.DTYPES:
        raise TypeError(f"{what}: expected float64, float32, float16 or bfloat16, got {value.dtype}")
    if value.layout != torch.strided or value.is_nested:
        layout = "a nested tensor" if value.is_nested else value.layout
        raise TypeError(f"{what}: expected a dense tensor, got {layout}")


def _check_weights(circuit: Circuit, inputs: Tensor, weights: Tensor | None) -> Tensor:
    """Checks ``weights`` against the circuit, and the inputs' device and batch shape; returns them."""
    if weights is None:
        if circuit.n_weights:
            raise ValueError(f"weights: the circuit has {circuit.n_weights}, none were given")
        return inputs.new_empty(0, dtype=torch.float64 if inputs.dtype == torch.float64 else torch.float32)
    check_tensor(weights, "weights")
    if weights.dim() == 0 or weights.shape[-1] != circuit.n_weights:
        raise ValueError(f"weights: expected shape (*groups, {circuit.n_weights}), got {tuple(weights.shape)}")
    if weights.device != inputs.device:
        raise ValueError(f"weights: expected on {inputs.device} like the inputs, got {weights.device}")
    groups, batch = tuple(weights.shape[:-1]), tuple(inputs.shape[:-1])
    if len(groups) > len(batch) or any(
        g not in (1, b) for g, b in zip(reversed(groups), reversed(batch), strict=False)
    ):
        raise ValueError(
            f"weights: group shape {groups} must broadcast to the inputs' batch shape {batch}, aligned on the right"
        )
    return weights


def _may_be_differentiated(*tensors: Tensor) -> bool:
    """Whether any of them requires gradients, which they do not tell under transforms such as vmap."""
    return _transformed() or any(t.requires_grad for t in tensors)


@static
def _transformed() -> bool:
    return torch._C._are_functorch_transforms_active()


def _have_tangents(*tensors: Tensor) -> bool:
    """Whether forward-mode derivatives in any of them are asked for; while a compiler traces, whether any are."""
    if _forward_level() < 0:
        return False
    return torch.compiler.is_compiling() or any(_has_tangent(t) for t in tensors)


@static
def _forward_level() -> int:
    return forward_ad._current_level


def _has_tangent(tensor: Tensor) -> bool:
    while torch._C._functorch.is_batchedtensor(tensor):  # vmap does not know of tangents
        tensor = torch._C._functorch.get_unwrapped(tensor)
    return forward_ad.unpack_dual(tensor).tangent is not None
