"""Chooses engine and backend before a call, from static facts only, and says why.

*Engine* is the algorithm, *backend* the machine code that runs it. An explicit choice is obeyed or refused with the
reason, never replaced.

Costs are in nanoseconds of one core, forward and backward together in float32, fitted to measurements of the benchmark
circuits (docs/benchmarks.md) on a machine with AVX-512; only their ratios matter.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

from hqfkernels import backends
from hqfkernels.program import Measurement, Program, lower
from hqfkernels.series import axes_of

ENGINES = ("auto", "gate", "fourier")
BACKENDS = ("auto", "cpu", "reference")
MAX_NATIVE_QUBITS = 20
"""The CPU kernels hold two states per lane in memory; above this they refuse."""

NEVER = 1 << 62
"""A batch size that no batch reaches."""

_F = TypeVar("_F", bound=Callable[..., Any])


def static(function: _F) -> _F:
    """Marks a function of static facts whose result torch.compile takes as a constant, without tracing into it.

    It is what torch.compiler.assume_constant_result does, without the seconds that importing the compiler takes.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


@dataclass(frozen=True)
class Plan:
    """What will run, and what will not.

    Attributes:
        engine: the algorithm: "gate" or "fourier".
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

_SAMPLE = 20.0  # reading and writing a sample
_AMPLITUDE = 0.53  # growing, phases and measuring, per amplitude
_ROTATION = 4.5  # starting one
_PAIR = 0.287  # a shared rotation, per pair of real numbers
_LANE_PAIR = 0.5  # one with an angle per sample
_SERIES_SAMPLE = 24.0  # as _SAMPLE, with the sines
_TERM = 0.124  # a term of a polynomial, per output
_COEFFICIENTS = 3.4e5  # computing them, over and above the circuits on the grid
_DOUBLE = 2.0  # the grid is computed in double precision


def _gate_cost(program: Program) -> float:
    """Per sample."""
    bits, shared, lanes = 0, 0, 0
    for rotation in program.rotations:
        if rotation.x >> bits:
            bits += 1  # this one grows the state
        elif rotation.x:
            shared += rotation.shared
            lanes += not rotation.shared
    planes = 1 if all((r.x & r.z).bit_count() % 2 for r in program.rotations) else 2
    pairs = 2.0**bits / 2 * planes
    mixing = _ROTATION * (shared + lanes) + pairs * (_PAIR * shared + _LANE_PAIR * lanes)
    return _SAMPLE + 2.0**bits * _AMPLITUDE + mixing


def _fourier_cost(program: Program) -> tuple[float, float]:
    """(per sample, per set of weights); raises ValueError if the engine cannot take the program."""
    axes = axes_of(program)
    grid = math.prod(axis.size for axis in axes)
    return _SERIES_SAMPLE + grid * _TERM * program.n_outputs, _COEFFICIENTS + _DOUBLE * grid * _gate_cost(program)


@static
def choose(circuit: str, measurement: Measurement, device: str, engine: str, backend: str) -> int:
    """What to run, from static facts: the batch size per set of weights from which Fourier is the engine.

    Args:
        circuit: `Circuit.text`.
        measurement: what is computed.
        device: device type of the tensors, such as "cpu".
        engine: what the caller asked for.
        backend: likewise.

    Raises:
        ValueError: if ``engine`` or ``backend`` is not known, or the engine asked for by name cannot take the circuit.
        RuntimeError: if the backend asked for by name cannot take the call.
    """
    check_names(engine, backend)
    return _choose(circuit, measurement, device, engine, backend)


@lru_cache(maxsize=1024)
def _choose(circuit: str, measurement: Measurement, device: str, engine: str, backend: str) -> int:
    program = Program.from_text(lower(circuit, measurement))
    _choose_backend(program.n_qubits, device, backend)
    if backend == "reference" and engine == "fourier":
        raise RuntimeError("backend 'reference' refuses: it simulates gate by gate, engine 'fourier' was asked for")
    if engine == "gate" or backend == "reference":
        return NEVER
    try:
        per_sample, per_set = _fourier_cost(program)
    except ValueError as refusal:
        if engine == "fourier":
            raise ValueError(f"engine 'fourier' refuses the circuit: {refusal}") from None
        return NEVER
    if engine == "fourier":
        return 0
    gain = _gate_cost(program) - per_sample
    return math.ceil(per_set / gain) if gain > 0 else NEVER


def explain_choice(circuit: str, device: str, engine: str, backend: str, samples: int, sets: int) -> Plan:
    """The `Plan` for expectation values of ``samples`` samples under ``sets`` sets of weights; see `choose`."""
    threshold = choose(circuit, "expval", device, engine, backend)
    program = Program.from_text(lower(circuit, "expval"))
    chosen_backend, reasons = _choose_backend(program.n_qubits, device, backend)
    costs = [("gate", samples * _gate_cost(program))]
    try:
        per_sample, per_set = _fourier_cost(program)
        costs.append(("fourier", samples * per_sample + sets * per_set))
        why_not_fourier = "gate is cheaper for this batch"
        if engine == "gate":
            why_not_fourier = "gate was asked for"
        elif backend == "reference":
            why_not_fourier = "the reference simulates gate by gate"
    except ValueError as refusal:
        why_not_fourier = str(refusal)
    chosen = "fourier" if samples >= threshold * max(sets, 1) else "gate"
    if chosen == "gate":
        reasons.append(("fourier", why_not_fourier))
    else:
        reasons.append(("gate", "fourier was asked for" if engine == "fourier" else "fourier is cheaper"))
    return Plan(chosen, chosen_backend, tuple(costs), tuple(reasons))
