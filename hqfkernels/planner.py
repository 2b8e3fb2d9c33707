"""Chooses engine and backend before a call, from static facts only, and says why.

*Engine* is the algorithm, *backend* the machine code that runs it. An explicit choice is obeyed or refused with the
reason, never replaced. What each engine costs is estimated by `hqfkernels.costs`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

from hqfkernels import backends, costs
from hqfkernels.engines import unitary
from hqfkernels.engines.fourier import recipe
from hqfkernels.program import Measurement, Program, lower
from hqfkernels.static import static

ENGINES = ("auto", "gate", "fourier", "unitary")
BACKENDS = ("auto", "cpu", "reference")
MAX_NATIVE_QUBITS = 20
"""The CPU kernels hold two states per lane in memory; above this they refuse."""

Schedule = tuple[tuple[str, int], ...]
"""Engines and the number of samples per set of weights from which each of them is used, ascending from 0."""


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
def _estimates(circuit: str, measurement: Measurement) -> dict[str, tuple[float, float] | str]:
    """For each engine its cost per sample and per set of weights, or why it refuses."""
    text = lower(circuit, measurement)
    program = Program.from_text(text)
    result: dict[str, tuple[float, float] | str] = {"gate": (costs.gate(program), 0.0)}
    try:
        found = recipe(text)
        own = found.cost + costs.PARAMETER * found.polynomials.n_parameters
        result["fourier"] = costs.contraction(found.polynomials), own
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
    if backend == "reference":
        if engine not in ("auto", "gate"):
            raise RuntimeError(
                f"backend 'reference' refuses: it simulates gate by gate, engine {engine!r} was asked for"
            )
        return (("gate", 0),)
    if engine == "gate":
        return (("gate", 0),)
    able = ("fourier", "unitary") if engine == "auto" else (engine,)
    lines = {"gate": (0.0, 0.0)} | dict.fromkeys(able, (0.0, 0.0))
    for circuit in circuits:
        estimates = _estimates(circuit, measurement)
        for name in list(lines):
            cost = estimates[name]
            if isinstance(cost, str):
                if engine != "auto":
                    raise ValueError(f"engine {engine!r} refuses the circuit: {cost}")
                del lines[name]
            else:
                lines[name] = lines[name][0] + cost[0], lines[name][1] + cost[1]
    return _envelope(lines) if engine == "auto" else ((engine, 0),)


def _envelope(lines: dict[str, tuple[float, float]]) -> Schedule:
    """The cheapest engine for every number of samples, given slopes and offsets of their costs."""
    schedule = [("gate", 0)]
    while True:
        current, start = schedule[-1]
        slope, offset = lines[current]
        crossings = [
            (max(start, math.ceil((other[1] - offset) / (slope - other[0]))), other[0], name)
            for name, other in lines.items()
            if other[0] < slope
        ]
        if not crossings:
            return tuple(schedule)
        at, _, name = min(crossings)
        if at == start:
            schedule.pop()
        schedule.append((name, at))


def scheduled(schedule: Schedule, samples: int, sets: int) -> str:
    """The engine for ``samples`` samples under ``sets`` sets of weights."""
    return [name for name, start in schedule if samples >= start * max(sets, 1)][-1]


def explain_choice(circuit: str, device: str, engine: str, backend: str, samples: int, sets: int) -> Plan:
    """The `Plan` for expectation values of ``samples`` samples under ``sets`` sets of weights; see `choose`."""
    chosen = scheduled(choose((circuit,), "expval", device, engine, backend), samples, sets)
    n_qubits = Program.from_text(lower(circuit, "expval")).n_qubits
    chosen_backend, reasons = _choose_backend(n_qubits, device, backend)
    found = []
    for name, cost in _estimates(circuit, "expval").items():
        if not isinstance(cost, str):
            found.append((name, samples * cost[0] + sets * cost[1]))
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
