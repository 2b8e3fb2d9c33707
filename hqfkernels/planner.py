"""Chooses engine and backend before a call, from static facts only, and says why.

*Engine* is the algorithm, *backend* the machine code that runs it. An explicit choice is obeyed or refused with the
reason, never replaced.

Costs are counted in multiply-adds per sample on one lane, forward and backward together, and calibrated by
`bench/calibrate.py`; only their ratios matter.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
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
        costs: estimated cost of each engine that can take the call, in multiply-adds of the whole batch.
        reasons: for each engine and backend that was not chosen, why.
    """

    engine: str
    backend: str
    costs: tuple[tuple[str, float], ...]
    reasons: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        lines = [f"engine {self.engine}, backend {self.backend}"]
        lines += [f"  {engine}: about {cost:.3g} multiply-adds, forward and backward" for engine, cost in self.costs]
        lines += [f"  not {name}: {reason}" for name, reason in self.reasons]
        return "\n".join(lines)


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
    if backend not in BACKENDS:
        raise ValueError(f"backend: must be one of {', '.join(BACKENDS)}, got {backend!r}")
    if backend != "auto":
        if (reason := _backend_refusal(backend, n_qubits, device)) is not None:
            raise RuntimeError(f"backend {backend!r} refuses: {reason}")
        return backend, [(other, f"{backend} was asked for") for other in BACKENDS[1:] if other != backend]
    refusal = _backend_refusal("cpu", n_qubits, device)
    return ("cpu", [("reference", "cpu is faster")]) if refusal is None else ("reference", [("cpu", refusal)])


# --- engines --------------------------------------------------------------------------------------------------------

# Multiply-adds, forward and backward together, that one of these takes; from bench/calibrate.py.
_ROTATION = 10.0  # a shared rotation, per real pair of amplitudes
_LANE_ROTATION = 18.0  # one with an angle per sample
_AMPLITUDE = 30.0  # growing, phases and measuring, per amplitude
_TERM = 2.6  # a term of a polynomial, per output
_SAMPLE = 120.0  # reading, writing and the sines of a sample
_CALL = 2.5e6  # computing coefficients, over and above the circuits on the grid
_GRID = 2.0  # the grid is computed in double precision


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
    return _SAMPLE + 2.0**bits * _AMPLITUDE + pairs * (_ROTATION * shared + _LANE_ROTATION * lanes)


def _fourier_cost(program: Program) -> tuple[float, float]:
    """(per sample, per set of weights); raises ValueError if the engine cannot take the program."""
    axes = axes_of(program)
    grid = math.prod(axis.size for axis in axes)
    return _SAMPLE + grid * (2 + _TERM * program.n_outputs), _CALL + _GRID * grid * _gate_cost(program)


@static
def choose(circuit: str, measurement: Measurement, device: str, engine: str, backend: str) -> tuple[str, int]:
    """What to run, from static facts: (backend, batch size per set of weights from which Fourier is the engine).

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
    if engine not in ENGINES:
        raise ValueError(f"engine: must be one of {', '.join(ENGINES)}, got {engine!r}")
    program = Program.from_text(lower(circuit, measurement))
    chosen, _ = _choose_backend(program.n_qubits, device, backend)
    if engine == "gate":
        return chosen, NEVER
    try:
        per_sample, per_set = _fourier_cost(program)
    except ValueError as refusal:
        if engine == "fourier":
            raise ValueError(f"engine 'fourier' refuses the circuit: {refusal}") from None
        return chosen, NEVER
    if engine == "fourier":
        return chosen, 0
    gain = _gate_cost(program) - per_sample
    return chosen, math.ceil(per_set / gain) if gain > 0 else NEVER


def explain_choice(circuit: str, device: str, engine: str, backend: str, samples: int, sets: int) -> Plan:
    """The `Plan` for expectation values of ``samples`` samples under ``sets`` sets of weights; see `choose`."""
    _, threshold = choose(circuit, "expval", device, engine, backend)
    program = Program.from_text(lower(circuit, "expval"))
    chosen_backend, reasons = _choose_backend(program.n_qubits, device, backend)
    costs = [("gate", samples * _gate_cost(program))]
    try:
        per_sample, per_set = _fourier_cost(program)
        costs.append(("fourier", samples * per_sample + sets * per_set))
        why_not_fourier = "gate was asked for" if engine == "gate" else "gate is cheaper for this batch"
    except ValueError as refusal:
        why_not_fourier = str(refusal)
    chosen = "fourier" if samples >= threshold * max(sets, 1) else "gate"
    if chosen == "gate":
        reasons.append(("fourier", why_not_fourier))
    else:
        reasons.append(("gate", "fourier was asked for" if engine == "fourier" else "fourier is cheaper"))
    return Plan(chosen, chosen_backend, tuple(costs), tuple(reasons))
