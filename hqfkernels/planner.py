"""Chooses engine and backend before a call, from static facts only, and says why.

*Engine* is the algorithm, *backend* the machine code that runs it. An explicit choice is obeyed or refused with the
reason, never replaced.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from hqfkernels import backends

ENGINES = ("auto", "gate")
BACKENDS = ("auto", "cpu", "reference")
MAX_NATIVE_QUBITS = 20
"""The CPU kernels hold two states per lane in memory; above this they refuse."""


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


def _refusal(backend: str, n_qubits: int, device: str, forward_only: bool) -> str | None:
    """Why ``backend`` cannot take the call, or None if it can."""
    if backend == "reference":
        return None
    if device != "cpu":
        return f"it computes on the CPU, the inputs are on {device}"
    if n_qubits > MAX_NATIVE_QUBITS:
        return f"it takes at most {MAX_NATIVE_QUBITS} qubits, the circuit has {n_qubits}"
    available, reason = backends.native_status()
    return None if available else reason


@torch._dynamo.assume_constant_result  # static facts in, static choice out: nothing for torch.compile to trace
def plan(n_qubits: int, device: str, engine: str, backend: str, forward_only: bool = False) -> Plan:
    """Plans a call.

    Args:
        n_qubits: size of the register.
        device: device type of the tensors, such as "cpu".
        engine, backend: what the caller asked for.
        forward_only: whether the call has no gradient at all (`statevector`).

    Raises:
        ValueError: if ``engine`` or ``backend`` is not known.
        RuntimeError: if the backend asked for by name cannot take the call; the message says why.
    """
    if engine not in ENGINES:
        raise ValueError(f"engine: must be one of {', '.join(ENGINES)}, got {engine!r}")
    if backend not in BACKENDS:
        raise ValueError(f"backend: must be one of {', '.join(BACKENDS)}, got {backend!r}")
    reasons = []
    for candidate in BACKENDS[1:]:
        reason = _refusal(candidate, n_qubits, device, forward_only)
        if backend in ("auto", candidate) and reason is None:
            others = [(other, "not needed") for other in BACKENDS[1:] if other not in (candidate, *dict(reasons))]
            return Plan("gate", candidate, (*reasons, *others))
        if backend == candidate:
            raise RuntimeError(f"backend {backend!r} refuses: {reason}")
        reasons.append((candidate, reason or f"{backend} was asked for"))
    raise AssertionError("the reference takes every call")
