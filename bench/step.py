"""Times a training step of HQF-Net against its classical twin's, alternating: ``python -m bench.step``."""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.compare import describe, progress, result_path, stamp, table
from hqfnet.model import ARCHITECTURES
from hqfnet.timing import QuantumTimer, TrainingStep

WARM_UP_STEPS = 2
RATIO_GOAL, SHARE_GOAL = 1.05, 0.05


def measure(model: str, size: int, batch_size: int, rounds: int) -> dict[str, list[float]]:
    """Seconds per step in each round of the network, its twin, and the circuits in a second copy of the network.

    The circuits are timed by hooks, which cost something themselves; the copy keeps that out of the ratio.
    """
    steps = {
        "network": TrainingStep(model, True, size, batch_size),
        "twin": TrainingStep(model, False, size, batch_size),
        "network with timer": TrainingStep(model, True, size, batch_size),
    }
    timer = QuantumTimer(steps["network with timer"].task)
    for r in range(WARM_UP_STEPS):
        progress(f"{model}: warm-up {r + 1} of {WARM_UP_STEPS}")
        for step in steps.values():
            step.run()
    readings: dict[str, list[float]] = {name: [] for name in [*steps, "circuits"]}
    for r in range(rounds):
        progress(f"{model}: round {r + 1} of {rounds}")
        # The order turns around, so that what a step leaves in the caches favours neither.
        for name, step in list(steps.items())[:: 1 if r % 2 == 0 else -1]:
            before = timer.seconds
            readings[name].append(step.run())
            if name == "network with timer":
                readings["circuits"].append(timer.seconds - before)
    progress("")
    return readings


def quotients(readings: dict[str, list[float]], above: str, below: str) -> list[float]:
    """Round by round."""
    return [a / b for a, b in zip(readings[above], readings[below], strict=True)]


def summary(run: dict[str, Any]) -> str:
    """The ratios with their spread, and the times behind them."""
    readings = run["seconds_per_step"]
    rows = []
    for name, values, goal in (
        ("step, network / twin", quotients(readings, "network", "twin"), RATIO_GOAL),
        ("circuits / step", quotients(readings, "circuits", "network with timer"), SHARE_GOAL),
    ):
        low, median, high = np.percentile(values, [25, 50, 75])
        rows.append(
            [name, f"{median:.3f}", f"{low:.3f} .. {high:.3f}", f"{min(values):.3f} .. {max(values):.3f}", f"{goal}"]
        )
    milliseconds = {name: f"{1000 * statistics.median(values):.0f} ms" for name, values in readings.items()}
    return (
        f"{run['model']}, {run['batch_size']} x {run['size']} x {run['size']} pixels; medians of "
        f"{len(readings['network'])} rounds: network {milliseconds['network']}, twin {milliseconds['twin']}, "
        f"circuits {milliseconds['circuits']}\n\n"
        + table(["ratio", "median", "quartiles", "over the rounds", "at most"], rows)
    )


def report(run: dict[str, Any]) -> str:
    """A run, as read from its JSON, in Markdown."""
    return f"{describe(run)}\n\n{summary(run)}"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.step", description=__doc__)
    parser.add_argument("--model", choices=ARCHITECTURES, default="hqfnet_small", help="(%(default)s)")
    parser.add_argument("--size", type=int, default=256, help="side of the images in pixels (%(default)s)")
    parser.add_argument("--batch-size", type=int, default=4, help="images per step (%(default)s)")
    parser.add_argument("--rounds", type=int, default=21, help="steps of each (%(default)s)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="torch threads (%(default)s)")
    parser.add_argument("--json", type=Path, help="file for the result; default: a new one under bench/results")
    parser.add_argument("--report", type=Path, help="print the tables of an earlier result instead of measuring")
    options = parser.parse_args(arguments)
    for option in ("size", "batch_size", "rounds", "threads"):
        if getattr(options, option) < 1:
            parser.error(f"--{option.replace('_', '-')}: must be at least 1, got {getattr(options, option)}")
    if options.report:
        print(report(json.loads(options.report.read_text())))
        return
    torch.set_num_threads(options.threads)
    run = stamp() | {"model": options.model, "size": options.size, "batch_size": options.batch_size}
    path = result_path(parser, options.json, run, "step-")
    run["seconds_per_step"] = measure(options.model, options.size, options.batch_size, options.rounds)
    path.write_text(json.dumps(run, indent=1) + "\n")
    print(f"{report(run)}\n\nwritten to {path}")


if __name__ == "__main__":
    main()
