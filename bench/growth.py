"""How the cost of each engine grows with depth, batch and qubits: ``python -m bench.growth``; `bench.plot` draws it."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from bench.cases import Case
from bench.compare import progress, result_path, stamp
from bench.planner import Problem, measure

AXES: dict[str, tuple[str, list[Case]]] = {
    "layers": ("n = 4, batch 16384", [Case(4, layers, 16384) for layers in (2, 3, 4, 6, 8, 12, 16, 24, 32)]),
    "batch": ("n = 4, 3 layers", [Case(4, 3, 4**k) for k in range(2, 10)]),
    "qubits": ("2 layers, batch 1024", [Case(n, 2, 1024) for n in range(2, 13)]),
}
"""What grows, what stays, and the circuits, of the family that `bench.cases` describes."""
SLOWEST = 2e9
"""Nanoseconds of a step above which an engine is not taken further along an axis."""


def measure_axes(rounds: int) -> dict[str, Any]:
    """For each axis, median microseconds per circuit of each engine at every point."""
    result = {}
    for axis, (fixed, cases) in AXES.items():
        points = []
        for case in cases:
            progress(f"{axis}: {case}")
            times = measure(Problem(str(case), case.circuit(), case.batch), rounds, SLOWEST)
            points.append(
                {
                    axis: getattr(case, {"qubits": "n"}.get(axis, axis)),
                    **{engine: nanoseconds / case.batch / 1e3 for engine, nanoseconds in times.items()},
                }
            )
        result[axis] = {"fixed": fixed, "points": points}
    progress("")
    return result


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.growth", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="readings of each engine (%(default)s)")
    parser.add_argument("--json", type=Path, help="file for the result; default: a new one under bench/results")
    options = parser.parse_args(arguments)
    if options.rounds < 1:
        parser.error(f"--rounds: must be at least 1, got {options.rounds}")
    torch.set_num_threads(1)
    result = stamp() | {"axes": {}}
    path = result_path(parser, options.json, result, "growth-")
    result["axes"] = measure_axes(options.rounds)
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"written to {path}")


if __name__ == "__main__":
    main()
