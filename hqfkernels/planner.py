"""Chooses engine and backend before a call, from static facts only, and says why.

*Engine* is the algorithm, *backend* the machine code that runs it. An explicit choice is obeyed or refused with the
reason, never replaced. What each engine costs is estimated by `hqfkernels.costs`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from hqfkernels import backends, costs
from hqfkernels.backends import cuda, custatevec, triton
from hqfkernels.costs import Cost, Prices, total
from hqfkernels.engines import unitary
from hqfkernels.engines.fourier import recipe, series
from hqfkernels.program import Measurement, Program, lower
from hqfkernels.static import static

ENGINES = ("auto", "gate", "fourier", "unitary")
BACKENDS = ("auto", "cpu", "cuda", "triton", "custatevec", "reference")
REFERENCE = "reference"
"""In a schedule: the plain simulation that no engine takes part in."""
CUSTATEVEC = "custatevec"
"""In a schedule: the gate engine for large registers on a GPU."""

CARRIED = {"cuda": ("gate",), "triton": ("fourier",), "custatevec": ("gate",), "reference": ("gate",)}
"""The engines that a backend has, if not all."""

MAX_NATIVE_QUBITS = 20
"""The CPU kernels hold two states per lane in memory; above this they refuse."""

Place = tuple[str, int | None, bool]
"""Device type, its index, and whether the call computes in double precision."""

Schedule = tuple[tuple[str, Prices], ...]
"""Engines that may run, each with its price for a call, for a set of weights and for a sample."""


@dataclass(frozen=True)
class Plan:
    """What will run, and what will not.

    Attributes:
        engine: the algorithm: "gate", "fourier" or "unitary".
        backend: "cpu" or "cuda" (compiled kernels), "triton", "custatevec", or "reference" (plain torch).
        costs: estimated cost of each engine that can take the call, in nanoseconds for the whole batch: of one
            core, or of a GPU.
        reasons: for each engine and backend that was not chosen, why.
    """

    engine: str
    backend: str
    costs: tuple[tuple[str, float], ...]
    reasons: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        worker = " of one core" if self.backend in ("cpu", "reference") else ""
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


def _limit(place: Place) -> int:
    """The largest register of the compiled kernels on a device."""
    if place[0] == "cuda":
        return cuda.MAX_QUBITS_DOUBLE if place[2] else cuda.MAX_QUBITS
    return MAX_NATIVE_QUBITS


def _backend_refusal(backend: str, n_qubits: int, place: Place, by_name: bool) -> str | None:
    """Why ``backend`` cannot take the call, or does not unless it is asked for by name; None if it does."""
    device, index, double = place
    if backend == "reference":
        return None
    if device != ("cpu" if backend == "cpu" else "cuda"):
        computes_on = "the CPU" if backend == "cpu" else "GPUs"
        return f"it computes on {computes_on}, the inputs are on {device}"
    if backend == "cuda":
        return cuda.cuda_refusal(n_qubits, torch.float64 if double else torch.float32, index)
    if backend == "custatevec":
        if not by_name and n_qubits <= _limit(place):  # said without loading it, which takes seconds
            return f"it is for registers of more than {_limit(place)} qubits, unless it is asked for by name"
        return custatevec.refusal(n_qubits, index)
    if n_qubits > MAX_NATIVE_QUBITS:
        return f"it takes at most {MAX_NATIVE_QUBITS} qubits, the circuit has {n_qubits}"
    available, reason = backends.native_status()
    return None if available else reason


def _triton_refusal(circuits: tuple[str, ...], measurement: Measurement, place: Place) -> str | None:
    """Why Triton's contraction cannot take circuits, or None if it can."""
    if place[0] != "cuda":
        return f"it computes on GPUs, the inputs are on {place[0]}"
    available, reason = triton.triton_status(place[1])
    if not available:
        return reason
    cost = _together(circuits, measurement, "fourier")
    return cost if isinstance(cost, str) else triton.series_refusal(series(circuits, measurement).text)


def _choose_backend(n_qubits: int, place: Place, backend: str) -> tuple[str, list[tuple[str, str]]]:
    """The backend of simulations, and why not the others."""
    names = [name for name in BACKENDS[1:] if name != "triton"]
    refusals = {name: _backend_refusal(name, n_qubits, place, name == backend) for name in names}
    if backend == "auto":
        chosen = next(name for name, refusal in refusals.items() if refusal is None)
        why = f"{chosen} is faster"
    elif (reason := refusals[backend]) is not None:
        raise RuntimeError(f"backend {backend!r} refuses: {reason}")
    else:
        chosen, why = backend, f"{backend} was asked for"
    return chosen, [(name, refusal or why) for name, refusal in refusals.items() if name != chosen]


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
    """What to run, from static facts.

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
    return _choose(circuits, measurement, place, engine, backend)


@lru_cache(maxsize=1024)
def _choose(circuits: tuple[str, ...], measurement: Measurement, place: Place, engine: str, backend: str) -> Schedule:
    if backend in CARRIED and engine not in ("auto", *CARRIED[backend]):
        carried = " and ".join(CARRIED[backend])
        raise RuntimeError(f"backend {backend!r} refuses: it carries the {carried} engine, {engine!r} was asked for")
    on_gpu = place[0] == "cuda"
    refusal = None
    if backend == "triton" or (on_gpu and backend == "auto" and engine in ("auto", "fourier")):
        refusal = _triton_refusal(circuits, measurement, place)
    if backend == "triton":
        if refusal is not None:
            raise RuntimeError(f"backend 'triton' refuses: {refusal}")
        return _priced(circuits, measurement, place, ("fourier",), "fourier")
    n_qubits = max(Program.from_text(lower(circuit, measurement)).n_qubits for circuit in circuits)
    chosen, _ = _choose_backend(n_qubits, place, backend)
    if on_gpu and engine == "auto" and backend == "auto" and refusal is None:
        names = ("gate", "fourier") if chosen == "cuda" else ("fourier",)
        return _priced(circuits, measurement, place, names, engine)
    if engine in ("auto", "gate") and chosen == "custatevec":
        return ((CUSTATEVEC, (0.0, 0.0, 0.0)),)
    if engine in ("auto", "gate") and (backend == "reference" or n_qubits > _limit(place)):
        return ((REFERENCE, (0.0, 0.0, 0.0)),)
    # What has no kernels on a GPU runs there as plain torch if it was asked for by name.
    if engine == "auto":
        return _priced(circuits, measurement, place, ("gate",) if chosen == "cuda" else ENGINES[1:], engine)
    return _priced(circuits, measurement, place, (engine,), engine)


def _priced(
    circuits: tuple[str, ...], measurement: Measurement, place: Place, names: tuple[str, ...], engine: str
) -> Schedule:
    """A schedule of the engines ``names``; raises ValueError if ``engine`` was asked for and refuses."""
    schedule = []
    for name in names:
        cost = _together(circuits, measurement, name)
        if not isinstance(cost, str):
            schedule.append((name, _prices(cost, name, place)))
        elif engine != "auto":
            raise ValueError(f"engine {engine!r} refuses the circuit: {cost}")
    return tuple(schedule)


def _prices(cost: Cost, engine: str, place: Place) -> Prices:
    return cost.priced(costs.GPU_CONSTANTS) if place[0] == "cuda" and engine != "unitary" else cost.prices


def _together(circuits: tuple[str, ...], measurement: Measurement, engine: str) -> Cost | str:
    """The cost of an engine for all circuits, or why it refuses one of them."""
    cost = Cost()
    for circuit in circuits:
        own = estimate(circuit, measurement, engine)
        if isinstance(own, str):
            return own
        cost += own
    return cost


def scheduled(schedule: Schedule, samples: int, sets: int) -> str:
    """The cheapest engine for ``samples`` samples under ``sets`` sets of weights."""
    best, lowest = "", math.inf
    for name, prices in schedule:
        cost = total(prices, samples, sets)
        if cost < lowest:
            best, lowest = name, cost
    return best


def explain_choice(circuit: str, place: Place, engine: str, backend: str, samples: int, sets: int) -> Plan:
    """The `Plan` for expectation values of ``samples`` samples under ``sets`` sets of weights; see `choose`."""
    chosen = scheduled(choose((circuit,), "expval", place, engine, backend), samples, sets)
    n_qubits = Program.from_text(lower(circuit, "expval")).n_qubits
    if backend == "triton":
        chosen_backend, reasons = backend, [(name, "triton was asked for") for name in BACKENDS[1:] if name != backend]
    else:
        chosen_backend, reasons = _choose_backend(n_qubits, place, backend)
        refusal = _triton_refusal((circuit,), "expval", place)
        if chosen == "fourier" and place[0] == "cuda":
            reasons = [(name, why) for name, why in reasons if name != "reference"]
            reasons += [(chosen_backend, "it carries no Fourier engine")] if chosen_backend != "reference" else []
            chosen_backend = "reference" if refusal else "triton"
        if chosen_backend != "triton":
            reasons.append(("triton", refusal or f"the {chosen} engine is not its own"))
    chosen = "gate" if chosen in (REFERENCE, CUSTATEVEC) else chosen
    found = []
    for name in ENGINES[1:]:
        cost = estimate(circuit, "expval", name)
        priced = not isinstance(cost, str) and (place[0] != "cuda" or name != "unitary")
        if not isinstance(cost, str) and priced:
            found.append((name, total(_prices(cost, name, place), samples, sets)))
        if name == chosen:
            continue
        if isinstance(cost, str):
            reasons.append((name, cost))
        elif engine != "auto":
            reasons.append((name, f"{chosen} was asked for"))
        elif chosen_backend == "reference":
            reasons.append((name, "the reference simulates gate by gate"))
        elif not priced:
            reasons.append((name, "it has no kernels for GPUs"))
        elif place[0] == "cuda" and name == "fourier" and (refusal := _triton_refusal((circuit,), "expval", place)):
            reasons.append((name, refusal))
        else:
            reasons.append((name, f"{chosen} is cheaper for this batch"))
    return Plan(chosen, chosen_backend, tuple(found), tuple(reasons))
