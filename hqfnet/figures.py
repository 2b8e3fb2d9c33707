"""The pictures of a training run."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import matplotlib
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from hqfnet.data.classes import IGNORE_INDEX, ClassList
from hqfnet.data.crops import Sample
from hqfnet.predict import colourize

matplotlib.use("Agg")
from matplotlib import pyplot as plt
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


@torch.no_grad()
def draw_predictions(
    model: nn.Module, held_out: Dataset[Sample], classes: ClassList, title: str, path: Path, count: int = 6
) -> None:
    """Image, truth and prediction of ``count`` held-out tiles, two triples a row, with a legend.

    The tiles are chosen by their truth alone: the data set is cut into ``count`` stretches, and of each the tile with
    the richest mix of classes is shown.
    """
    samples = [held_out[i] for i in richest_tiles(held_out, count, len(classes))]
    device = next(model.parameters()).device
    model.eval()
    rows = -(-len(samples) // 2)
    figure, axes = plt.subplots(rows, 6, figsize=(13, 2.3 * rows + 0.9), squeeze=False, layout="constrained")
    for axis in axes.flat:
        axis.set_axis_off()
    for k, sample in enumerate(samples):
        ids: Tensor = model(sample["image"][None].to(device))[0].argmax(dim=0).cpu()
        pictures = {
            "image": sample["image"].permute(1, 2, 0).numpy(),
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


def richest_tiles(held_out: Dataset[Sample], count: int, num_classes: int) -> list[int]:
    """One tile of each of ``count`` stretches of a data set: the one whose labels have the highest entropy."""
    total = len(held_out)  # type: ignore[arg-type]
    entropy = np.empty(total)
    for i in range(total):
        mask = held_out[i]["mask"].numpy()
        shares = np.bincount(mask[mask != IGNORE_INDEX], minlength=num_classes) / mask.size
        entropy[i] = -(shares * np.log(shares + 1e-9)).sum()
    bounds = [k * total // min(count, total) for k in range(min(count, total) + 1)]
    return [low + int(entropy[low:high].argmax()) for low, high in pairwise(bounds)]
