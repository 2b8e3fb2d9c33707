"""``hqfnet ablation``: the network without its parts, with each, with all, and its classical twin, over seeds."""

from __future__ import annotations

import csv
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hqfnet.figures import draw_bars
from hqfnet.model import ARCHITECTURES
from hqfnet.study import Result, Run, kept, markdown_table, parse_study, study_parser

PLAIN = {"dmcaf": False, "qskip": False, "qmoe": False, "quantum": True}
FULL = {"dmcaf": True, "qskip": True, "qmoe": True, "quantum": True}
VARIANTS = {
    "U-Net": PLAIN,
    "+ DMCAF": PLAIN | {"dmcaf": True},
    "+ QSkip": PLAIN | {"qskip": True},
    "+ QMoE": PLAIN | {"qmoe": True},
    "HQF-Net": FULL,
    "classical twin": FULL | {"quantum": False},
}
METRICS = ("val/miou", "val/accuracy", "val/loss")


def train_and_score(arguments: Sequence[str], seed: int, switches: dict[str, bool]) -> Result:
    """Trains one variant, and scores its last weights on the validation split."""
    settings: dict[str, Any] = {f"model.{name}": value for name, value in switches.items()}
    # Scored once, after the last step: to choose the best of many validations would favour those who fluctuate.
    run = Run(arguments, seed, settings | {"trainer.check_val_every_n_epoch": 10**6})
    name = run.task.hparams["model"]
    parts = {"dmcaf": ARCHITECTURES[name].backbone, "qskip": ARCHITECTURES[name].skip_angles}
    lacking = [part for part, there in parts.items() if switches[part] and not there]
    if lacking:
        raise SystemExit(f"--model.model: {name} has no {' and no '.join(lacking)}; choose --variants without it")
    seconds = run.fit()
    scores = run.validate()
    trained = sum(p.numel() for p in run.task.parameters() if p.requires_grad)
    steps = run.trainer.global_step
    return scores | {"trained_parameters": trained, "steps": steps, "seconds_per_step": seconds / steps}


def spread(values: Sequence[float]) -> str:
    """Mean and sample standard deviation."""
    deviation = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3f}{deviation}"


def report(results: dict[str, list[Result]], arguments: Sequence[str]) -> str:
    """The table of ablation.md."""
    seeds = len(next(iter(results.values())))
    rows = [
        [
            name,
            *(spread([run[metric] for run in runs]) for metric in METRICS),
            f"{min(run['val/miou'] for run in runs):.3f} .. {max(run['val/miou'] for run in runs):.3f}",
            f"{runs[0]['trained_parameters']:,}",
            f"{1000 * statistics.median(run['seconds_per_step'] for run in runs):.0f}",
        ]
        for name, runs in results.items()
    ]
    head = ["", "mIoU", "overall accuracy", "loss", "mIoU over the seeds", "trained parameters", "ms per step"]
    text = (
        f"# Ablation\n\n`hqfnet ablation --seeds {seeds} {' '.join(arguments)}`\n\n"
        f"{next(iter(results.values()))[0]['steps']} steps each; scored on the validation split with the last weights. "
        f"Mean ± sample standard deviation over {seeds} seed{'s' if seeds > 1 else ''}; a step includes the loading of "
        f"its batch.\n\n{markdown_table(head, rows)}\n"
    )
    if {"HQF-Net", "classical twin"} <= results.keys() and seeds > 1:
        pairs = zip(results["HQF-Net"], results["classical twin"], strict=True)
        differences = [ours["val/miou"] - theirs["val/miou"] for ours, theirs in pairs]
        text += (
            f"\nmIoU of HQF-Net minus that of its classical twin, seed by seed: {spread(differences)} "
            f"({', '.join(f'{d:+.3f}' for d in differences)}).\n"
        )
    return text


def write_csv(results: dict[str, list[Result]], path: Path) -> None:
    """One line per training."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        names = list(next(iter(results.values()))[0])
        writer.writerow(["variant", "seed", *names])
        for variant, runs in results.items():
            writer.writerows([variant, seed, *(run[name] for name in names)] for seed, run in enumerate(runs))


def main(arguments: Sequence[str] | None = None) -> dict[str, list[Result]]:
    """Trains every variant with every seed, and writes ablation.md, ablation.csv and ablation.png."""
    parser = study_parser("ablation", "Trains and tables the network without its parts, with them, and its twin.")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS), help="(default: all)")
    options, rest = parse_study(parser, arguments)
    results: dict[str, list[Result]] = {name: [] for name in options.variants}
    # Seed by seed, so that an interrupted study has comparable variants.
    for seed in range(options.seeds):
        for name in options.variants:
            path = options.out / "runs" / f"{name.replace(' ', '').replace('+', 'with-')}-{seed}.json"
            settings = {"arguments": rest, "seed": seed, "switches": VARIANTS[name]}
            run = kept(path, settings, lambda s=seed, n=name: train_and_score(rest, s, VARIANTS[n]))  # type: ignore[misc]
            print(f"{name}, seed {seed}: mIoU {run['val/miou']:.3f}", flush=True)
            results[name].append(run)
    text = report(results, rest)
    (options.out / "ablation.md").write_text(text)
    write_csv(results, options.out / "ablation.csv")
    scores = {name: [run["val/miou"] for run in runs] for name, runs in results.items()}
    draw_bars(scores, "mIoU on the validation split", options.out / "ablation.png")
    print(text)
    return results
