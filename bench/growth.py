"""How the cost of each engine grows with depth, batch and qubits: ``python -m bench.growth``, with a drawing."""

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


def draw(result: dict[str, Any], path: Path) -> None:
    """Three panels, one for each axis, to a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, len(result["axes"]), figsize=(12, 4), layout="constrained")
    styles = {"gate": ("C0", "o"), "fourier": ("C1", "s"), "unitary": ("C2", "^")}
    for panel, (axis, data) in zip(panels, result["axes"].items(), strict=True):
        for engine, (colour, marker) in styles.items():
            points = [(p[axis], p[engine]) for p in data["points"] if engine in p]
            panel.plot(*zip(*points, strict=True), color=colour, marker=marker, markersize=4, label=engine)
        panel.set(xlabel=axis, title=data["fixed"], yscale="log", xscale="linear" if axis == "qubits" else "log")
        if axis != "qubits":
            panel.set_xscale("log", base=2 if axis == "layers" else 10)
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("µs per circuit, forward + backward, one thread")
    panels[0].legend()
    device = result["device"]
    figure.suptitle(
        f"{device['cpu']}, {device['simd']}, torch {result['versions']['torch']}, {result['date'][:10]}", fontsize=9
    )
    figure.savefig(path, dpi=110)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.growth", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="readings of each engine (%(default)s)")
    parser.add_argument("--json", type=Path, help="file for the result; default: a new one under bench/results")
    parser.add_argument("--report", type=Path, help="draw an earlier result instead of measuring")
    parser.add_argument("--png", type=Path, required=True, help="where the drawing goes")
    options = parser.parse_args(arguments)
    if options.rounds < 1:
        parser.error(f"--rounds: must be at least 1, got {options.rounds}")
    if options.report:
        result = json.loads(options.report.read_text())
    else:
        torch.set_num_threads(1)
        result = stamp() | {"axes": {}}
        path = result_path(parser, options.json, result, "growth-")
        result["axes"] = measure_axes(options.rounds)
        path.write_text(json.dumps(result, indent=1) + "\n")
    draw(result, options.png)


if __name__ == "__main__":
    main()
