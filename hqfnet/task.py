"""The Lightning module: losses, metrics, optimiser, what is logged, what a checkpoint holds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.nn import functional as F
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import Metric

from hqfnet import checkpoint as ckpt
from hqfnet.data.balance import class_weights
from hqfnet.data.classes import IGNORE_INDEX, ClassList
from hqfnet.data.crops import Sample, network_inputs
from hqfnet.data.loader import ResumableLoader
from hqfnet.layers import circuit_layers
from hqfnet.model import create_model


def cross_entropy(logits: Tensor, mask: Tensor, weights: Tensor | None = None) -> Tensor:
    """Class-balanced cross-entropy over the pixels that count; 0, not NaN, when none does.

    The loss is the mean weighted by class: without that, a short training leaves classes of few pixels out altogether.

    Args:
        logits: (B, num_classes, H, W).
        mask: (B, H, W) class ids, `IGNORE_INDEX` where nothing counts.
        weights: (num_classes,); by default `class_weights` of the batch.
    """
    pixels = torch.bincount(mask[mask != IGNORE_INDEX], minlength=logits.shape[1])
    weights = class_weights(pixels) if weights is None else weights.float()
    total = F.cross_entropy(logits.float(), mask, weights, ignore_index=IGNORE_INDEX, reduction="sum")
    return total / (weights * pixels).sum().clamp(min=1e-12)


def dice_loss(logits: Tensor, mask: Tensor) -> Tensor:
    """Soft Dice loss (arXiv 1606.04797), the mean over the classes that occur in the batch; 0 when none does.

    It counts rare classes as much as common ones, where cross-entropy counts pixels.

    Args:
        logits: (B, num_classes, H, W).
        mask: (B, H, W) class ids, `IGNORE_INDEX` where nothing counts.
    """
    counts = (mask != IGNORE_INDEX).unsqueeze(1)
    truth = F.one_hot(mask.where(counts.squeeze(1), 0), logits.shape[1]).permute(0, 3, 1, 2) * counts
    guess = logits.float().softmax(dim=1) * counts
    pixels = truth.sum(dim=(0, 2, 3))
    dice = 2 * (guess * truth).sum(dim=(0, 2, 3)) / (guess.sum(dim=(0, 2, 3)) + pixels).clamp(min=1)
    occurs = pixels > 0
    return ((1 - dice) * occurs).sum() / occurs.sum().clamp(min=1)


class SegmentationMetrics(Metric):
    """Scores of all pixels whose label is not ``ignore_index``, of all batches and processes.

    ``compute`` gives ``iou`` (num_classes), NaN for a class that occurs neither in labels nor in predictions; ``miou``,
    the mean over those that occur; and ``accuracy`` (overall). All are NaN where no pixel counts.
    """

    pixels: Tensor

    def __init__(self, num_classes: int, ignore_index: int) -> None:
        super().__init__()
        self.ignore_index = ignore_index
        self.add_state("pixels", torch.zeros(num_classes, num_classes, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, logits: Tensor, mask: Tensor) -> None:
        counts = mask != self.ignore_index
        pairs = mask[counts] * len(self.pixels) + logits.argmax(dim=1)[counts]
        self.pixels += torch.bincount(pairs, minlength=self.pixels.numel()).view_as(self.pixels)

    def compute(self) -> dict[str, Tensor]:
        hit = self.pixels.diag()
        iou = hit / (self.pixels.sum(dim=0) + self.pixels.sum(dim=1) - hit)
        return {"miou": iou.nanmean(), "accuracy": hit.sum() / self.pixels.sum(), "iou": iou}


def segmentation_metrics(num_classes: int) -> SegmentationMetrics:
    """``miou``, ``accuracy`` and ``iou`` over the pixels that count; called with (logits, mask)."""
    return SegmentationMetrics(num_classes, IGNORE_INDEX)


class MeanLoss(Metric):
    """The mean over all samples in which something counts, whatever processes they were in."""

    total: Tensor
    samples: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros(()), dist_reduce_fx="sum")
        self.add_state("samples", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, loss: Tensor, mask: Tensor) -> None:
        samples = (mask != IGNORE_INDEX).flatten(1).any(dim=1).sum()
        self.total += loss * samples
        self.samples += samples

    def compute(self) -> Tensor:
        return self.total / self.samples


class SegmentationTask(lightning.LightningModule):
    """Trains a network of `hqfnet.create_model`.

    The loss is class-balanced cross-entropy plus soft Dice plus ``aux_weight`` times the network's auxiliary losses;
    the optimiser AdamW on what is not frozen, with a cosine schedule over all steps. Logged are

    - ``train/loss``, each auxiliary loss as ``train/<name>`` ("load_balance"), and ``train/lr``;
    - the norm of the gradient before clipping: ``grad_norm/model`` of all trained weights, ``grad_norm/quantum`` of the
      weights of all circuits, ``grad_norm/<layer>`` of those of each circuit layer;
    - for "val" and "test": ``loss``, ``miou``, ``accuracy`` and ``iou/<class name>``.

    Args:
        model, num_classes, in_channels, pretrained, dmcaf, qskip, qmoe, quantum, depth, top_k, feature_cache: see
            `hqfnet.create_model`.
        class_names, class_colours: one per class, for logs and pictures; numbered classes by default.
        bands: what the channels of the training data are, in order, where the data name them; kept in checkpoints.
        scale: the pixel value that becomes 1 in the training data; kept in checkpoints, for prediction to do the same.
        lr: highest learning rate.
        weight_decay: of AdamW.
        class_weights: one per class, for the cross-entropy; by default each batch is balanced in itself.
        aux_weight: weight of the auxiliary losses.

    Raises:
        ValueError: a number is out of range, or names, colours or weights do not fit the number of classes.
    """

    def __init__(
        self,
        model: str = "hqfnet_small",
        num_classes: int = 5,
        in_channels: int = 3,
        pretrained: bool | str = True,
        dmcaf: bool = True,
        qskip: bool = True,
        qmoe: bool = True,
        quantum: bool = True,
        depth: int | None = None,
        top_k: int | None = None,
        feature_cache: str | None = None,
        class_names: list[str] | None = None,
        class_colours: list[str] | None = None,
        bands: list[str] | None = None,
        scale: float | None = None,
        lr: float = 1e-3,
        weight_decay: float = 1e-2,
        class_weights: list[float] | None = None,
        aux_weight: float = 1e-2,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        # A checkpoint holds the backbone's weights: whoever loads it has nothing to download, and folders of their own.
        self.hparams["pretrained"] = False
        self.hparams["feature_cache"] = None
        numbered = ClassList.numbered(num_classes)
        self.classes = ClassList(
            tuple(class_names or numbered.names), tuple(class_colours or numbered.colours), numbered.ignore_ids
        )
        if len(self.classes) != num_classes:
            raise ValueError(f"class_names: got {len(self.classes)} names for num_classes={num_classes}")
        for name, value in (("lr", lr), ("weight_decay", weight_decay), ("aux_weight", aux_weight)):
            if not 0 <= value < math.inf:
                raise ValueError(f"{name}: expected a number of at least 0, got {value}")
        if class_weights is not None and not (
            len(class_weights) == num_classes and all(0 <= weight < math.inf for weight in class_weights)
        ):
            raise ValueError(f"class_weights: expected {num_classes} numbers of at least 0, got {class_weights}")
        self.model = create_model(
            model, num_classes, in_channels, pretrained, dmcaf, qskip, qmoe, quantum, depth, top_k, feature_cache
        )
        self.circuits = circuit_layers(self.model)
        self.in_channels = in_channels
        self.lr = lr
        self.weight_decay = weight_decay
        self.class_weights: Tensor | None
        self.register_buffer(
            "class_weights",
            None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32),
            persistent=False,
        )
        self.aux_weight = aux_weight
        self.val_metrics = segmentation_metrics(num_classes)
        self.test_metrics = segmentation_metrics(num_classes)
        self.val_loss = MeanLoss()
        self.test_loss = MeanLoss()
        self._fitting = self._scaled = False
        self._resumed: dict[str, Any] | None = None  # the checkpoint's state of data and chance, until training starts

    def forward(self, images: Tensor, valid: Tensor | None = None) -> Tensor:
        """As of `HQFNet`: (B, in_channels, H, W) in [0, 1] -> logits (B, num_classes, H, W)."""
        logits: Tensor = self.model(images, valid)
        return logits

    def loss(self, batch: Sample) -> tuple[Tensor, Tensor]:
        """The loss of a batch, and the logits."""
        logits = self(*network_inputs(batch))
        loss = cross_entropy(logits, batch["mask"], self.class_weights) + dice_loss(logits, batch["mask"])
        for auxiliary in self.model.aux_losses.values():
            loss = loss + self.aux_weight * auxiliary
        return loss, logits

    def setup(self, stage: str) -> None:
        """Refuses what this network cannot be run with, before any work is done.

        Raises:
            ValueError: the data have other bands than the network takes.
            NotImplementedError: weights in 16 bits.
        """
        self._fitting = stage == "fit"
        # A gradient that is scaled may overflow: the step is left out then, and the scale lowered.
        self._scaled = getattr(self.trainer.precision_plugin, "scaler", None) is not None
        if self.trainer.precision in ("16-true", "bf16-true"):
            raise NotImplementedError(
                f"trainer.precision: '{self.trainer.precision}' keeps weights and statistics in 16 bits, which is too "
                f"few for them; use '{str(self.trainer.precision).removesuffix('true')}mixed'"
            )
        channels = getattr(self.trainer.datamodule, "channels", self.in_channels)  # type: ignore[attr-defined]
        if channels != self.in_channels:
            raise ValueError(
                f"model.in_channels: the network takes {self.in_channels} bands, but the data have {channels}"
            )

    def training_step(self, batch: Sample, batch_idx: int) -> Tensor:
        loss, _ = self.loss(batch)
        check_finite("train/loss", loss, self.global_step)
        self.log("train/loss", loss, prog_bar=True)
        self.log_dict({f"train/{name}": value.detach() for name, value in self.model.aux_losses.items()})
        self.log("train/lr", self.trainer.optimizers[0].param_groups[0]["lr"])
        return loss

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Logs the gradient norms; mixed precision has taken its scale out by now."""
        norms = {name: gradient_norm(list(circuit.parameters())) for name, circuit in self.circuits.items()}
        if norms:
            norms["quantum"] = torch.stack(list(norms.values())).norm()
        norms["model"] = gradient_norm(list(self.parameters()))
        if not self._scaled:
            check_finite("grad_norm/model", norms["model"], self.global_step)
        self.log_dict({f"grad_norm/{name}": norm for name, norm in norms.items()})

    def validation_step(self, batch: Sample, batch_idx: int) -> None:
        self._evaluate(batch, self.val_metrics, self.val_loss)

    def test_step(self, batch: Sample, batch_idx: int) -> None:
        self._evaluate(batch, self.test_metrics, self.test_loss)

    def on_validation_epoch_end(self) -> None:
        self._report("val", self.val_metrics, self.val_loss)

    def on_test_epoch_end(self) -> None:
        self._report("test", self.test_metrics, self.test_loss)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer = make_optimizer(self, self.lr, self.weight_decay)
        steps = self.trainer.estimated_stepping_batches
        if math.isinf(steps):
            raise ValueError("max_epochs, max_steps: the learning rate needs an end to fall to, got none of both")
        self.trainer.fit_loop.setup_data()  # without which the number of batches may not be known yet
        batches = self.trainer.num_training_batches  # infinite where the data have no length, or none are to be used
        epoch_steps = 1 if math.isinf(batches) else math.ceil(batches / self.trainer.accumulate_grad_batches)
        schedule = CosineToZero(optimizer, max(int(steps), 1), epoch_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds what the checkpoint is, how far the epoch has come, and the states of torch's random generators."""
        checkpoint[ckpt.KEY] = ckpt.stamp()
        loader = self.trainer.train_dataloader
        resume: dict[str, Any] = {"loader": None, "samples_per_batch": None}
        if isinstance(loader, ResumableLoader):
            resume = {"loader": loader.state_dict(), "samples_per_batch": loader.samples_per_batch}
            if self.trainer.fit_loop.epoch_loop.batch_progress.current.ready >= self.trainer.num_training_batches:
                resume["loader"]["served"] = 0
        checkpoint["resume"] = {
            **resume,
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuses a checkpoint of another format, network or kind of data before anything is changed."""
        ckpt.check_format(checkpoint)
        ckpt.check_architecture(checkpoint, self.hparams)
        if self._fitting:  # the optimiser's state brings its own
            ckpt.check_settings(checkpoint, {name: self.hparams[name] for name in ("lr", "weight_decay")})
        ckpt.check_data(checkpoint, self.hparams, self._fitting)
        self._resumed = checkpoint["resume"]

    def on_train_start(self) -> None:
        """Goes on in the epoch and in the random numbers: after all set-up, before the first batch.

        Lightning itself hands a loader its state too early to reach it: the schedule needs the number of steps, for
        which it makes the loader before it reads the checkpoint's loops.
        """
        state, self._resumed = self._resumed, None
        if state is None:
            return
        loader = self.trainer.train_dataloader
        if state["loader"] is not None and isinstance(loader, ResumableLoader):
            self._go_on(loader, state["loader"], state.get("samples_per_batch"))
        torch.set_rng_state(state["rng"])
        if state["cuda_rng"] and torch.cuda.is_available():
            torch.cuda.set_rng_state_all(state["cuda_rng"])

    def _go_on(self, loader: ResumableLoader, state: dict[str, Any], samples_per_batch: int | None) -> None:
        """Goes on after the samples that were served, and counts them for Lightning in batches of this training."""
        batches = int(self.trainer.num_training_batches)
        loader.load_state_dict(state, None if samples_per_batch else batches, samples_per_batch)
        if loader.skipped:
            progress = self.trainer.fit_loop.epoch_loop.batch_progress.current
            progress.increment_by(loader.batches_before(batches) - progress.ready)

    def _evaluate(self, batch: Sample, metrics: SegmentationMetrics, mean_loss: MeanLoss) -> None:
        loss, logits = self.loss(batch)
        metrics.update(logits, batch["mask"])
        mean_loss.update(loss, batch["mask"])

    def _report(self, stage: str, metrics: SegmentationMetrics, mean_loss: MeanLoss) -> None:
        self.log(f"{stage}/loss", mean_loss.compute())
        mean_loss.reset()
        values = metrics.compute()
        metrics.reset()
        per_class = values.pop("iou")
        self.log_dict({f"{stage}/{name}": value for name, value in values.items()}, prog_bar=True)
        self.log_dict({f"{stage}/iou/{name}": value for name, value in zip(self.classes.names, per_class, strict=True)})


def load_task(path: str | Path) -> SegmentationTask:
    """The trained task of a checkpoint, on the CPU, in evaluation mode; nothing is downloaded.

    Raises:
        ValueError: the file cannot be read, is of another format, or its weights do not fit its settings.
    """
    checkpoint = ckpt.read_checkpoint(path)
    try:
        task = SegmentationTask(**checkpoint["hyper_parameters"])
        task.load_state_dict(checkpoint["state_dict"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"checkpoint: the network of {path} cannot be made again: {error}") from error
    return task.eval()


class CosineToZero(LRScheduler):
    """A rate that falls along half a cosine from the optimiser's own to 0 at the end of a training.

    It depends on nothing but how much of the training is done. A training that goes on with another length, or with
    other batches, goes on at the same epoch, on the curve that it would have had from the start.

    Args:
        optimizer: whose rate it is.
        steps: of the training.
        epoch_steps: of an epoch.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, steps: int, epoch_steps: int) -> None:
        self.steps = steps
        self.epoch_steps = epoch_steps
        super().__init__(optimizer)

    def get_lr(self) -> list[float | Tensor]:
        done = min(self.last_epoch / self.steps, 1.0)  # torch calls steps epochs
        return [rate * (1 + math.cos(math.pi * done)) / 2 for rate in self.base_lrs]

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        here = {"steps": self.steps, "epoch_steps": self.epoch_steps}
        before = state_dict.get("epoch_steps", self.epoch_steps)
        super().load_state_dict(state_dict | here)
        if before != self.epoch_steps:
            self.last_epoch = math.ceil(self.last_epoch * self.epoch_steps / before)
        for group, rate in zip(self.optimizer.param_groups, self.get_lr(), strict=True):
            group["lr"] = rate


def check_finite(name: str, value: Tensor, step: int) -> None:
    """Raises ValueError when a training has gone so wrong that its next step would lose the weights."""
    if not value.isfinite():
        raise ValueError(
            f"{name}: it is {value.item()} at step {step}, and the training stops before the weights are lost; the "
            "learning rate (model.lr) may be too high, or the images hold values that are no data"
        )


def gradient_norm(parameters: Sequence[torch.nn.Parameter]) -> Tensor:
    """Euclidean norm of the gradients that there are, as one vector."""
    return torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])


def make_optimizer(module: torch.nn.Module, lr: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW on what asks for a gradient; biases, gates and normalisations (up to one long side) without decay."""
    trained = [p for p in module.parameters() if p.requires_grad]
    decayed = [p for p in trained if p.squeeze().ndim > 1]
    rest = [p for p in trained if p.squeeze().ndim <= 1]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr)
