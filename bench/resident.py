"""Resident memory of this process, from Linux's ``/proc``."""

from __future__ import annotations

from pathlib import Path


def resident(field: str) -> int:
    """Bytes of ``VmRSS`` (now) or ``VmHWM`` (the peak since `reset_peak`)."""
    (line,) = [s for s in Path("/proc/self/status").read_text().splitlines() if s.startswith(field)]
    return int(line.split()[1]) * 1024


def reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")
