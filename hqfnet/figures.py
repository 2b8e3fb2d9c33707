"""The pictures of a training run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import matplotlib
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from hqfnet.data.classes import IGNORE_INDEX, ClassList
from hqfnet.data.crops import Sample, network_inputs
from hqfnet.predict import colourize

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator


def draw_curve(losses: Sequence[float], miou: Sequence[tuple[int, float]], tiles: int, path: Path) -> None:
    """Training loss (each step and its running mean) and held-out mIoU over the steps."""
    figure, left = plt.subplots(figsize=(7, 4), layout="constrained")
    left.plot(range(1, len(losses) + 1), losses, color="#4E79A7", alpha=0.25, linewidth=0.8)
    window = max(1, min(25, len(losses) // 4))
    smooth = np.convolve(losses, np.ones(window) / window, "valid")
    left.plot(np.arange(window, len(losses) + 1), smooth, color="#4E79A7", linewidth=2)
    left.set_xlabel("training step")
    left.set_ylabel(f"training loss (bold: mean of {window} steps)", color="#4E79A7")
    left.set_ylim(0, 1.05 * max(max(smooth), float(np.percentile(losses, 98))))
    left.xaxis.set_major_locator(MaxNLocator(integer=True))
    right = left.twinx()
    steps, values = zip(*miou, strict=True)
    right.plot(steps, values, "o-", color="#E15759", linewidth=2)
    right.annotate(f"{values[-1]:.3f}", (steps[-1], values[-1]), xytext=(0, 7), textcoords="offset points", ha="right")
    right.set_ylabel(f"mIoU on {tiles} held-out tiles", color="#E15759")
    right.set_ylim(0, 1)
    for axis in (left, right):
        axis.spines["top"].set_visible(False)
    left.grid(alpha=0.25)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def draw_bars(scores: Mapping[str, Sequence[float]], label: str, path: Path) -> None:
    """A bar at the mean of each name's scores, its sample standard deviation, and a dot per score."""
    figure, axis = plt.subplots(figsize=(7, 4), layout="constrained")
    for k, values in enumerate(scores.values()):
        mean = float(np.mean(values))
        deviation = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
        axis.bar(k, mean, width=0.65, yerr=deviation, capsize=5, color="#A0CBE8", ecolor="#333333")
        axis.plot(np.linspace(k - 0.12, k + 0.12, len(values)), values, "o", color="#E15759", markersize=4)
        axis.annotate(f"{mean:.3f}", (k, 0.01 * mean), ha="center", va="bottom", fontsize=9)
    axis.set_xticks(range(len(scores)), list(scores))
    axis.set_ylabel(label)
    axis.grid(axis="y", alpha=0.25)
    axis.set_axisbelow(True)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def draw_starts(curves: Mapping[str, Mapping[int, Sequence[Mapping[str, Sequence[float]]]]], path: Path) -> None:
    """Loss (above) and gradient norm of the circuits' weights (below); a column per depth, a line per run.

    Args:
        curves: start -> depth -> runs, each with "loss" and "gradient" per step.
        path: PNG to write.
    """
    colours = dict(zip(curves, ("#4E79A7", "#E15759", "#59A14F", "#B07AA1"), strict=False))
    depths = list(next(iter(curves.values())))
    figure, axes = plt.subplots(
        2,
        len(depths),
        figsize=(2.6 * len(depths) + 1, 5),
        sharex=True,
        sharey="row",
        squeeze=False,
        layout="constrained",
    )
    for column, depth in enumerate(depths):
        for start, by_depth in curves.items():
            for run in by_depth[depth]:
                for row, name in enumerate(("loss", "gradient")):
                    values = np.asarray(run[name])
                    shown = values if row == 0 else np.where(values > 0, values, np.nan)
                    axes[row, column].plot(
                        range(1, len(values) + 1), shown, color=colours[start], alpha=0.7, linewidth=1
                    )
        axes[0, column].set_title(f"{depth} layer{'s' if depth > 1 else ''}", fontsize=11)
        axes[1, column].set_yscale("log")
        axes[1, column].set_xlabel("training step")
        for row in (0, 1):
            axes[row, column].grid(alpha=0.25)
            for side in ("top", "right"):
                axes[row, column].spines[side].set_visible(False)
    axes[0, 0].set_ylabel("training loss")
    axes[1, 0].set_ylabel("gradient norm of\nthe circuits' weights")
    handles = [Line2D([], [], color=colour, label=start) for start, colour in colours.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
    figure.savefig(path, dpi=130)
    plt.close(figure)


@torch.no_grad()
def draw_predictions(model: nn.Module, samples: Sequence[Sample], classes: ClassList, title: str, path: Path) -> None:
    """Image (its first three channels), truth and prediction of each sample, two triples a row, with a legend."""
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    rows = -(-len(samples) // 2)
    figure, axes = plt.subplots(rows, 6, figsize=(13, 2.3 * rows + 0.9), squeeze=False, layout="constrained")
    for axis in axes.flat:
        axis.set_axis_off()
    for k, sample in enumerate(samples):
        ids: Tensor = model(*(tensor[None].to(device) for tensor in network_inputs(sample)))[0].argmax(dim=0).cpu()
        channels = [min(k, len(sample["image"]) - 1) for k in range(3)]
        pictures = {
            "image": sample["image"][channels].permute(1, 2, 0).clamp(0, 1).numpy(),
            "truth": colourize(sample["mask"].numpy(), classes.palette),
            "prediction": colourize(ids.numpy(), classes.palette),
        }
        for column, (name, picture) in enumerate(pictures.items()):
            axis = axes[k // 2, 3 * (k % 2) + column]
            axis.imshow(picture, interpolation="nearest")
            if k < 2:
                axis.set_title(name, fontsize=11)
    legend = [Patch(color=colour, label=name) for name, colour in zip(classes.names, classes.colours, strict=True)]
    if any((sample["mask"] == IGNORE_INDEX).any() for sample in samples):
        legend.append(Patch(facecolor="white", edgecolor="#888888", label="not labelled"))
    figure.legend(handles=legend, loc="outside lower center", ncols=min(len(legend), 8), frameon=False, fontsize=11)
    figure.suptitle(title, fontsize=12)
    figure.savefig(path, dpi=130)
    plt.close(figure)
    model.train(was_training)


def every_nth(total: int, count: int) -> list[int]:
    """``count`` numbers, or as many as there are, spread evenly over 0..total - 1."""
    count = min(count, total)
    return [k * total // count for k in range(count)]


def richest_tiles(held_out: Dataset[Sample] | Sequence[Sample], count: int, num_classes: int) -> list[int]:
    """One tile of each of ``count`` stretches of a data set: the one whose labels have the highest entropy.

    Chosen by the truth alone, so that pictures of them show neither the best nor the worst predictions.
    """
    total = len(held_out)  # type: ignore[arg-type]
    entropy = np.empty(total)
    for i in range(total):
        mask = held_out[i]["mask"].numpy()
        shares = np.bincount(mask[mask != IGNORE_INDEX], minlength=num_classes) / mask.size
        entropy[i] = -(shares * np.log(shares + 1e-9)).sum()
    bounds = [k * total // min(count, total) for k in range(min(count, total) + 1)]
    return [low + int(entropy[low:high].argmax()) for low, high in pairwise(bounds)]
