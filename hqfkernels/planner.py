"""Chooses engine and backend before a call, from static facts only, and says why.

*Engine* is the algorithm, *backend* the machine code that runs it. An explicit choice is obeyed or refused with the
reason, never replaced.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from hqfkernels import backends

ENGINES = ("auto", "gate")
BACKENDS = ("auto", "cpu", "reference")
MAX_NATIVE_QUBITS = 20
"""The CPU kernels hold two states per lane in memory; above this they refuse."""


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
        engine: the algorithm: "gate".
        backend: "cpu" (compiled kernels) or "reference" (plain torch).
        reasons: for each backend that was not chosen, why.
    """

    engine: str
    backend: str
    reasons: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        lines = [f"engine {self.engine}, backend {self.backend}"]
        lines += [f"  not {backend}: {reason}" for backend, reason in self.reasons]
        return "\n".join(lines)


def _refusal(backend: str, n_qubits: int, device: str) -> str | None:
    """Why ``backend`` cannot take the call, or None if it can."""
    if backend == "reference":
        return None
    if device != "cpu":
        return f"it computes on the CPU, the inputs are on {device}"
    if n_qubits > MAX_NATIVE_QUBITS:
        return f"it takes at most {MAX_NATIVE_QUBITS} qubits, the circuit has {n_qubits}"
    available, reason = backends.native_status()
    return None if available else reason


@static
def plan(n_qubits: int, device: str, engine: str, backend: str) -> Plan:
    """Plans a call.

    Args:
        n_qubits: size of the register.
        device: device type of the tensors, such as "cpu".
        engine: what the caller asked for.
        backend: likewise.

    Raises:
        ValueError: if ``engine`` or ``backend`` is not known.
        RuntimeError: if the backend asked for by name cannot take the call; the message says why.
    """
    if engine not in ENGINES:
        raise ValueError(f"engine: must be one of {', '.join(ENGINES)}, got {engine!r}")
    if backend not in BACKENDS:
        raise ValueError(f"backend: must be one of {', '.join(BACKENDS)}, got {backend!r}")
    reasons: list[tuple[str, str]] = []
    for candidate in BACKENDS[1:]:
        reason = _refusal(candidate, n_qubits, device)
        if backend in ("auto", candidate) and reason is None:
            others = [(other, "not needed") for other in BACKENDS[1:] if other not in (candidate, *dict(reasons))]
            return Plan("gate", candidate, (*reasons, *others))
        if backend == candidate:
            raise RuntimeError(f"backend {backend!r} refuses: {reason}")
        reasons.append((candidate, reason or f"{backend} was asked for"))
    raise AssertionError("the reference takes every call")
