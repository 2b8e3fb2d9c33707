"""Circuits as layers on the last dimension."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hqfkernels.circuit import Circuit
from hqfkernels.functional import HALF, ParameterCache, check, evaluate
from hqfkernels.nn.arguments import check_routing, checked_circuit, checked_circuits
from hqfkernels.nn.polynomial import PolynomialLayer
from hqfkernels.planner import check_names, choose, place_of

Device = torch.device | str | int | None

INIT_ANGLE = 0.1
"""Weights start uniform in (-INIT_ANGLE, INIT_ANGLE) radians: near the identity, where gradients do not vanish
(Grant et al., arXiv 1903.05076)."""


def as_inputs(values: Tensor, inputs: Tensor, weights: Iterable[Tensor]) -> Tensor:
    """Values in the inputs' dtype if all weights are in half precision: the next layer of such a network is, too."""
    return values.to(inputs.dtype) if all(own.dtype in HALF for own in weights) else values


def before_forward(module: nn.Module, *example: Tensor) -> None:
    """Runs the hooks that a call runs before `forward`: there torch's older utilities, such as prune, make the weights.

    Args:
        module: the module.
        example: what the hooks are told of the arguments, an empty batch.

    Raises:
        ValueError: if a hook changes the arguments.
    """
    for key, hook in list(module._forward_pre_hooks.items()):
        with_names = key in module._forward_pre_hooks_with_kwargs
        changed = hook(module, example, {}) if with_names else hook(module, example)
        if changed is not None:
            raise ValueError(f"a hook before forward changes the inputs, which is possible in a call only: {hook!r}")


def read(weights: nn.ParameterList, count: int) -> list[Tensor]:
    """The weights of ``count`` circuits as they are now. Nobody calls a list, which would run its hooks."""
    before_forward(weights)
    if len(weights) != count:
        raise ValueError(f"weights: expected {count} tensors, one for each circuit, got {len(weights)}")
    return list(weights)


_TRACERS = (torch._C._TorchDispatchModeKey.FAKE, torch._C._TorchDispatchModeKey.PROXY)


class Caching(nn.Module):
    """A layer that, in eval mode and without gradients, computes what depends on its weights alone only once."""

    def __init__(self) -> None:
        super().__init__()
        self._cache = ParameterCache()

    def reset_parameters(self) -> None:
        """Draws all weights anew, near the identity: see `INIT_ANGLE`."""
        for weights in self.parameters():
            nn.init.uniform_(weights, -INIT_ANGLE, INIT_ANGLE)

    def usable_cache(self, weights: Iterable[Tensor]) -> ParameterCache | None:
        """The cache, if this call may use it: nothing traces the call, and the weights have values to compare."""
        if self.training or torch.is_grad_enabled() or torch.compiler.is_compiling() or torch._C._is_tracing():
            return None
        if any(torch._C._get_dispatch_mode(tracer) is not None for tracer in _TRACERS):
            return None
        plain = all(
            type(own) in (Tensor, nn.Parameter)
            and not torch._C._functorch.is_functorch_wrapped_tensor(own)
            and own.device.type == "cpu"  # on other devices comparing them would wait for the device
            for own in weights
        )
        return self._cache if plain else None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_cache": ParameterCache()}


class CircuitLayer(Caching):
    """Expectation values of a circuit as a layer: (..., n_inputs) -> (..., n_observables).

    They are float64 for float64 inputs, else float32, but in the inputs' dtype if the weights are in half precision.

    Args:
        circuit: the circuit; the layer keeps a copy.
        engine, backend: as in `hqfkernels.expval`.
        device, dtype: of the weights, by default torch's.

    Attributes:
        weights: parameter (n_weights,), radians; near zero at first.
    """

    def __init__(
        self,
        circuit: Circuit,
        engine: str = "auto",
        backend: str = "auto",
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_names(engine, backend)
        self.circuit = checked_circuit(circuit)
        self.engine = engine
        self.backend = backend
        self.weights = nn.Parameter(torch.empty(self.circuit.n_weights, device=device, dtype=dtype))
        self.reset_parameters()

    def forward(self, inputs: Tensor) -> Tensor:
        """Inputs (..., n_inputs) in radians to expectation values (..., n_observables)."""
        weights = check(self.circuit, inputs, self.weights)
        schedule = choose((self.circuit.text,), "expval", place_of(inputs), self.engine, self.backend)
        values = evaluate((self.circuit,), inputs, (weights,), schedule, cache=self.usable_cache((weights,)))
        return as_inputs(values, inputs, (weights,))

    def export(self) -> PolynomialLayer:
        """An equal module of sines, cosines and matrix products, with the weights as they are now.

        It needs nothing but torch to run, exports with `torch.export` and to ONNX, and is not to be trained.

        Raises:
            TypeError, ValueError: for weights of the wrong kind; if a hook before forward changes the inputs; if the
                circuit is no trigonometric polynomial of a size that pays. The message says why.
        """
        before_forward(self, torch.empty(0, self.circuit.n_inputs))
        return PolynomialLayer((self.circuit,), (self.weights,))

    def extra_repr(self) -> str:
        return repr(self.circuit)


class CircuitBank(Caching):
    """Several circuits on the same inputs, as one contraction where the Fourier engine runs.

    Args:
        circuits: with as many inputs each; the layer keeps copies.
        engine, backend: as in `hqfkernels.expval`; "reference" runs one circuit after the other.
        device, dtype: of the weights, by default torch's.

    Attributes:
        weights: parameters (n_weights,) of each circuit, radians; near zero at first.
    """

    def __init__(
        self,
        circuits: Sequence[Circuit],
        engine: str = "auto",
        backend: str = "auto",
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_names(engine, backend)
        self.circuits = checked_circuits(circuits)
        self.engine = engine
        self.backend = backend
        self.weights = nn.ParameterList(torch.empty(c.n_weights, device=device, dtype=dtype) for c in self.circuits)
        self.reset_parameters()

    def forward(self, inputs: Tensor, routing: Tensor | None = None) -> Tensor:
        """Inputs (..., n_inputs) in radians to expectation values.

        Args:
            inputs: as `hqfkernels.expval` takes them.
            routing: (..., n_circuits), how much each circuit's values count in each sample.

        Returns:
            (..., sum of n_observables), circuit by circuit; with ``routing`` (..., n_observables), the sum of the
            circuits' values times their share. Dtype as in `CircuitLayer`, by the weights of all circuits.

        Raises:
            TypeError, ValueError: for arguments that do not fit, naming the argument.
        """
        pairs = zip(self.circuits, read(self.weights, len(self.circuits)), strict=True)
        weights = [check(circuit, inputs, own) for circuit, own in pairs]
        if routing is not None:
            self._check_routing(routing, inputs)
        texts = tuple(circuit.text for circuit in self.circuits)
        schedule = choose(texts, "expval", place_of(inputs), self.engine, self.backend)
        values = evaluate(self.circuits, inputs, weights, schedule, cache=self.usable_cache(weights))
        if routing is not None:
            # No matrix product, which autocast would run in half precision.
            values = (routing.to(values.dtype).unsqueeze(-1) * values.unflatten(-1, (len(self.circuits), -1))).sum(-2)
        return as_inputs(values, inputs, weights)

    def _check_routing(self, routing: Tensor, inputs: Tensor) -> None:
        counts = [circuit.n_observables for circuit in self.circuits]
        if len(set(counts)) > 1:
            raise ValueError(f"routing: needs circuits with as many observables each, they have {counts}")
        check_routing(routing, (*inputs.shape[:-1], len(self.circuits)), inputs)

    def export(self) -> PolynomialLayer:
        """As `CircuitLayer.export`, without routing."""
        before_forward(self, torch.empty(0, self.circuits[0].n_inputs))
        return PolynomialLayer(self.circuits, read(self.weights, len(self.circuits)))

    def extra_repr(self) -> str:
        return ", ".join(map(repr, self.circuits))
