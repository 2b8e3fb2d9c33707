"""Training: losses, the command line from fit to predict, the demo."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pytest
import torch
from PIL import Image

from hqfnet import demo
from hqfnet.cli import HQFNetCLI, main
from hqfnet.data import IGNORE_INDEX, FolderData
from hqfnet.figures import richest_tiles
from hqfnet.predict import predict_scene
from hqfnet.qskip import QSkip
from hqfnet.task import MeanLoss, SegmentationTask, cross_entropy, dice_loss, make_optimizer, segmentation_metrics
from hqfnet.timing import QuantumTimer


@pytest.fixture
def command_line(monkeypatch: pytest.MonkeyPatch) -> Callable[..., HQFNetCLI]:
    """``python -m hqfnet`` with the arguments given."""

    def run(*arguments: str) -> HQFNetCLI:
        monkeypatch.setattr(sys, "argv", ["hqfnet", *arguments])
        return main()

    return run


def small_task(**arguments: object) -> SegmentationTask:
    return SegmentationTask("hq_unet", 3, pretrained=False, **arguments)  # type: ignore[arg-type]


def test_cross_entropy_leaves_out_ignored_pixels() -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    mask = torch.randint(0, 3, (2, 4, 4))
    mask[0] = IGNORE_INDEX
    torch.testing.assert_close(cross_entropy(logits, mask), cross_entropy(logits[1:], mask[1:]))
    nothing = cross_entropy(logits, torch.full_like(mask, IGNORE_INDEX))
    nothing.backward()
    assert nothing.item() == 0
    assert logits.grad is not None
    assert logits.grad.abs().max() == 0


def test_cross_entropy_balances_classes() -> None:
    mask = torch.zeros(1, 10, 100, dtype=torch.long)
    mask[0, 0, :90] = 1  # 9 %
    mask[0, 0, 90:95] = 2  # 0.5 %, counts as 1 %
    logits = torch.randn(1, 3, 10, 100, generator=torch.Generator().manual_seed(0))
    losses = torch.nn.functional.cross_entropy(logits, mask, reduction="none")
    weight = torch.tensor([0.905**-0.5, 0.09**-0.5, 0.01**-0.5])[mask]
    torch.testing.assert_close(cross_entropy(logits, mask), (losses * weight).sum() / weight.sum())


def test_class_weights() -> None:
    torch.manual_seed(0)
    task = small_task(class_weights=[1.0, 0.0, 3.0])
    batch = {"image": torch.rand(2, 3, 32, 32), "mask": torch.randint(0, 3, (2, 32, 32))}
    loss, logits = task.loss(batch)
    weighted = torch.nn.functional.cross_entropy(logits, batch["mask"], torch.tensor([1.0, 0, 3]))
    torch.testing.assert_close(loss, weighted + dice_loss(logits, batch["mask"]))
    assert "class_weights" not in task.state_dict()
    for number in (math.nan, math.inf, -1.0):
        with pytest.raises(ValueError, match="class_weights: expected 3 numbers of at least 0, got"):
            SegmentationTask("hq_unet", 3, class_weights=[1.0, number, 1.0])
    with pytest.raises(ValueError, match=r"class_weights: expected 3 numbers of at least 0, got \[1\.0, 2\.0\]"):
        small_task(class_weights=[1.0, 2.0])


def test_features_on_disk_are_no_part_of_a_checkpoint(tmp_path: Path) -> None:
    task = SegmentationTask("hqfnet_tiny", 3, pretrained=False, feature_cache=str(tmp_path))
    assert task.model.backbone is not None
    assert task.model.backbone.cache is not None
    assert task.hparams["feature_cache"] is None


def test_dice_loss() -> None:
    mask = torch.tensor([[[0, 0, 1, IGNORE_INDEX]]])
    right = torch.tensor([[[[9.0, 9, 0, 0]], [[0, 0, 9.0, 0]], [[0, 0, 0, 9.0]]]])
    assert dice_loss(100 * right, mask).item() == pytest.approx(0, abs=1e-6)
    wrong = torch.tensor([[[[9.0, 0, 0, 0]], [[0, 9.0, 9.0, 0]], [[0, 0, 0, 9.0]]]])
    # Class 0: one of two pixels found; class 1: its pixel found and one too many; class 2 does not occur.
    assert dice_loss(100 * wrong, mask).item() == pytest.approx(1 - (2 / 3 + 2 / 3) / 2)
    assert dice_loss(right, torch.full_like(mask, IGNORE_INDEX)).item() == 0


def test_metrics() -> None:
    metrics = segmentation_metrics(3)
    mask = torch.tensor([[[0, 0, 1, 1], [2, 2, 2, IGNORE_INDEX]]])
    guess = torch.tensor([[[0, 1, 1, 1], [2, 2, 0, 0]]])
    metrics.update(torch.nn.functional.one_hot(guess, 3).permute(0, 3, 1, 2).float(), mask)
    values = metrics.compute()
    assert values["iou"].tolist() == pytest.approx([1 / 3, 2 / 3, 2 / 3])
    assert values["miou"].item() == pytest.approx(5 / 9)
    assert values["accuracy"].item() == pytest.approx(5 / 7)


def test_classes_that_do_not_occur_have_no_iou() -> None:
    """Neither as a label nor as a prediction: not a number, and no part of the mean."""
    metrics = segmentation_metrics(4)
    mask = torch.tensor([[[0, 0, 1, 1]]])
    metrics.update(torch.nn.functional.one_hot(torch.tensor([[[0, 0, 1, 3]]]), 4).permute(0, 3, 1, 2).float(), mask)
    values = metrics.compute()
    assert values["iou"].tolist() == pytest.approx([1, 0.5, math.nan, 0], nan_ok=True)
    assert values["miou"].item() == pytest.approx(0.5)
    metrics.reset()
    metrics.update(torch.rand(1, 4, 1, 4), torch.full_like(mask, IGNORE_INDEX))
    assert all(value.isnan().all() for value in metrics.compute().values())


def test_mean_loss_counts_samples_in_which_something_counts() -> None:
    mask = torch.zeros(2, 4, 4, dtype=torch.long)
    half = mask.clone()
    half[0] = IGNORE_INDEX
    mean = MeanLoss()
    for loss, target in ((1.0, mask), (4.0, half), (9.0, torch.full_like(mask, IGNORE_INDEX))):
        mean.update(torch.tensor(loss), target)
    assert mean.compute().item() == 2


@pytest.mark.parametrize(
    ("setting", "value"), [("lr", -1.0), ("lr", math.nan), ("weight_decay", -0.1), ("aux_weight", math.inf)]
)
def test_numbers_out_of_range(setting: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{setting}: expected a number of at least 0, got {value}"):
        small_task(**{setting: value})


@pytest.mark.parametrize("model", ["hqfnet_tiny", "hq_unet"])
def test_training_on_one_small_crop(model: str) -> None:
    """A crop of 16 pixels is one pixel at the bottleneck, and a batch of one has no variance there."""
    task = SegmentationTask(model, 3, pretrained=False).train()
    for size in (1, 16):
        batch = {"image": torch.rand(1, 3, size, size), "mask": torch.zeros(1, size, size, dtype=torch.long)}
        loss, _ = task.loss(batch)
        loss.backward()
        assert loss.isfinite()


def test_what_is_not_finite_stops_a_training(folder: Path, tmp_path: Path) -> None:
    def fit(task: SegmentationTask) -> None:
        where = tmp_path / "run"
        trainer = lightning.Trainer(
            accelerator="cpu", logger=False, max_epochs=1, default_root_dir=where, num_sanity_val_steps=0
        )
        trainer.fit(task, data)

    data = FolderData(str(folder), 3, (9, 255), crop=32, batch_size=2, workers=0)
    task = SegmentationTask("hqfnet_tiny", 3, pretrained=False)
    with torch.no_grad():
        task.model.head.bias[0] = math.nan  # type: ignore[index]
    with pytest.raises(ValueError, match=r"train/loss: it is nan at step 0, and the training stops .* \(model\.lr\)"):
        fit(task)
    # A loss may be finite where its gradient is not: that of a root at 0.
    task = small_task()
    loss = task.loss
    bias: Any = task.model.head.bias
    root: Any = lambda batch: (loss(batch)[0] + 0 * bias[0].sub(bias[0]).sqrt(), None)  # noqa: E731
    task.loss = root  # type: ignore[method-assign]
    before = {name: weight.clone() for name, weight in task.named_parameters()}
    with pytest.raises(ValueError, match=r"grad_norm/model: it is nan at step 0"):
        fit(task)
    assert all(torch.equal(weight, before[name]) for name, weight in task.named_parameters())


def test_scaled_gradients_may_overflow() -> None:
    """The scaler of float16 leaves the step out, and lowers the scale."""
    task = small_task()
    task.log_dict = lambda norms: None  # type: ignore[method-assign, assignment, misc]
    for parameter in task.parameters():
        parameter.grad = torch.full_like(parameter, math.inf)
    task._scaled = True
    task.on_before_optimizer_step(torch.optim.SGD(task.parameters()))
    task._scaled = False
    with pytest.raises(ValueError, match="grad_norm/model: it is inf at step 0"):
        task.on_before_optimizer_step(torch.optim.SGD(task.parameters()))


@pytest.mark.parametrize("model", ["hqfnet_tiny", "hq_unet"])
def test_a_rate_that_is_far_too_high_ends_with_an_error(
    model: str, tmp_path: Path, command_line: Callable[..., HQFNetCLI]
) -> None:
    """Not with a crash: the offsets of the attention become NaN on the way."""
    data = ("--data.train_scenes", "8", "--data.val_scenes", "2", "--data.size", "64", "--data.batch_size", "2")
    trainer = ("--trainer.max_epochs", "2", "--trainer.logger", "false", "--trainer.enable_progress_bar", "false")
    place = ("--trainer.default_root_dir", str(tmp_path), "--trainer.accelerator", "cpu", "--data.workers", "0")
    with pytest.raises(ValueError, match="the training stops"):
        command_line(
            "fit", "--config", "generated", *data, *trainer, *place, "--model.model", model, "--model.lr", "1e30"
        )


def test_loss_includes_the_auxiliary_losses() -> None:
    torch.manual_seed(0)
    task = SegmentationTask("hqfnet_tiny", 3, pretrained=False, dmcaf=False, aux_weight=0.5)
    batch = {"image": torch.rand(2, 3, 32, 32), "mask": torch.randint(0, 3, (2, 32, 32))}
    loss, logits = task.loss(batch)
    expected = cross_entropy(logits, batch["mask"]) + dice_loss(logits, batch["mask"])
    expected = expected + 0.5 * task.model.aux_losses["load_balance"]
    torch.testing.assert_close(loss, expected)


def test_optimizer_takes_what_is_not_frozen() -> None:
    task = SegmentationTask("hqfnet_tiny", 3, pretrained=False)
    decayed, rest = make_optimizer(task, 1e-3, 0.05).param_groups
    taken = {id(p) for group in (decayed, rest) for p in group["params"]}
    backbone = task.model.backbone
    assert backbone is not None
    frozen = {id(p) for p in backbone.parameters()}
    assert taken == {id(p) for p in task.parameters()} - frozen
    assert decayed["weight_decay"] == 0.05
    assert rest["weight_decay"] == 0
    gates = {id(p) for name, p in task.named_parameters() if name.endswith("gate.gate")}
    assert gates <= {id(p) for p in rest["params"]}


def test_class_names_must_fit() -> None:
    with pytest.raises(ValueError, match="colours: got 3 for 2 classes"):
        small_task(class_names=["a", "b"])


def test_timer_sees_the_circuits_alone() -> None:
    block = QSkip(8)
    timer = QuantumTimer(block)
    result = block(torch.randn(2, 8, 16, 16))
    forward = timer.seconds
    assert forward > 0
    result.sum().backward()
    assert timer.seconds > forward
    twin = QSkip(8, quantum=False)
    still = QuantumTimer(twin)
    twin(torch.randn(2, 8, 16, 16)).sum().backward()
    assert still.seconds == 0


def test_fit_test_and_predict_on_a_folder(folder: Path, tmp_path: Path, command_line: Callable[..., HQFNetCLI]) -> None:
    """The command line as documented: train, score and predict with the saved checkpoint."""
    (folder / "test.txt").write_text("c\n")
    common = [
        "--config=folder", "--data.root", str(folder), "--data.classes", "3", "--data.ignore_ids", "[9,255]",
        "--data.crop", "32", "--data.batch_size", "2", "--data.workers", "0", "--model.model", "hq_unet",
        "--model.pretrained", "false", "--trainer.accelerator", "cpu", "--trainer.default_root_dir", str(tmp_path),
        "--trainer.enable_progress_bar", "false", "--trainer.logger", "false",
    ]  # fmt: skip
    fitted = command_line("fit", *common, "--trainer.max_epochs", "1", "--trainer.num_sanity_val_steps", "0")
    assert fitted.model.classes.names == ("class 0", "class 1", "class 2")
    logged = fitted.trainer.callback_metrics
    assert {"train/loss", "val/loss", "val/miou", "val/accuracy", "val/iou/class 1"} <= set(logged)
    (checkpoint,) = tmp_path.rglob("last.ckpt")
    assert torch.load(checkpoint)["hyper_parameters"]["model"] == "hq_unet"
    assert SegmentationTask("hq_unet", pretrained=True).hparams["pretrained"] is False
    saved = (*common, "--ckpt_path", str(checkpoint))
    tested = command_line("test", *saved)
    torch.testing.assert_close(tested.trainer.callback_metrics["test/loss"], logged["val/loss"])
    scene, ids = folder / "images" / "c.png", tmp_path / "ids.png"
    command_line("predict", str(scene), "-o", str(ids), "--checkpoint", str(checkpoint), "--window", "48")
    again = predict_scene(fitted.model, scene, tmp_path / "again.png", window=48)
    assert np.array_equal(np.array(Image.open(ids)), np.array(Image.open(again)))


def test_fit_on_generated_scenes(tmp_path: Path, command_line: Callable[..., HQFNetCLI]) -> None:
    data = ("--data.train_scenes", "4", "--data.val_scenes", "2", "--data.size", "64", "--data.batch_size", "2")
    trainer = ("--trainer.max_epochs", "1", "--trainer.logger", "false", "--trainer.enable_progress_bar", "false")
    place = ("--trainer.default_root_dir", str(tmp_path), "--trainer.accelerator", "cpu", "--data.workers", "0")
    fitted = command_line("fit", "--config", "generated", *data, *trainer, *place)
    assert fitted.model.classes.names[0] == "field"
    assert "val/iou/water" in fitted.trainer.callback_metrics


def test_demo_writes_its_results(folder: Path, tmp_path: Path) -> None:
    classes = tmp_path / "classes.json"
    entries = [{"name": name, "colour": f"#{name * 6}"} for name in "abc"]
    classes.write_text(json.dumps({"classes": entries, "ignore_ids": [9, 255]}))
    places = ["--data", str(folder), "--classes", str(classes), "--out", str(tmp_path / "out")]
    result = demo.main([*places, "--minutes", "1e-9", "--model", "hq_unet", "--crop", "32", "--batch-size", "2"])
    assert result.steps == 1
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "curve.png", "metrics.json", "metrics.md", "predictions.png",
    }  # fmt: skip
    assert 0 < result.quantum_seconds < result.step_seconds
    assert 0 <= result.miou <= 1
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["iou"].keys() == {"a", "b", "c"}
    assert "| IoU b |" in (tmp_path / "out" / "metrics.md").read_text()


def test_demo_names_what_is_wrong_with_the_data(folder: Path) -> None:
    (folder / "masks" / "b.png").unlink()
    with pytest.raises(ValueError, match=r"train\.txt: 'b' has no mask"):
        demo.main(["--data", str(folder), "--classes", "dubai"])


def test_demo_names_what_is_wrong_before_it_trains(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    places = ["--data", str(folder), "--out", str(folder / "train.txt" / "out")]
    for wrong in (places, ["--minutes", "nan"], ["--batch-size", "0"]):
        with pytest.raises(SystemExit):
            demo.main(wrong)
        assert f"error: {wrong[-2]}: " in capsys.readouterr().err


def test_demo_without_a_class_list(folder: Path) -> None:
    classes = demo.folder_classes(folder)
    assert len(classes) == 10
    assert classes.colours[2] == "#1400FD"


def test_richest_tiles_come_from_all_over() -> None:
    masks = [torch.zeros(4, 4, dtype=torch.long) for _ in range(6)]
    masks[1][0], masks[3][:2], masks[5][0] = 1, 1, IGNORE_INDEX
    assert richest_tiles([{"mask": mask} for mask in masks], 2, 2) == [1, 3]
