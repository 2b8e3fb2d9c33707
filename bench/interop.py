"""Times the one-line changes of docs/interop.md, alternating in one process: ``python -m bench.interop``."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pennylane as qml
import torch
from torch import Tensor

from bench import demos
from bench.cases import OURS, Case
from bench.compare import SHORTEST, describe, details, number, progress, ratios, result_path, stamp, table
from hqfkernels.interop.pennylane import HQFQubit, TorchLayer

Step = Callable[[], tuple[Tensor, ...]]
"""Forward and backward; returns what must be equal for all implementations."""

TOLERANCE = 1e-4


@dataclass(frozen=True)
class Swap:
    """A piece of user code in which one line changes.

    Attributes:
        name: what it is.
        circuits: how many circuits a step evaluates.
        build: the step of every implementation, by name, `OURS` first.
    """

    name: str
    circuits: int
    build: Callable[[], dict[str, Step]]


def _function(case: Case) -> Callable[..., Any]:
    """The benchmark circuit (bench/cases.py), as users of PennyLane write it."""

    def function(inputs: Tensor, weights: Tensor) -> Any:
        qml.AngleEmbedding(inputs, wires=range(case.n), rotation="Y")
        for layer in range(case.layers):
            for q in range(case.n):
                qml.RY(weights[layer, q, 0], wires=q)
                qml.RZ(weights[layer, q, 1], wires=q)
            for q in range(case.n):
                qml.CNOT([q, (q + 1) % case.n])
        return [qml.expval(qml.Z(q)) for q in range(case.n)]

    return function


def layers(case: Case) -> dict[str, Step]:
    """The layer: `TorchLayer` in place of `qml.qnn.TorchLayer` on default.qubit."""
    inputs, weights = case.tensors()
    steps: dict[str, Step] = {}
    for name, layer_type in ((OURS, TorchLayer), ("qml.qnn.TorchLayer", qml.qnn.TorchLayer)):
        node = qml.QNode(_function(case), qml.device("default.qubit", wires=case.n))
        shape = (case.layers, case.n, 2)
        layer = layer_type(node, {"weights": shape}, {"weights": weights.detach().reshape(shape)})

        def step(layer: torch.nn.Module = layer) -> tuple[Tensor, ...]:
            y = layer(inputs)
            return y, *torch.autograd.grad(y.square().sum(), (inputs, *layer.parameters()))

        steps[name] = step
    return steps


def devices(case: Case) -> dict[str, Step]:
    """The device: ``hqf.qubit`` in place of others, with a broadcast batch through the torch interface."""
    inputs, weights = case.tensors()
    weights = weights.detach().reshape(case.layers, case.n, 2).requires_grad_()
    kinds = (
        (OURS, HQFQubit(wires=case.n), "best"),
        ("default.qubit, backprop", qml.device("default.qubit", wires=case.n), "backprop"),
        ("lightning.qubit, adjoint", qml.device("lightning.qubit", wires=case.n), "adjoint"),
    )
    steps: dict[str, Step] = {}
    for name, device, method in kinds:
        node = qml.QNode(_function(case), device, interface="torch", diff_method=method)

        def step(node: Any = node) -> tuple[Tensor, ...]:
            y = torch.stack(node(inputs, weights), -1)
            return y, *torch.autograd.grad(y.square().sum(), (inputs, weights))

        steps[name] = step
    return steps


def _demo(train: Callable[[demos.Layer], list[float]]) -> dict[str, Step]:
    """Training with either layer; what must be equal are the losses."""

    def step(layer: demos.Layer) -> tuple[Tensor, ...]:
        return (torch.tensor(train(layer)),)

    return {OURS: partial(step, TorchLayer), "qml.qnn.TorchLayer": partial(step, qml.qnn.TorchLayer)}


SWAPS = {
    "layer": Swap("TorchLayer, n=4 L=2 B=1024", 1024, lambda: layers(Case(4, 2, 1024))),
    "device": Swap("device, n=8 L=2 B=1024", 1024, lambda: devices(Case(8, 2, 1024))),
    "hybrid": Swap(
        "hybrid network, an epoch of 200 points in batches of 5",
        200,
        lambda: _demo(lambda layer: demos.train_hybrid_network(layer, 1)),
    ),
    "quanvolution": Swap(
        "quanvolution network, an epoch of 200 images in batches of 4",
        200 * 196,
        lambda: _demo(lambda layer: demos.train_quanvolution_network(layer, 200, 1)),
    ),
}


def measure(swap: Swap, rounds: int) -> dict[str, list[float]]:
    """Microseconds per circuit of every implementation in each round, after a check that they agree."""
    steps = swap.build()
    expected = [t.detach().double() for t in steps[OURS]()]
    repeats = {}
    for name, step in steps.items():
        progress(f"{swap.name}: checking {name}")
        for actual, want in zip(step(), expected, strict=True):
            error = ((actual.detach() - want).abs().max() / want.abs().max()).item()
            assert error < TOLERANCE, f"{swap.name}: {name} differs from {OURS} by {error:.1e}"
        start = time.perf_counter()
        step()
        repeats[name] = max(1, round(SHORTEST / (time.perf_counter() - start)))
    readings: dict[str, list[float]] = {name: [] for name in steps}
    for r in range(rounds):
        progress(f"{swap.name}: round {r + 1} of {rounds}")
        for name, step in steps.items():
            start = time.perf_counter()
            for _ in range(repeats[name]):
                step()
            readings[name].append((time.perf_counter() - start) / repeats[name] / swap.circuits * 1e6)
    progress("")
    return readings


def summary(run: dict[str, Any]) -> str:
    """Every swap: microseconds per circuit before and after, and their ratio."""
    rows = []
    for case in run["cases"]:
        readings = case["microseconds_per_circuit"]
        for name in readings:
            if name != OURS:
                ratio = ratios(readings, name)
                ours, theirs = (statistics.median(readings[key]) for key in (OURS, name))
                spread = f"{number(min(ratio))} .. {number(max(ratio))}"
                rows.append(
                    [
                        case["name"],
                        name,
                        number(theirs),
                        number(ours),
                        f"**{number(statistics.median(ratio))}x**",
                        spread,
                    ]
                )
    return table(["us per circuit", "before", "", OURS, "ratio", "over the rounds"], rows)


def report(run: dict[str, Any]) -> str:
    """A run, as read from its JSON, in Markdown."""
    return f"{describe(run)}\n\n{summary(run)}"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.interop", description=__doc__)
    parser.add_argument("--swaps", nargs="+", choices=SWAPS, default=list(SWAPS), help="default: all")
    parser.add_argument("--rounds", type=int, default=11, help="readings of each implementation (%(default)s)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="torch threads (%(default)s)")
    parser.add_argument("--json", type=Path, help="file for the result; default: a new one under bench/results")
    parser.add_argument("--report", type=Path, help="print the table of an earlier result instead of measuring")
    options = parser.parse_args(arguments)
    for option in ("rounds", "threads"):
        if getattr(options, option) < 1:
            parser.error(f"--{option}: must be at least 1, got {getattr(options, option)}")
    if options.report:
        print(report(json.loads(options.report.read_text())))
        return
    torch.set_num_threads(options.threads)
    run = stamp() | {"cases": []}
    for package in ("pennylane", "pennylane_lightning"):
        run["versions"][package] = importlib.metadata.version(package)
    path = result_path(parser, options.json, run, "interop-")
    for key in options.swaps:
        swap = SWAPS[key]
        readings = measure(swap, options.rounds)
        run["cases"].append(
            {"swap": key, "name": swap.name, "batch": swap.circuits, "microseconds_per_circuit": readings}
        )
        print(f"\n{swap.name}\n\n{details(readings)}", flush=True)
    path.write_text(json.dumps(run, indent=1) + "\n")
    print(f"\n{report(run)}\n\nwritten to {path}")


if __name__ == "__main__":
    main()
