"""How time and memory grow with batch, qubits, depth, threads and experts: ``python -m bench.scaling``.

What users get is measured: the engine that the planner chooses, forward and backward in float32, for the circuits of
`bench.cases`. `bench.growth` compares the engines with each other instead.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import hqfkernels as hqf
from bench import memory
from bench.cases import Case
from bench.compare import SHORTEST, describe, number, progress, result_path, stamp, table
from bench.handwritten import Form
from hqfkernels import planner

SMALL = Case(2, 2, 64)
"""What an engine runs before its memory is measured, so that its code is loaded."""


@dataclass(frozen=True)
class Point:
    """A case on a number of threads; ``experts`` circuits of the family, each with its own weights, as one bank."""

    case: Case
    threads: int = 1
    experts: int = 1

    def form(self, engine: str = "auto") -> Form:
        """Inputs (batch, n) and weights (experts, n_weights) to values (batch, experts * n)."""
        circuit = self.case.circuit()
        if self.experts == 1:
            return lambda inputs, weights: hqf.expval(circuit, inputs, weights[0], engine=engine)
        bank = hqf.nn.CircuitBank([circuit] * self.experts, engine=engine)
        names = [name for name, _ in bank.named_parameters()]

        def run(inputs: Tensor, weights: Tensor) -> Tensor:
            own = dict(zip(names, weights.unbind(), strict=True))
            result: Tensor = torch.func.functional_call(bank, own, (inputs,))
            return result

        return run

    def tensors(self) -> tuple[Tensor, Tensor]:
        """Inputs and weights for `form`, always the same, both asking for gradients."""
        inputs, weights = self.case.tensors()
        turned = [(k + 1) * weights.detach() for k in range(self.experts)]
        return inputs, torch.stack(turned).requires_grad_()

    def engine(self) -> str:
        """The engine that the planner chooses."""
        texts = (self.case.circuit().text,) * self.experts
        place = planner.place_of(torch.empty(0))
        return planner.scheduled(planner.choose(texts, "expval", place, "auto", "auto"), self.case.batch, 1).engine

    def sizes(self) -> dict[str, int]:
        """For the result: what may grow."""
        case = {"qubits": self.case.n, "depth": self.case.layers, "batch": self.case.batch}
        return case | {"threads": self.threads, "experts": self.experts}


@dataclass(frozen=True)
class Curve:
    """What ``grows`` (a key of `Point.sizes`), what stays ``fixed``, and the points."""

    grows: str
    fixed: str
    points: list[Point]


def curves(quick: bool) -> list[Curve]:
    """All curves, or shorter ones."""
    batches = [k * 10**e for e in range(2, 5 if quick else 7) for k in (1, 3)] + [10 ** (5 if quick else 7)]
    qubits = range(2, 10 if quick else 15)
    depths = (1, 2, 3, 4, 6, 8) if quick else (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
    threads = range(1, (os.cpu_count() or 1) + 1)
    experts = range(1, 5 if quick else 9)
    return [
        Curve("batch", "4 qubits, 2 layers", [Point(Case(4, 2, batch)) for batch in batches]),
        Curve("qubits", "2 layers, batch 1024", [Point(Case(n, 2, 1024)) for n in qubits]),
        Curve("depth", "4 qubits, batch 16384", [Point(Case(4, depth, 16384)) for depth in depths]),
        Curve("depth", "8 qubits, batch 2048", [Point(Case(8, depth, 2048)) for depth in depths]),
        Curve("threads", "4 qubits, 2 layers, batch 131072", [Point(Case(4, 2, 131072), k) for k in threads]),
        Curve("threads", "8 qubits, 6 layers, batch 2048", [Point(Case(8, 6, 2048), k) for k in threads]),
        Curve("experts", "4 qubits, 2 layers, batch 65536", [Point(Case(4, 2, 65536), 1, k) for k in experts]),
        Curve("experts", "4 qubits, 6 layers, batch 65536", [Point(Case(4, 6, 65536), 1, k) for k in experts]),
    ]


def step_of(point: Point) -> Callable[[], None]:
    """Forward and backward, with a gradient of ones."""
    form = point.form()
    inputs, weights = point.tensors()
    grad = torch.ones(point.case.batch, point.experts * point.case.n)

    def step() -> None:
        torch.autograd.grad(form(inputs, weights), (inputs, weights), grad)

    return step


def time_points(points: list[Point], rounds: int) -> list[list[float]]:
    """Microseconds per sample of every point in each round; a round takes all points in turn, back and forth.

    Processor time where no point has several threads, as other work on the machine disturbs it less; else wall time.
    """
    clock = time.process_time if all(point.threads == 1 for point in points) else time.perf_counter
    steps = [step_of(point) for point in points]
    repeats = []
    for point, step in zip(points, steps, strict=True):
        torch.set_num_threads(point.threads)
        step()  # prepares what is kept
        start = clock()
        step()
        repeats.append(max(1, math.ceil(SHORTEST / (clock() - start))))
    readings: list[list[float]] = [[] for _ in points]
    for r in range(rounds):
        progress(f"round {r + 1} of {rounds}")
        for k in range(len(points))[:: 1 if r % 2 == 0 else -1]:
            if torch.get_num_threads() != points[k].threads:
                torch.set_num_threads(points[k].threads)
                steps[k]()  # starts or stops the other threads
            start = clock()
            for _ in range(repeats[k]):
                steps[k]()
            readings[k].append((clock() - start) / repeats[k] / points[k].case.batch * 1e6)
    progress("")
    return readings


def peak_memory(point: Point) -> tuple[int, int]:
    """As `bench.memory.peak`, for a process of its own; what is loaded and planned only once is not counted."""
    torch.set_num_threads(point.threads)
    small = replace(point, case=SMALL)
    memory.peak(small.form(point.engine()), small.tensors)
    return memory.peak(point.form(), point.tensors)


def peaks(points: list[Point]) -> list[tuple[int, int]]:
    """Peak memory of every point, and bytes of its inputs, outputs and their gradients."""
    context = multiprocessing.get_context("forkserver")  # of a process that has loaded torch and computed nothing yet
    context.set_forkserver_preload(["bench.compare", "bench.memory"])
    with context.Pool(1, maxtasksperchild=1) as pool:
        return pool.map(peak_memory, points, chunksize=1)


def available() -> int:
    """Bytes that the machine can still give."""
    (line,) = [s for s in Path("/proc/meminfo").read_text().splitlines() if s.startswith("MemAvailable")]
    return int(line.split()[1]) * 1024


def needed(point: Point) -> int:
    """Bytes that a point may take: inputs, outputs and their gradients, twice."""
    return 2 * 4 * point.case.batch * 2 * point.case.n * (1 + point.experts)


def measure(curve: Curve, rounds: int) -> dict[str, Any]:
    """A curve for the result, without the points that the machine's memory does not permit."""
    points = [point for point in curve.points if needed(point) < available() / 2]
    readings = time_points(points, rounds)
    progress("peak memory")
    rows = [
        point.sizes() | {"engine": point.engine(), "microseconds": values, "peak": peak, "tensors": tensors}
        for point, values, (peak, tensors) in zip(points, readings, peaks(points), strict=True)
    ]
    progress("")
    return {"grows": curve.grows, "fixed": curve.fixed, "points": rows}


def report(run: dict[str, Any]) -> str:
    """A run, as read from its JSON, in Markdown."""
    parts = [describe(run)]
    for curve in run["curves"]:
        rows = []
        for point in curve["points"]:
            low, high = np.percentile(point["microseconds"], [25, 75])
            rows.append(
                [
                    str(point[curve["grows"]]),
                    point["engine"],
                    number(statistics.median(point["microseconds"])),
                    f"{number(low)} .. {number(high)}",
                    number(point["peak"] / 2**20),
                    number(point["tensors"] / 2**20),
                ]
            )
        head = [
            curve["grows"],
            "engine",
            "us per sample",
            "quartiles",
            "peak (MiB)",
            "inputs, outputs, gradients (MiB)",
        ]
        parts.append(f"{curve['fixed']}\n\n{table(head, rows)}")
    return "\n\n".join(parts)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.scaling", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="shorter curves and 3 rounds, to see that it works")
    parser.add_argument("--rounds", type=int, help="readings of each point (11; with --quick 3)")
    parser.add_argument("--json", type=Path, help="file for the result; default: a new one under bench/results")
    parser.add_argument("--report", type=Path, help="print the tables of an earlier result instead of measuring")
    options = parser.parse_args(arguments)
    rounds = (3 if options.quick else 11) if options.rounds is None else options.rounds
    if rounds < 1:
        parser.error(f"--rounds: must be at least 1, got {rounds}")
    if options.report:
        print(report(json.loads(options.report.read_text())))
        return
    torch.set_num_threads(1)  # but for the points that ask for more
    run = stamp() | {"curves": []}
    path = result_path(parser, options.json, run, "scaling-")
    for curve in curves(options.quick):
        progress(f"{curve.grows}: {curve.fixed}")
        run["curves"].append(measure(curve, rounds))
    path.write_text(json.dumps(run, indent=1) + "\n")
    print(f"{report(run)}\n\nwritten to {path}")


if __name__ == "__main__":
    main()
