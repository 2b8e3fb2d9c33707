"""The Lightning module: losses, metrics, optimiser, prediction."""

from __future__ import annotations

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

from hqfnet.data.balance import class_weights
from hqfnet.data.classes import IGNORE_INDEX, ClassList
from hqfnet.data.crops import Sample
from hqfnet.model import create_model
from hqfnet.predict import predict_file, write_prediction


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
    the optimiser AdamW on what is not frozen, with a cosine schedule over all steps. Logged: ``train/loss``; and for
    "val" and "test" ``loss``, ``miou``, ``accuracy`` and ``iou/<class name>``.

    Args:
        model, num_classes, in_channels, pretrained, dmcaf, qskip, qmoe, quantum, feature_cache: see
            `hqfnet.create_model`.
        class_names, class_colours: one per class, for logs and pictures; numbered classes by default.
        lr: highest learning rate.
        weight_decay: of AdamW.
        class_weights: one per class, for the cross-entropy; by default each batch is balanced in itself.
        aux_weight: weight of the auxiliary losses.
        window, overlap: of the prediction (see `hqfnet.predict.predict_file`).
        predict_out: folder that ``predict`` writes to.
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
        feature_cache: str | None = None,
        class_names: list[str] | None = None,
        class_colours: list[str] | None = None,
        lr: float = 1e-3,
        weight_decay: float = 1e-2,
        class_weights: list[float] | None = None,
        aux_weight: float = 1e-2,
        window: int = 512,
        overlap: float = 0.25,
        predict_out: str = "predictions",
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["window", "overlap", "predict_out"])
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
            model, num_classes, in_channels, pretrained, dmcaf, qskip, qmoe, quantum, feature_cache=feature_cache
        )
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
        self.window = window
        self.overlap = overlap
        self.predict_out = Path(predict_out)
        self.val_metrics = segmentation_metrics(num_classes)
        self.test_metrics = segmentation_metrics(num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """(B, in_channels, H, W) in [0, 1] -> logits (B, num_classes, H, W)."""
        logits: Tensor = self.model(images)
        return logits

    def loss(self, batch: Sample) -> tuple[Tensor, Tensor]:
        """The loss of a batch, and the logits."""
        logits = self(batch["image"])
        loss = cross_entropy(logits, batch["mask"], self.class_weights) + dice_loss(logits, batch["mask"])
        for auxiliary in self.model.aux_losses.values():
            loss = loss + self.aux_weight * auxiliary
        return loss, logits

    def training_step(self, batch: Sample, batch_idx: int) -> Tensor:
        loss, _ = self.loss(batch)
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: Sample, batch_idx: int) -> None:
        self._evaluate(batch, "val", self.val_metrics)

    def test_step(self, batch: Sample, batch_idx: int) -> None:
        self._evaluate(batch, "test", self.test_metrics)

    def on_validation_epoch_end(self) -> None:
        self._report("val", self.val_metrics)

    def on_test_epoch_end(self) -> None:
        self._report("test", self.test_metrics)

    def predict_step(self, batch: str, batch_idx: int) -> str:
        """Predicts the image at a path, writes it, and returns the path of its class ids."""
        path = Path(batch)
        ids = predict_file(self.model, path, self.in_channels, self.window, self.overlap)
        return str(write_prediction(ids, path, self.predict_out, self.classes))

    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer = make_optimizer(self, self.lr, self.weight_decay)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, int(self.trainer.estimated_stepping_batches))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

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


def make_optimizer(module: torch.nn.Module, lr: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW on what asks for a gradient; biases, gates and normalisations (up to one long side) without decay."""
    trained = [p for p in module.parameters() if p.requires_grad]
    decayed = [p for p in trained if p.squeeze().ndim > 1]
    rest = [p for p in trained if p.squeeze().ndim <= 1]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr)
