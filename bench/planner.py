"""Does the planner choose well? Times every engine on 30 circuits: ``python -m bench.planner``.

Each engine runs forward and backward on one thread, in turns; the estimates of `hqfkernels.costs` stand beside the
times. ``--fit`` prints constants that fit this machine better.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import hqfkernels as hqf
from bench.cases import Case
from bench.compare import describe, progress, result_path, stamp, table
from hqfkernels import ansatz, costs, planner

READING = 0.01
"""Seconds that one reading lasts at least: shorter steps are repeated."""


@dataclass(frozen=True)
class Problem:
    """A named circuit and a batch."""

    name: str
    circuit: hqf.Circuit
    batch: int

    def step(self, engine: str) -> None:
        """Forward and backward."""
        inputs, weights, grad = self.tensors()
        value = hqf.expval(self.circuit, inputs, weights, engine=engine)
        torch.autograd.grad(value, (inputs, weights), grad)

    def tensors(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Inputs, weights and the gradient of the values, float32, always the same."""
        if self not in _TENSORS:
            _TENSORS.clear()
            generator = torch.Generator().manual_seed(0)
            shapes = (
                (self.batch, self.circuit.n_inputs),
                (self.circuit.n_weights,),
                (self.batch, self.circuit.n_observables),
            )
            inputs, weights, grad = (torch.empty(*s).uniform_(-3, 3, generator=generator) for s in shapes)
            _TENSORS[self] = inputs.requires_grad_(), weights.requires_grad_(), grad
        return _TENSORS[self]


_TENSORS: dict[Problem, tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = {}


def _amplitudes(n: int, layers: int) -> hqf.Circuit:
    circuit = hqf.Circuit(n).amplitudes()
    for layer in range(layers):
        for q in range(n):
            k = (layer * n + q) * 2
            circuit.ry(hqf.Weight(k), q).rz(hqf.Weight(k + 1), q)
        for q in range(n):
            circuit.cx(q, (q + 1) % n)
    return circuit


def problems() -> list[Problem]:
    """Rings of CNOTs of many sizes, the patch circuits, and amplitude encoding."""
    rings = [
        (2, 2, 512), (2, 2, 65536), (3, 4, 65536), (4, 1, 65536), (4, 2, 64), (4, 2, 1024), (4, 2, 65536), (4, 6, 256),
        (4, 6, 65536), (5, 3, 4096), (6, 2, 256), (6, 2, 16384), (6, 4, 1024), (6, 6, 16384), (7, 3, 4096), (8, 2, 128),
        (8, 2, 8192), (8, 3, 4096), (8, 6, 16384), (10, 2, 2048), (10, 3, 512), (12, 2, 512),
    ]  # fmt: skip
    found = [Problem(f"ring n={n} L={layers}", Case(n, layers, batch).circuit(), batch) for n, layers, batch in rings]
    found += [
        Problem("local 2x2, depth 2", ansatz.local_circuit((2, 2), 2), 16384),
        Problem("local 3x3, depth 2", ansatz.local_circuit((3, 3), 2), 2048),
        Problem("global 4, depth 2", ansatz.global_circuit(4, 2), 16384),
        Problem("directional 2x2, depth 3", ansatz.directional_circuit((2, 2), "diagonal", 3), 16384),
        Problem("strongly entangling 5, depth 2", ansatz.strongly_entangling(5, 2), 8192),
        Problem("amplitudes n=4 L=4", _amplitudes(4, 4), 16384),
        Problem("amplitudes n=6 L=2", _amplitudes(6, 2), 8192),
        Problem("amplitudes n=6 L=12", _amplitudes(6, 12), 8192),
    ]
    return found


def measure(problem: Problem, rounds: int, slowest: float = math.inf) -> dict[str, float]:
    """Median nanoseconds of a step by each engine that can take it in less than ``slowest``, engines in turns."""
    repeats = {}
    for name in planner.ENGINES[1:]:
        cost = planner.estimate(problem.circuit.text, "expval", name)
        if isinstance(cost, str) or costs.total(cost.prices, problem.batch, 1) > 3 * slowest:
            continue
        problem.step(name)  # prepares what is kept
        start = time.process_time()
        problem.step(name)
        took = time.process_time() - start
        if took * 1e9 < slowest:
            repeats[name] = max(1, math.ceil(READING / max(took, 1e-6)))
    names = list(repeats)
    readings: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(rounds):
        for name in names:
            start = time.process_time()
            for _ in range(repeats[name]):
                problem.step(name)
            readings[name].append((time.process_time() - start) / repeats[name] * 1e9)
    return {name: statistics.median(values) for name, values in readings.items()}


def result(problem: Problem, measured: dict[str, float]) -> dict[str, Any]:
    """Times beside estimates, and what the choice costs."""
    plan = hqf.explain(problem.circuit, problem.tensors()[0], problem.tensors()[1])
    return {
        "circuit": problem.name,
        "batch": problem.batch,
        "measured": measured,
        "estimated": dict(plan.costs),
        "chosen": plan.engine,
        "over_best": measured[plan.engine] / min(measured.values()),
    }


def choices(run: dict[str, Any]) -> str:
    """Every problem: milliseconds of a step by each engine, estimates in brackets, the choice in bold."""
    rows = []
    for case in run["cases"]:
        row = [case["circuit"], str(case["batch"])]
        for engine in planner.ENGINES[1:]:
            if engine in case["measured"]:
                times = f"{case['measured'][engine] / 1e6:.3g} ({case['estimated'][engine] / 1e6:.3g})"
                row.append(f"**{times}**" if engine == case["chosen"] else times)
            else:
                row.append("")
        rows.append([*row, f"{case['over_best']:.2f}"])
    return table(["circuit", "batch", *planner.ENGINES[1:], "chosen / best"], rows)


def worst_choice(run: dict[str, Any]) -> float:
    """The choice that is furthest from the best engine, as a multiple of its time."""
    return max(case["over_best"] for case in run["cases"])


def report(run: dict[str, Any]) -> str:
    """A run, as read from its JSON, in Markdown."""
    return (
        f"{describe(run)}; milliseconds a step, estimates in brackets, the choice in bold; "
        f"worst choice {worst_choice(run):.2f} times the best engine\n\n{choices(run)}"
    )


def fit(run: dict[str, Any]) -> dict[str, float]:
    """Constants that minimise the squared logarithms of estimate / time, near those in use."""
    names = [name for name in costs.CONSTANTS if name != "double"]
    start = torch.tensor([math.log(costs.CONSTANTS[name]) for name in names], dtype=torch.float64)
    rows, times = [], []
    by_name = {problem.name: problem for problem in problems()}
    for case in run["cases"]:
        for engine, nanoseconds in case["measured"].items():
            cost = planner.estimate(by_name[case["circuit"]].circuit.text, "expval", engine)
            assert isinstance(cost, costs.Cost)
            samples = costs.charged(cost.prices, case["batch"], 1)
            rows.append(
                [cost.call.get(n, 0) + cost.weight_set.get(n, 0) + samples * cost.sample.get(n, 0) for n in names]
            )
            times.append(math.log(nanoseconds))
    counts, target = torch.tensor(rows, dtype=torch.float64), torch.tensor(times, dtype=torch.float64)
    logs = start.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([logs], max_iter=500, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        error = ((counts @ logs.exp()).log() - target).square().sum() + 0.02 * (logs - start).square().sum()
        error.backward()
        return error

    optimizer.step(loss)
    return {name: float(f"{math.exp(value):.3g}") for name, value in zip(names, logs.tolist(), strict=True)}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.planner", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="readings of each engine (%(default)s)")
    parser.add_argument("--json", type=Path, help="file for the result; default: a new one under bench/results")
    parser.add_argument("--report", type=Path, help="print the table of an earlier result instead of measuring")
    parser.add_argument("--fit", action="store_true", help="print constants fitted to the result")
    options = parser.parse_args(arguments)
    if options.rounds < 1:
        parser.error(f"--rounds: must be at least 1, got {options.rounds}")
    if options.report:
        run = json.loads(options.report.read_text())
    else:
        torch.set_num_threads(1)
        run = stamp() | {"cases": []}
        path = result_path(parser, options.json, run, "planner-")
        for problem in problems():
            progress(f"{problem.name}, batch {problem.batch}")
            run["cases"].append(result(problem, measure(problem, options.rounds)))
        progress("")
        path.write_text(json.dumps(run, indent=1) + "\n")
    print(report(run))
    if options.fit:
        print(json.dumps(fit(run), indent=4))


if __name__ == "__main__":
    main()
