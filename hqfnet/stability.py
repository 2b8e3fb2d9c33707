"""``hqfnet stability``: how training starts, over seeds, circuit depths and ways to begin."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import lightning
import numpy as np
import torch

from hqfnet.figures import draw_starts
from hqfnet.layers import ResidualGate
from hqfnet.study import Result, Run, kept, markdown_table, parse_study, study_parser
from hqfnet.task import SegmentationTask

STARTS = {
    "near identity": "circuit angles within 0.1 rad of 0, residual gates at 0: the network's own start",
    "anywhere": "circuit angles uniform over the circle, residual gates at 1",
}

LAST = 10
"""Steps over which the loss at the end is averaged."""


class Recorder(lightning.Callback):
    """Keeps the loss and the gradient norm of the circuits' weights of every step."""

    def __init__(self) -> None:
        self.loss: list[float] = []
        self.gradient: list[float] = []

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.loss.append(float(trainer.callback_metrics["train/loss"]))
        self.gradient.append(float(trainer.callback_metrics["grad_norm/quantum"]))


@torch.no_grad()
def begin_anywhere(task: SegmentationTask) -> None:
    """Circuit angles uniform in (-pi, pi) and open residual gates, as without a careful initialisation."""
    for circuit in task.circuits.values():
        for angles in circuit.parameters():
            angles.uniform_(-math.pi, math.pi)
    for module in task.modules():
        if isinstance(module, ResidualGate):
            module.gate.fill_(1.0)


def record(arguments: Sequence[str], seed: int, depth: int, start: str, steps: int) -> Result:
    """Trains for a number of steps, and returns "loss" and "gradient", one entry per step."""
    settings = {"model.depth": depth, "trainer.max_steps": steps, "trainer.max_epochs": -1}
    run = Run(arguments, seed, settings | {"trainer.limit_val_batches": 0})
    if not run.task.circuits:
        raise SystemExit("--model: the network has no circuits whose start could be studied")
    if start == "anywhere":
        begin_anywhere(run.task)
    recorder = Recorder()
    run.trainer.callbacks.append(recorder)  # type: ignore[attr-defined]
    run.fit()
    return {"loss": recorder.loss, "gradient": recorder.gradient}


def table(curves: dict[str, dict[int, list[Result]]]) -> str:
    """Per start and depth: the loss after some steps and its spread over seeds, and the size of the gradients."""
    rows = []
    for start, by_depth in curves.items():
        for depth, runs in by_depth.items():
            last = [float(np.mean(run["loss"][-LAST:])) for run in runs]
            jump = max(max(np.diff(run["loss"]), default=0.0) for run in runs)
            norms = np.concatenate([run["gradient"][1:] for run in runs])
            low, median, high = np.percentile(norms, [5, 50, 95])
            fallen = sum(end < run["loss"][0] for run, end in zip(runs, last, strict=True))  # not so for NaN
            deviation = f" ± {np.std(last, ddof=1):.3f}" if len(last) > 1 else ""
            rows.append(
                [
                    start,
                    str(depth),
                    f"{np.mean([run['loss'][0] for run in runs]):.3f}",
                    f"{np.mean(last):.3f}{deviation}",
                    f"{jump:.2f}",
                    f"{len(runs) - fallen} of {len(runs)}",
                    f"{median:.1e}",
                    f"{low:.1e} .. {high:.1e}",
                ]
            )
    head = ["start", "layers", "first loss", f"mean of the last {LAST}", "largest jump", "not falling"]
    return markdown_table([*head, "gradient norm, median", "5 % .. 95 %"], rows)


def main(arguments: Sequence[str] | None = None) -> dict[str, dict[int, list[Result]]]:
    """Trains every start at every depth with every seed, and writes stability.md and stability.png."""
    parser = study_parser("stability", "Trains over seeds and circuit depths, and draws how it starts.")
    parser.add_argument(
        "--depths", type=int, nargs="+", default=[1, 2, 4, 8], help="layers of the circuits (%(default)s)"
    )
    parser.add_argument("--steps", type=int, default=60, help="training steps of each (%(default)s)")
    options, rest = parse_study(parser, arguments)
    if min(options.depths) < 1 or options.steps < 2:
        parser.error(
            f"--depths, --steps: expected depths from 1 and steps from 2 on, got {options.depths}, {options.steps}"
        )
    curves: dict[str, dict[int, list[Result]]] = {start: {depth: [] for depth in options.depths} for start in STARTS}
    for seed in range(options.seeds):
        for depth in options.depths:
            for start in STARTS:
                settings = {"arguments": rest, "seed": seed, "depth": depth, "start": start, "steps": options.steps}
                path = options.out / "runs" / f"{start.replace(' ', '-')}-{depth}-{seed}.json"
                run = kept(
                    path,
                    settings,
                    lambda: record(rest, seed, depth, start, options.steps),  # noqa: B023 - called at once
                )
                print(
                    f"{start}, {depth} layers, seed {seed}: {run['loss'][0]:.3f} to {run['loss'][-1]:.3f}", flush=True
                )
                curves[start][depth].append(run)
    text = (
        f"# How training starts\n\n`hqfnet stability --seeds {options.seeds} --steps {options.steps} --depths "
        f"{' '.join(map(str, options.depths))} {' '.join(rest)}`\n\n"
        + "".join(f"- *{start}*: {what}.\n" for start, what in STARTS.items())
        + f"\nLosses over {options.seeds} seeds; gradient norms of all circuits' weights together, before clipping, "
        f"from the second step on (in the first, closed gates let none through).\n\n{table(curves)}\n"
    )
    (options.out / "stability.md").write_text(text)
    draw_starts(curves, options.out / "stability.png")
    print(text)
    return curves
