"""What training does beside learning: checkpoints to go on from, pictures of predictions."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch import callbacks
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.utilities.exceptions import SIGTERMException
from PIL import Image

from hqfnet.figures import draw_predictions, every_nth, richest_tiles
from hqfnet.task import SegmentationTask

LAST = "last.ckpt"
TILES_LOOKED_AT = 200


class WholeCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint beside its place and renames it when it is whole: a killed process leaves the previous one.

    Lightning writes to the system's folder for temporary files instead. Where that is another file system, what follows
    is a copy, and a process killed meanwhile leaves half a checkpoint and no other.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        whole = Path(path)
        whole.parent.mkdir(parents=True, exist_ok=True)
        unfinished = whole.with_name(f"{whole.name}.tmp")
        torch.save(checkpoint, unfinished)
        os.replace(unfinished, whole)


class LastCheckpoint(lightning.Callback):
    """Keeps ``checkpoints/last.ckpt`` in the folder of the run, from which an interrupted training goes on.

    It is written every ``every_n_steps`` optimiser steps, at the end of each epoch, and where SIGTERM ends a training
    of one process.

    Args:
        every_n_steps: optimiser steps between two checkpoints, at least 1.
    """

    def __init__(self, every_n_steps: int = 200) -> None:
        if every_n_steps < 1:
            raise ValueError(f"every_n_steps: expected at least 1 step, got {every_n_steps}")
        self.every_n_steps = every_n_steps
        self._saved_at = 0
        self._step = 0
        self._stepped = False

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # The last batch of an epoch is left to the end of the epoch, which comes after validation. The step is
        # compared because with accumulated gradients it stays the same over several batches.
        step = trainer.global_step
        self._stepped, self._step = step != self._step, step
        if step % self.every_n_steps == 0 and step != self._saved_at and not trainer.is_last_batch:
            self._save(trainer)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._save(trainer)

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException
    ) -> None:
        # Lightning ends a training after the batch in which the signal came. Gradients that do not make a step yet
        # would be lost, and several processes might not agree on where to stop: they go on from the checkpoint before.
        # So does a training that the signal met in a validation, as Lightning would leave that out; unless there is
        # no checkpoint yet.
        whole = self._stepped and trainer.world_size == 1 and self._saved_at != trainer.global_step
        if isinstance(exception, SIGTERMException) and whole and (trainer.training or not self._saved_at):
            self._save(trainer)

    def _save(self, trainer: lightning.Trainer) -> None:
        self._saved_at = trainer.global_step
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            trainer.save_checkpoint(run_folder(trainer) / "checkpoints" / LAST, weights_only=False)


class EarlyStopping(callbacks.EarlyStopping):
    """Lightning's, for mIoU, and with the patience that was asked for where a training goes on.

    Lightning takes it from the checkpoint, so that a training that had stopped could not be given more.

    Args:
        monitor, mode, patience, strict, arguments: see `lightning.pytorch.callbacks.EarlyStopping`.
    """

    def __init__(
        self,
        monitor: str = "val/miou",
        mode: str = "max",
        patience: int = 15,
        strict: bool = False,
        **arguments: Any,
    ) -> None:
        super().__init__(monitor, mode=mode, patience=patience, strict=strict, **arguments)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict({**state_dict, "patience": self.patience})


class PredictionPictures(lightning.Callback):
    """Draws image, truth and prediction of a few validation tiles after each validation.

    ``predictions/step-<step>.png`` in the folder of the run, and the picture "predictions" in TensorBoard.

    Args:
        tiles: number of tiles, spread over the set, rich in classes.
        every_n_epochs: pictures are drawn after each n-th epoch.

    Raises:
        ValueError: a number is below 1.
    """

    def __init__(self, tiles: int = 4, every_n_epochs: int = 1) -> None:
        if tiles < 1 or every_n_epochs < 1:
            raise ValueError(f"tiles, every_n_epochs: expected at least 1 of each, got {tiles} and {every_n_epochs}")
        self.tiles = tiles
        self.every_n_epochs = every_n_epochs
        self._chosen: list[int] | None = None

    def on_validation_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        left_out = trainer.sanity_checking or trainer.fast_dev_run or not trainer.loggers  # type: ignore[attr-defined]
        if left_out or trainer.current_epoch % self.every_n_epochs:
            return
        folder = run_folder(trainer) / "predictions"  # asked for in every process: they agree on it
        if not trainer.is_global_zero:
            return
        assert isinstance(pl_module, SegmentationTask)
        held_out = trainer.val_dataloaders.dataset  # type: ignore[union-attr]
        if self._chosen is None:
            looked_at = every_nth(len(held_out), TILES_LOOKED_AT)
            best = richest_tiles([held_out[i] for i in looked_at], self.tiles, len(pl_module.classes))
            self._chosen = [looked_at[k] for k in best]
        path = folder / f"step-{trainer.global_step:06d}.png"
        folder.mkdir(parents=True, exist_ok=True)
        samples = [held_out[i] for i in self._chosen]
        draw_predictions(pl_module, samples, pl_module.classes, f"step {trainer.global_step}", path)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                picture = np.asarray(Image.open(path).convert("RGB"))
                logger.experiment.add_image("predictions", picture, trainer.global_step, dataformats="HWC")


def run_folder(trainer: lightning.Trainer) -> Path:
    """Where the run keeps its files: the folder of its first logger, or the trainer's root folder."""
    return Path(trainer.log_dir or trainer.default_root_dir)
