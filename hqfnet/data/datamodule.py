"""The Lightning modules that serve the data sets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning
import torch
from torch.utils.data import DataLoader, Dataset

from hqfnet.data.classes import IGNORE_INDEX, ClassList, load_classes
from hqfnet.data.crops import Sample
from hqfnet.data.folder import FolderDataset, warn_of_shared_images
from hqfnet.data.generated import SCENE_CLASSES, GeneratedScenes
from hqfnet.data.loader import SharedLoader, resumable


class SceneData(lightning.LightningDataModule):
    """What folders and generated scenes have in common: classes and loaders.

    Args:
        classes: names, colours and ignored ids.
        channels: bands of an image.
        scale: the pixel value that becomes 1; None for the largest value of an integer type (see `raster.to_unit`).
        batch_size: samples per batch.
        workers: loader processes.

    Attributes:
        bands: what the channels are, in their order; None where the data do not name them.

    Raises:
        ValueError: ``batch_size`` is below 1, or ``workers`` below 0.
    """

    bands: list[str] | None = None

    def __init__(
        self,
        classes: ClassList,
        channels: int = 3,
        scale: float | None = None,
        batch_size: int = 8,
        workers: int = 2,
    ) -> None:
        super().__init__()
        if batch_size < 1 or workers < 0:
            raise ValueError(
                f"batch_size, workers: expected at least 1 sample and 0 processes, got {batch_size} and {workers}"
            )
        self.classes = classes
        self.channels = channels
        self.scale = scale
        self.num_classes = len(classes)
        self.class_names = list(classes.names)
        self.class_colours = list(classes.colours)
        self.batch_size = batch_size
        self.workers = workers

    def dataset(self, stage: str) -> Dataset[Sample]:
        """The data set of "train", "val" or "test"."""
        raise NotImplementedError

    def train_dataloader(self) -> DataLoader[Sample]:
        loader = DataLoader(self.dataset("train"), **self._settings())
        return loader if self._overfits() else resumable(loader)

    def val_dataloader(self) -> DataLoader[Sample]:
        return self._score_loader("val")

    def test_dataloader(self) -> DataLoader[Sample]:
        return self._score_loader("test")

    def _score_loader(self, stage: str) -> DataLoader[Sample]:
        loader = DataLoader if self._overfits() else SharedLoader
        return loader(self.dataset(stage), **self._settings())

    def _overfits(self) -> bool:
        # To overfit a few batches, Lightning serves them in the order of the data set, which a plain loader has.
        return bool(self.trainer and self.trainer.overfit_batches)  # type: ignore[attr-defined]

    def _settings(self) -> dict[str, Any]:
        return {
            "batch_size": self.batch_size,
            "num_workers": self.workers,
            "persistent_workers": self.workers > 0,
            "pin_memory": torch.cuda.is_available(),
        }


class FolderData(SceneData):
    """A folder of images and masks; see `FolderDataset`.

    Args:
        root: the folder.
        classes: a class file or the name of a shipped one (see `load_classes`), or the number of classes.
        ignore_ids: ids in the masks that do not count, where ``classes`` is a number.
        train_split, val_split, test_split: names of the split files.
        crop: side of a crop in pixels.
        channels: bands to read.
        scale: the pixel value that becomes 1; by default the largest value of an integer type.
        augment, jitter: random changes in training, see `CropDataset`.
        skip_damaged: leave out files that cannot be read, with a warning that names them, instead of an error.
        keep_in_memory: decode each file once and keep it.
        batch_size, workers: see `SceneData`.
    """

    def __init__(
        self,
        root: str,
        classes: int | str,
        ignore_ids: Sequence[int] = (IGNORE_INDEX,),
        train_split: str = "train",
        val_split: str = "val",
        test_split: str = "test",
        crop: int = 256,
        channels: int = 3,
        scale: float | None = None,
        augment: bool = True,
        jitter: float = 0.0,
        skip_damaged: bool = False,
        keep_in_memory: bool = False,
        batch_size: int = 8,
        workers: int = 2,
    ) -> None:
        known = ClassList.numbered(classes, ignore_ids) if isinstance(classes, int) else load_classes(classes)
        super().__init__(known, channels, scale, batch_size, workers)
        self.root = root
        self.splits = {"train": train_split, "val": val_split, "test": test_split}
        self.crop = crop
        self.augment = augment
        self.jitter = jitter
        self.skip_damaged = skip_damaged
        self.keep_in_memory = keep_in_memory

    def dataset(self, stage: str) -> FolderDataset:
        warn_of_shared_images(Path(self.root), list(self.splits.values()))
        return FolderDataset(
            self.root,
            self.splits[stage],
            self.classes,
            self.crop,
            self.channels,
            self.scale,
            augment=self.augment and stage == "train",
            jitter=self.jitter,
            skip_damaged=self.skip_damaged,
            keep_in_memory=self.keep_in_memory,
        )


class GeneratedData(SceneData):
    """Generated scenes; see `GeneratedScenes`. Training, validation and test scenes are different series.

    Args:
        train_scenes, val_scenes, test_scenes: number of scenes.
        size: side of a scene in pixels.
        seed: of the three series.
        batch_size, workers: see `SceneData`.
    """

    def __init__(
        self,
        train_scenes: int = 512,
        val_scenes: int = 64,
        test_scenes: int = 64,
        size: int = 256,
        seed: int = 0,
        batch_size: int = 8,
        workers: int = 2,
    ) -> None:
        super().__init__(SCENE_CLASSES, batch_size=batch_size, workers=workers)
        self.counts = {"train": train_scenes, "val": val_scenes, "test": test_scenes}
        self.size = size
        self.seed = seed

    def dataset(self, stage: str) -> GeneratedScenes:
        series = 3 * self.seed + list(self.counts).index(stage)
        return GeneratedScenes(self.counts[stage], self.size, series, augment=stage == "train")
