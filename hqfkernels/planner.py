"""Chooses engine and backend before a call, from static facts only, and says why.

*Engine* is the algorithm, *backend* the machine code that runs it. An explicit choice is obeyed or refused with the
reason, never replaced. What each engine costs is estimated by `hqfkernels.costs`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

from hqfkernels import backends, costs
from hqfkernels.costs import Cost, Prices, total
from hqfkernels.engines import unitary
from hqfkernels.engines.fourier import recipe
from hqfkernels.program import Measurement, Program, lower
from hqfkernels.static import static

ENGINES = ("auto", "gate", "fourier", "unitary")
BACKENDS = ("auto", "cpu", "reference")
MAX_NATIVE_QUBITS = 20
"""The CPU kernels hold two states per lane in memory; above this they refuse."""

Schedule = tuple[tuple[str, Prices], ...]
"""Engines that may run, each with its price for a call, for a set of weights and for a sample."""


@dataclass(frozen=True)
class Plan:
    """What will run, and what will not.

    Attributes:
        engine: the algorithm: "gate", "fourier" or "unitary".
        backend: "cpu" (compiled kernels) or "reference" (plain torch).
        costs: estimated cost of each engine that can take the call, in nanoseconds of one core for the whole batch.
        reasons: for each engine and backend that was not chosen, why.
    """

    engine: str
    backend: str
    costs: tuple[tuple[str, float], ...]
    reasons: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        lines = [f"engine {self.engine}, backend {self.backend}"]
        lines += [
            f"  {engine}: about {cost / 1e3:.3g} microseconds of one core, forward and backward"
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


def _backend_refusal(backend: str, n_qubits: int, device: str) -> str | None:
    """Why ``backend`` cannot take the call, or None if it can."""
    if backend == "reference":
        return None
    if device != "cpu":
        return f"it computes on the CPU, the inputs are on {device}"
    if n_qubits > MAX_NATIVE_QUBITS:
        return f"it takes at most {MAX_NATIVE_QUBITS} qubits, the circuit has {n_qubits}"
    available, reason = backends.native_status()
    return None if available else reason


def _choose_backend(n_qubits: int, device: str, backend: str) -> tuple[str, list[tuple[str, str]]]:
    if backend != "auto":
        if (reason := _backend_refusal(backend, n_qubits, device)) is not None:
            raise RuntimeError(f"backend {backend!r} refuses: {reason}")
        return backend, [(other, f"{backend} was asked for") for other in BACKENDS[1:] if other != backend]
    refusal = _backend_refusal("cpu", n_qubits, device)
    return ("cpu", [("reference", "cpu is faster")]) if refusal is None else ("reference", [("cpu", refusal)])


# --- engines --------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1024)
def estimates(circuit: str, measurement: Measurement) -> dict[str, Cost | str]:
    """For each engine its cost, or why it refuses the circuit whose `Circuit.text` is given."""
    text = lower(circuit, measurement)
    result: dict[str, Cost | str] = {"gate": costs.gate(Program.from_text(text))}
    try:
        found = recipe(text)
        result["fourier"] = costs.contraction(found.polynomials) + found.cost
    except ValueError as refusal:
        result["fourier"] = str(refusal)
    try:
        before, behind = unitary.parts(circuit, measurement)
        result["unitary"] = costs.unitary(Program.from_text(before) if before else None, Program.from_text(behind))
    except ValueError as refusal:
        result["unitary"] = str(refusal)
    return result


@static
def choose(circuits: tuple[str, ...], measurement: Measurement, device: str, engine: str, backend: str) -> Schedule:
    """What to run, from static facts.

    Args:
        circuits: `Circuit.text` of the circuits that run on the same inputs.
        measurement: what is computed.
        device: device type of the tensors, such as "cpu".
        engine: what the caller asked for.
        backend: likewise.

    Raises:
        ValueError: if ``engine`` or ``backend`` is not known, or the engine asked for by name cannot take a circuit.
        RuntimeError: if the backend asked for by name cannot take the call.
    """
    check_names(engine, backend)
    return _choose(circuits, measurement, device, engine, backend)


@lru_cache(maxsize=1024)
def _choose(circuits: tuple[str, ...], measurement: Measurement, device: str, engine: str, backend: str) -> Schedule:
    for circuit in circuits:
        _choose_backend(Program.from_text(lower(circuit, measurement)).n_qubits, device, backend)
    if backend == "reference" and engine not in ("auto", "gate"):
        raise RuntimeError(f"backend 'reference' refuses: it simulates gate by gate, engine {engine!r} was asked for")
    if backend == "reference" or engine == "gate":
        names: tuple[str, ...] = ("gate",)
    else:
        names = ENGINES[1:] if engine == "auto" else (engine,)
    schedule = []
    for name in names:
        cost = _together(circuits, measurement, name)
        if not isinstance(cost, str):
            schedule.append((name, cost.prices))
        elif engine != "auto":
            raise ValueError(f"engine {engine!r} refuses the circuit: {cost}")
    return tuple(schedule)


def _together(circuits: tuple[str, ...], measurement: Measurement, engine: str) -> Cost | str:
    """The cost of an engine for all circuits, or why it refuses one of them."""
    cost = Cost()
    for circuit in circuits:
        own = estimates(circuit, measurement)[engine]
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


def explain_choice(circuit: str, device: str, engine: str, backend: str, samples: int, sets: int) -> Plan:
    """The `Plan` for expectation values of ``samples`` samples under ``sets`` sets of weights; see `choose`."""
    chosen = scheduled(choose((circuit,), "expval", device, engine, backend), samples, sets)
    n_qubits = Program.from_text(lower(circuit, "expval")).n_qubits
    chosen_backend, reasons = _choose_backend(n_qubits, device, backend)
    found = []
    for name, cost in estimates(circuit, "expval").items():
        if not isinstance(cost, str):
            found.append((name, total(cost.prices, samples, sets)))
        if name == chosen:
            continue
        if isinstance(cost, str):
            reasons.append((name, cost))
        elif backend == "reference":
            reasons.append((name, "the reference simulates gate by gate"))
        elif engine == "auto":
            reasons.append((name, f"{chosen} is cheaper for this batch"))
        else:
            reasons.append((name, f"{chosen} was asked for"))
    return Plan(chosen, chosen_backend, tuple(found), tuple(reasons))
