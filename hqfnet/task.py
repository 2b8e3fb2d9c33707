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
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

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


def segmentation_metrics(num_classes: int) -> MetricCollection:
    """``miou`` (macro over the classes that occur), ``accuracy`` (overall) and ``iou`` (num_classes)."""
    shared: dict[str, Any] = {"num_classes": num_classes, "ignore_index": IGNORE_INDEX}
    return MetricCollection(
        {
            "miou": MulticlassJaccardIndex(average="macro", **shared),
            "accuracy": MulticlassAccuracy(average="micro", **shared),
            "iou": MulticlassJaccardIndex(average="none", **shared),
        }
    )


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
        scale: the pixel value that becomes 1 in the training data; kept in checkpoints, for prediction to do the same.
        lr: highest learning rate.
        weight_decay: of AdamW.
        class_weights: one per class, for the cross-entropy; by default each batch is balanced in itself.
        aux_weight: weight of the auxiliary losses.
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
        if class_weights is not None and (len(class_weights) != num_classes or min(class_weights) < 0):
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

    def training_step(self, batch: Sample, batch_idx: int) -> Tensor:
        loss, _ = self.loss(batch)
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
        self.log_dict({f"grad_norm/{name}": norm for name, norm in norms.items()})

    def validation_step(self, batch: Sample, batch_idx: int) -> None:
        self._evaluate(batch, "val", self.val_metrics)

    def test_step(self, batch: Sample, batch_idx: int) -> None:
        self._evaluate(batch, "test", self.test_metrics)

    def on_validation_epoch_end(self) -> None:
        self._report("val", self.val_metrics)

    def on_test_epoch_end(self) -> None:
        self._report("test", self.test_metrics)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer = make_optimizer(self, self.lr, self.weight_decay)
        steps = self.trainer.estimated_stepping_batches
        if math.isinf(steps):
            raise ValueError("max_epochs, max_steps: the learning rate needs an end to fall to, got none of both")
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, int(steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds what the checkpoint is, how far the epoch has come, and the states of torch's random generators."""
        checkpoint[ckpt.KEY] = ckpt.stamp()
        loader = self.trainer.train_dataloader
        checkpoint["resume"] = {
            "loader": loader.state_dict() if isinstance(loader, ResumableLoader) else None,
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuses a checkpoint of another format or network before anything is changed."""
        ckpt.check_format(checkpoint)
        ckpt.check_architecture(checkpoint, self.hparams)
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
            loader.load_state_dict(state["loader"], int(self.trainer.num_training_batches))
        torch.set_rng_state(state["rng"])
        if state["cuda_rng"] and torch.cuda.is_available():
            torch.cuda.set_rng_state_all(state["cuda_rng"])

    def _evaluate(self, batch: Sample, stage: str, metrics: MetricCollection) -> None:
        loss, logits = self.loss(batch)
        metrics.update(logits, batch["mask"])
        self.log(f"{stage}/loss", loss, batch_size=len(logits), sync_dist=True)

    def _report(self, stage: str, metrics: MetricCollection) -> None:
        values: dict[str, Any] = metrics.compute()
        metrics.reset()
        per_class: Sequence[Tensor] = values.pop("iou")
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
