"""``hqfnet zoo``: all networks and their twins, with parameter counts and step times."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path

import torch

from hqfnet.layers import circuit_layers
from hqfnet.model import ARCHITECTURES, create_model
from hqfnet.study import markdown_table
from hqfnet.timing import TrainingStep


def parameter_row(name: str, quantum: bool) -> list[str]:
    """Name, and numbers of weights: trained, of the circuits among them, frozen. Nothing is allocated for them."""
    with torch.device("meta"):
        model = create_model(name, pretrained=False, quantum=quantum)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    circuits = sum(p.numel() for layer in circuit_layers(model).values() for p in layer.parameters())
    return [f"`{name}`{'' if quantum else ', twin'}", f"{trained:,}", f"{circuits:,}", f"{frozen:,}"]


def step_columns(name: str, size: int, batch_size: int, rounds: int) -> tuple[list[str], list[str]]:
    """For the network and for its twin: milliseconds per step, and its ratio to the twin's in the same round."""
    steps = [TrainingStep(name, quantum, size, batch_size) for quantum in (True, False)]
    for step in steps:
        step.run()
    ours, theirs = zip(*[[step.run() for step in steps] for _ in range(rounds)], strict=True)
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} .. {max(ratios):.2f})"
    return [f"{1000 * statistics.median(ours):.0f}", ratio], [f"{1000 * statistics.median(theirs):.0f}", "1"]


def main(arguments: Sequence[str] | None = None) -> str:
    """Prints the table, and writes it where asked to."""
    parser = argparse.ArgumentParser(prog="hqfnet zoo", description="Tables parameters and training-step times.")
    parser.add_argument("--models", nargs="+", choices=ARCHITECTURES, default=list(ARCHITECTURES), help="(all)")
    parser.add_argument("--size", type=int, default=256, help="side of the images in pixels (%(default)s)")
    parser.add_argument("--batch-size", type=int, default=2, help="images per step (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="steps of each, 0 to time none (%(default)s)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="torch threads (%(default)s)")
    parser.add_argument("--out", type=Path, help="Markdown file to write")
    options = parser.parse_args(arguments)
    for name, least in (("size", 1), ("batch_size", 1), ("rounds", 0), ("threads", 1)):
        if getattr(options, name) < least:
            parser.error(f"--{name.replace('_', '-')}: expected at least {least}, got {getattr(options, name)}")
    if options.out and not options.out.parent.is_dir():
        parser.error(f"--out: there is no folder {options.out.parent}")
    torch.set_num_threads(options.threads)
    head = ["network", "trained parameters", "of them in circuits", "frozen parameters"]
    rows: list[list[str]] = []
    for name in options.models:
        pair = [parameter_row(name, quantum) for quantum in (True, False)]
        if options.rounds:
            columns = step_columns(name, options.size, options.batch_size, options.rounds)
            pair = [row + column for row, column in zip(pair, columns, strict=True)]
        rows += pair
        print(f"{name} done", flush=True)
    text = "# Zoo\n\n5 classes, 3 channels.\n\n"
    if options.rounds:
        head += ["ms per step", "over its twin"]
        text = (
            f"# Zoo\n\n5 classes, 3 channels. A step is forward, loss, backward and optimiser on {options.batch_size} "
            f"image{'s' if options.batch_size > 1 else ''} of {options.size} x {options.size} pixels, CPU, "
            f"{options.threads} thread{'s' if options.threads > 1 else ''}, torch {torch.__version__}; medians of "
            f"{options.rounds} alternating rounds, the ratio with its range.\n\n"
        )
    text += markdown_table(head, rows) + "\n"
    if options.out:
        options.out.write_text(text)
    print(text)
    return text
