"""What the property tests draw: circuits from `tests.oracles.random_circuit`, and tensors of every kind for them."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from torch import Tensor

import hqfkernels as hqf
from hqfkernels import Circuit
from tests import oracles

_Result = TypeVar("_Result")

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
ENGINES = ("gate", "fourier", "unitary")
BATCHES = ((), (0,), (1,), (2,), (5,), (17,), (33,), (2, 3), (3, 0), (2, 1, 4), (9, 2))
LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda x: x.contiguous(),
    "features first": lambda x: x.movedim(-1, 0).contiguous().movedim(0, -1),
    "dimensions reversed": lambda x: (
        x.permute(*reversed(range(x.dim()))).contiguous().permute(*reversed(range(x.dim())))
    ),
    "every second feature": lambda x: torch.stack([x, x + 1], -1).flatten(-2)[..., ::2],
    "a slice of a wider tensor": lambda x: torch.cat([x + 1, x, x + 2], -1)[..., x.shape[-1] : 2 * x.shape[-1]],
    "every third sample": lambda x: torch.stack([x + 1, x, x + 2])[1],
}


EXAMPLES = int(os.environ.get("HQF_PROPERTY_EXAMPLES", "25"))
"""Circuits that the engines are compared on. By default a few, the same in every run; if set, other ones in each."""

settings.register_profile(
    "hqfkernels",
    max_examples=EXAMPLES,
    derandomize="HQF_PROPERTY_EXAMPLES" not in os.environ,
    database=None,
    deadline=None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)
settings.load_profile("hqfkernels")

FEWER = settings(max_examples=max(min(EXAMPLES, 20), EXAMPLES // 20))
"""For all other tests."""


@dataclass(frozen=True)
class Case:
    """A circuit and the tensors to run it on.

    Attributes:
        circuit: the circuit.
        inputs: (*batch, n_inputs), of any dtype and layout.
        weights: (*groups, n_weights).
        scale: by which amplitudes among the inputs were multiplied.
    """

    circuit: Circuit
    inputs: Tensor
    weights: Tensor
    scale: float = 1.0

    @property
    def units(self) -> Tensor:
        """(n_inputs,): of what size a change of each input is one that matters."""
        first = self.circuit.gates[0]
        units = torch.ones(self.circuit.n_inputs, dtype=torch.float64)
        units[: len(first.angles) if first.name == "amplitudes" else 0] = self.scale
        return units

    def sample(self) -> Case | None:
        """The first sample alone, without batch dimensions; None if there is none."""
        if not self.inputs.shape[:-1].numel():
            return None
        weights = self.weights.expand(*self.inputs.shape[:-1], -1)
        inputs, weights = (t.flatten(0, -2)[0] if t.dim() > 1 else t for t in (self.inputs, weights))
        return Case(self.circuit, inputs, weights, self.scale)

    def __repr__(self) -> str:  # what hypothesis prints of a failure
        return (
            f"Case(Circuit.from_text({self.circuit.text!r}), inputs {self.inputs.dtype} {tuple(self.inputs.shape)} "
            f"strides {self.inputs.stride()}, weights {self.weights.dtype} {tuple(self.weights.shape)}, "
            f"scale {self.scale:g})\ninputs = {self.inputs.tolist()}\nweights = {self.weights.tolist()}"
        )


@st.composite
def cases(
    draw: st.DrawFn,
    *,
    max_qubits: int = 4,
    max_gates: int = 12,
    dtypes: tuple[torch.dtype, ...] = DTYPES,
    batches: tuple[tuple[int, ...], ...] = BATCHES,
    layouts: tuple[str, ...] = tuple(LAYOUTS),
    grouped: bool = True,
    letters: tuple[str, ...] = ("IXYZ", "IZ"),
    coefficients: tuple[float, ...] = (1, 1, 1, 2, 3, 0.5, 0.7),
) -> Case:
    """Random cases; hypothesis shrinks their sizes, a seed decides the rest."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1), label="seed"))
    n_qubits = draw(st.integers(1, max_qubits), label="qubits")
    amplitudes = draw(st.integers(0, 4), label="amplitudes if 4") == 4
    circuit = oracles.random_circuit(
        rng,
        n_qubits,
        draw(st.integers(1, max_gates), label="gates"),
        draw(st.integers(0, 3), label="inputs"),
        draw(st.integers(0, 4), label="weights"),
        n_observables=draw(st.integers(1, 4), label="observables"),
        amplitudes=amplitudes,
        letters=draw(st.sampled_from(letters), label="letters"),
        coefficients=coefficients,
    )
    dtype = draw(st.sampled_from(dtypes), label="dtype")
    batch = draw(st.sampled_from(batches), label="batch")
    first = draw(st.integers(0, len(batch)), label="first group dimension") if grouped else len(batch)
    groups = tuple(size if rng.random() < 0.6 else 1 for size in batch[first:])

    inputs, weights = (
        torch.from_numpy(_angles(rng, (*shape, count)))
        for shape, count in ((batch, circuit.n_inputs), (groups, circuit.n_weights))
    )
    scale = 1.0
    if amplitudes:
        vectors = torch.from_numpy(rng.normal(size=(*batch, 2**n_qubits)))
        inputs[..., : 2**n_qubits] = vectors / vectors.norm(dim=-1, keepdim=True)
        digits = {torch.float64: 150, torch.float32: 30, torch.bfloat16: 30, torch.float16: 2}[dtype]
        scale = 10.0 ** draw(st.integers(-digits, digits), label="digits of the scale")
        inputs[..., : 2**n_qubits] *= scale
    layout = LAYOUTS[draw(st.sampled_from(layouts), label="layout")]
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    return Case(circuit, layout(inputs.to(dtype)), weights.to(wide), scale)


def _angles(rng: np.random.Generator, shape: tuple[int, ...]) -> Any:
    """About a turn; sometimes multiples of pi / 4, where sines and cosines vanish."""
    if rng.random() < 0.2:
        return rng.integers(-8, 9, size=shape) * (math.pi / 4)
    return rng.normal(size=shape) * 2


def how(engine: str) -> dict[str, Any]:
    """The arguments that choose an engine, or the reference, by name."""
    return {"backend": "reference"} if engine == "reference" else {"engine": engine}


def unless_refused(call: Callable[[], _Result]) -> _Result | None:
    """The result of a call; None if the engine that it names refuses the circuit."""
    try:
        return call()
    except ValueError as error:
        if "refuses the circuit" in str(error):
            return None
        raise


FUNCTIONS: dict[str, Callable[..., Tensor]] = {"expval": hqf.expval, "probs": hqf.probs}


def results(
    case: Case, engine: str, function: str = "expval", slope: Tensor | None = None, double: bool = False
) -> list[Tensor] | None:
    """Values, and the gradients in inputs and weights of their sum weighted by ``slope``; None if refused.

    Args:
        case: what to run.
        engine: by name, or "reference".
        function: "expval" or "probs".
        slope: of the shape of the values; by default numbers from -1 to 2.
        double: whether to take the case's numbers as float64.
    """
    inputs, weights = (t.double() if double else t for t in (case.inputs, case.weights))
    leaves = [t.detach().requires_grad_() for t in (inputs, weights)]
    values = unless_refused(lambda: FUNCTIONS[function](case.circuit, *leaves, **how(engine)))
    if values is None:
        return None
    if slope is None:
        slope = torch.linspace(-1, 2, values.numel(), dtype=torch.float64).view(values.shape)
    if not values.requires_grad:  # the reference of a circuit without parameters
        return [values, *map(torch.zeros_like, leaves)]
    grads = torch.autograd.grad((values * slope.to(values.dtype)).sum(), leaves, materialize_grads=True)
    return [values.detach(), *grads]
