"""How often classes occur, and how much they should count for it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from hqfnet.data.classes import IGNORE_INDEX
from hqfnet.data.crops import Sample


def class_pixels(dataset: Dataset[Sample], num_classes: int, workers: int = 0) -> Tensor:
    """Pixels of each class in a data set, (num_classes,) int64; what is ignored does not count.

    Args:
        dataset: samples with a "mask" of targets.
        num_classes: number of classes.
        workers: loader processes.
    """
    total = torch.zeros(num_classes, dtype=torch.int64)
    for sample in tqdm(DataLoader(dataset, batch_size=None, num_workers=workers), desc="counting classes", leave=False):
        mask = sample["mask"]
        total += torch.bincount(mask[mask != IGNORE_INDEX], minlength=num_classes)
    return total


def class_weights(pixels: Tensor) -> Tensor:
    """Weights of classes by their number of pixels, (num_classes,) float32.

    A class weighs by the inverse root of its share, shares below 1 % counting as 1 %.
    """
    shares = pixels.to(torch.float32) / pixels.sum().clamp(min=1)
    return shares.clamp(min=0.01).rsqrt()
