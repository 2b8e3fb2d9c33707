"""Chooses engine and backend before a call, from static facts only, and says why.

*Engine* is the algorithm, *backend* the machine code that runs it. An explicit choice is obeyed or refused with the
reason, never replaced. What each engine costs is estimated by `hqfkernels.costs`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from hqfkernels import backends, costs
from hqfkernels.backends import cuda, custatevec, triton
from hqfkernels.costs import Cost, Prices, total
from hqfkernels.engines import gate, unitary
from hqfkernels.engines.fourier import Grid, recipe, series
from hqfkernels.program import Measurement, Program, lower
from hqfkernels.static import static

ENGINES = ("auto", "gate", "fourier", "unitary")
BACKENDS = ("auto", "cpu", "cuda", "triton", "custatevec", "reference")

CARRIED = {
    "cpu": ("gate", "fourier", "unitary"),
    "cuda": ("gate",),
    "custatevec": ("gate",),
    "reference": ("gate",),
    "triton": ("fourier",),
}
"""The engines that a backend has. In the place of kernels that are missing, the reference runs any engine."""

KERNELS = ("cpu", "cuda", "triton")
"""The backends whose prices are known."""

Place = tuple[str, int | None, bool]
"""Device type, its index, and whether the call computes in double precision."""


class Choice(NamedTuple):
    """An engine on a backend.

    Attributes:
        engine: the algorithm: "gate", "fourier" or "unitary".
        backend: what runs it: "cpu", "cuda", "triton", "custatevec", or "reference" (plain torch).
        prices: what it costs there.
        simulated: whether `hqfkernels.reference.circuit` takes the place of the engine's operators.
    """

    engine: str
    backend: str
    prices: Prices
    simulated: bool = False


Schedule = tuple[Choice, ...]
"""What may run in a call; how many samples there are decides."""


@dataclass(frozen=True)
class Plan:
    """What will run, and what will not.

    Attributes:
        engine: the algorithm: "gate", "fourier" or "unitary".
        backend: "cpu" or "cuda" (compiled kernels), "triton", "custatevec", or "reference" (plain torch).
        costs: estimated cost of each engine that can take the call, in nanoseconds for the whole batch: of one
            core, or of a GPU. Empty where kernels have no part in the call: what plain torch and cuStateVec take is not
            known.
        reasons: for each engine and backend that was not chosen, why.
    """

    engine: str
    backend: str
    costs: tuple[tuple[str, float], ...]
    reasons: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        worker = " of one core" if self.backend == "cpu" else ""
        lines = [f"engine {self.engine}, backend {self.backend}"]
        lines += [
            f"  {engine}: about {cost / 1e3:.3g} microseconds{worker}, forward and backward"
            for engine, cost in self.costs
        ]
        lines += [f"  not {name}: {reason}" for name, reason in self.reasons]
        return "\n".join(lines)


def check_names(engine: str, backend: str) -> None:
    """Raises ValueError if ``engine`` or ``backend`` is not known."""
    if engine not in ENGINES:
        raise ValueError(f"engine: must be one of {', '.join(ENGINES)}, got {engine!r}")
    if backend not in BACKENDS:
        raise ValueError(f"backend: must be one of {', '.join(BACKENDS)}, got {backend!r}")


# --- backends -------------------------------------------------------------------------------------------------------


def place_of(inputs: Tensor) -> Place:
    """Where and in which precision a call computes."""
    return inputs.device.type, inputs.device.index, inputs.dtype == torch.float64


@dataclass(frozen=True)
class _Call:
    """What is known of a call before it; `choose` says what the attributes are."""

    circuits: tuple[str, ...]
    measurement: Measurement
    place: Place
    engine: str
    backend: str

    @property
    def on_gpu(self) -> bool:
        """Whether the inputs are on a GPU."""
        return self.place[0] == "cuda"

    @property
    def n_qubits(self) -> int:
        """Of the largest register."""
        return max(Program.from_text(lower(c, self.measurement)).n_qubits for c in self.circuits)

    @property
    def max_qubits(self) -> int:
        """The largest register that the compiled kernels take on the device."""
        return gate.max_qubits(self.on_gpu, self.place[2])

    def cost(self, engine: str) -> Cost | str:
        """The cost of an engine for all circuits, or why it refuses one of them."""
        cost = Cost()
        for circuit in self.circuits:
            own = estimate(circuit, self.measurement, engine)
            if isinstance(own, str):
                return own
            cost += own
        return cost

    def priced(self, engine: str, cost: Cost) -> Prices:
        """The prices of an engine on the device."""
        return cost.gpu_prices if self.on_gpu and engine != "unitary" else cost.prices

    def refusal(self, backend: str, engine: str) -> str | None:
        """Why a backend does not run an engine in this call; None if it can."""
        if backend == "reference":
            return None
        device = self.place[0]
        if device != ("cpu" if backend == "cpu" else "cuda"):
            return f"it computes on {'the CPU' if backend == 'cpu' else 'GPUs'}, the inputs are on {device}"
        if backend == "cpu":
            reason = self._cpu_refusal(engine)
        elif backend == "cuda":
            reason = cuda.cuda_refusal(self.n_qubits, torch.float64 if self.place[2] else torch.float32, self.place[1])
        elif backend == "custatevec":
            reason = self._custatevec_refusal()
        else:
            reason = self._triton_refusal()
        return reason or (None if engine in CARRIED[backend] else f"it carries no {engine} engine")

    def _cpu_refusal(self, engine: str) -> str | None:
        if self.n_qubits > self.max_qubits and (engine != "fourier" or self._has_grids()):
            return f"it takes at most {self.max_qubits} qubits, the circuit has {self.n_qubits}"
        available, reason = backends.native_status()
        return None if available else reason

    def _custatevec_refusal(self) -> str | None:
        if self.backend != "custatevec" and self.n_qubits <= self.max_qubits:  # said without seconds of loading it
            return f"it is for registers of more than {self.max_qubits} qubits, unless it is asked for by name"
        return custatevec.refusal(self.n_qubits, self.place[1])

    def _triton_refusal(self) -> str | None:
        available, reason = triton.triton_status(self.place[1])
        if not available:
            return reason
        cost = self.cost("fourier")
        return cost if isinstance(cost, str) else triton.series_refusal(series(self.circuits, self.measurement).text)

    def _has_grids(self) -> bool:
        """Whether the Fourier engine needs the gate engine, or refuses."""
        if isinstance(self.cost("fourier"), str):
            return True
        return any(isinstance(recipe(lower(c, self.measurement)).source, Grid) for c in self.circuits)

    def carrier(self, engine: str) -> str:
        """The backend that runs an engine."""
        if self.backend != "auto":
            return self.backend
        able = (name for name in CARRIED if name != "reference" and self.refusal(name, engine) is None)
        return next(able, "reference")


# --- engines --------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=4096)
def estimate(circuit: str, measurement: Measurement, engine: str) -> Cost | str:
    """What an engine costs, or why it refuses the circuit whose `Circuit.text` is given."""
    text = lower(circuit, measurement)
    if engine == "gate":
        return costs.gate(Program.from_text(text))
    try:
        if engine == "fourier":
            found = recipe(text)
            return costs.contraction(found.polynomials) + found.cost
        before, behind = unitary.parts(circuit, measurement)
    except ValueError as refusal:
        return str(refusal)
    return costs.unitary(Program.from_text(before) if before else None, Program.from_text(behind))


@static
def choose(circuits: tuple[str, ...], measurement: Measurement, place: Place, engine: str, backend: str) -> Schedule:
    """What may run, from static facts.

    Args:
        circuits: `Circuit.text` of the circuits that run on the same inputs.
        measurement: what is computed.
        place: what `place_of` says of the inputs.
        engine: what the caller asked for.
        backend: likewise.

    Raises:
        ValueError: if ``engine`` or ``backend`` is not known, or the engine asked for by name cannot take a circuit.
        RuntimeError: if the backend asked for by name cannot take the call.
    """
    check_names(engine, backend)
    return _choose(_Call(circuits, measurement, place, engine, backend))


@lru_cache(maxsize=1024)
def _choose(call: _Call) -> Schedule:
    engines: tuple[str, ...] = ENGINES[1:] if call.engine == "auto" else (call.engine,)
    if call.backend != "auto":
        carried = CARRIED[call.backend]
        if not set(engines) & set(carried):
            raise RuntimeError(
                f"backend {call.backend!r} refuses: it carries the {' and '.join(carried)} engine, "
                f"{call.engine!r} was asked for"
            )
        refusals = {engine: call.refusal(call.backend, engine) for engine in engines if engine in carried}
        engines = tuple(engine for engine, reason in refusals.items() if reason is None)
        if not engines:
            raise RuntimeError(f"backend {call.backend!r} refuses: {next(iter(refusals.values()))}")
    carriers = {engine: call.carrier(engine) for engine in engines}
    # Kernels first. Neither cuStateVec nor plain torch is weighed against them: their constants are not known.
    for worth in (KERNELS, ("custatevec",), ("reference",)):
        if found := {engine: backend for engine, backend in carriers.items() if backend in worth}:
            break
    simulates = call.backend == "reference" or call.n_qubits > call.max_qubits
    schedule = []
    for engine, backend in found.items():
        cost = call.cost(engine)
        if not isinstance(cost, str):
            simulated = simulates and (engine, backend) == ("gate", "reference")
            schedule.append(Choice(engine, backend, call.priced(engine, cost), simulated))
        elif call.engine != "auto":
            raise ValueError(f"engine {engine!r} refuses the circuit: {cost}")
    return tuple(schedule)


def scheduled(schedule: Schedule, samples: int, sets: int) -> Choice:
    """The cheapest choice for ``samples`` samples under ``sets`` sets of weights."""
    best, lowest = schedule[0], math.inf
    for choice in schedule:
        cost = total(choice.prices, samples, sets)
        if cost < lowest:
            best, lowest = choice, cost
    return best


def explain_choice(circuit: str, place: Place, engine: str, backend: str, samples: int, sets: int) -> Plan:
    """The `Plan` for expectation values of ``samples`` samples under ``sets`` sets of weights; see `choose`."""
    call = _Call((circuit,), "expval", place, engine, backend)
    schedule = choose(call.circuits, call.measurement, place, engine, backend)
    chosen = scheduled(schedule, samples, sets)
    why = f"{chosen.backend} is faster" if backend == "auto" else f"{backend} was asked for"
    reasons = [(name, call.refusal(name, chosen.engine) or why) for name in CARRIED if name != chosen.backend]
    found = []
    for name in ENGINES[1:]:
        cost = estimate(circuit, "expval", name)
        if not isinstance(cost, str) and chosen.backend in KERNELS and not (call.on_gpu and name == "unitary"):
            found.append((name, total(call.priced(name, cost), samples, sets)))
        if name != chosen.engine:
            reasons.append((name, cost if isinstance(cost, str) else _why_not(name, call, chosen, schedule)))
    return Plan(chosen.engine, chosen.backend, tuple(found), tuple(reasons))


def _why_not(engine: str, call: _Call, chosen: Choice, schedule: Schedule) -> str:
    """Why an engine that takes the circuit was not chosen."""
    if call.engine != "auto":
        return f"{chosen.engine} was asked for"
    if any(choice.engine == engine for choice in schedule):
        return f"{chosen.engine} is cheaper for this batch"
    if chosen.simulated:
        return "the reference simulates gate by gate"
    if call.on_gpu and engine == "unitary":
        return "it has no kernels for GPUs"
    kernels = "cpu" if not call.on_gpu else "triton" if engine == "fourier" else "cuda"
    return call.refusal(kernels, engine) or f"{call.backend} was asked for"
