"""A checkpoint beside settings: what was asked for is used, or refused; what was not is as in the checkpoint."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import lightning
import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, IterableDataset

from hqfnet.callbacks import EarlyStopping
from hqfnet.checkpoint import check_data, read_checkpoint
from hqfnet.cli import HQFNetCLI, main
from hqfnet.data import FolderData, SeasoNetData
from hqfnet.data.crops import Sample
from hqfnet.task import CosineToZero, SegmentationTask

ROOT = Path(__file__).parents[2]
SETTINGS = [
    "--config", "folder", "--data.crop", "32", "--data.batch_size", "2", "--data.workers", "0",
    "--model.model", "hq_unet", "--trainer.accelerator", "cpu", "--trainer.log_every_n_steps", "1",
    "--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false",
    "--pictures.every_n_epochs", "9", "--trainer.num_sanity_val_steps", "0",
]  # fmt: skip

RANKS = """
import os, sys
import torch
from hqfnet.cli import main

torch.set_num_threads(1)
arguments, scores = sys.argv[1:], {}
for size, command in (("4", "fit"), ("4", "validate"), ("4", "test"), ("2", "test")):
    saved = [] if command == "fit" else ["--ckpt_path", "run/version_0/checkpoints/last.ckpt"]
    sys.argv = ["hqfnet", command, *arguments, "--data.batch_size", size, *saved]
    metrics = main().trainer.callback_metrics.items()
    scores.setdefault(size, []).append({n.partition("/")[2]: v for n, v in metrics if n.startswith(("val/", "test/"))})
if os.environ["RANK"] == "0":
    torch.save(scores, "scores.pt")
"""

pytestmark = pytest.mark.usefixtures("threads")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Seven images of one crop each for training, three to score; 3 classes."""
    rng = np.random.default_rng(0)
    root = tmp_path / "data"
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True)
    for i in range(7):
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(root / "images" / f"{i}.png")
        Image.fromarray(rng.integers(0, 3, (32, 32), dtype=np.uint8)).save(root / "masks" / f"{i}.png")
    (root / "train.txt").write_text("".join(f"{i}\n" for i in range(7)))
    for split in ("val", "test"):
        (root / f"{split}.txt").write_text("0\n1\n2\n")
    return root


@pytest.fixture
def hqfnet(data: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., HQFNetCLI]:
    """``hqfnet fit`` and so on, on that folder."""

    def run(command: str, root: Path, *arguments: str, classes: str = "3") -> HQFNetCLI:
        argv = [command, *SETTINGS, "--data.root", str(data), "--data.classes", classes, *arguments]
        monkeypatch.setattr(sys, "argv", ["hqfnet", *argv, "--trainer.default_root_dir", str(root)])
        return main()

    return run


def logged(root: Path, name: str) -> list[float]:
    (path,) = root.rglob("metrics.csv")
    with path.open() as file:
        return [float(row[name]) for row in csv.DictReader(file) if row[name]]


def last(root: Path) -> Path:
    (path,) = root.rglob("last.ckpt")
    return path


def test_settings_beside_a_checkpoint(tmp_path: Path, hqfnet: Callable[..., HQFNetCLI]) -> None:
    """Those of the optimiser and the loss, too; the same ones again, and none at all, go on."""
    settings = ("--model.lr", "0.002", "--model.class_weights", "[1,2,3]", "--model.depth", "1")
    hqfnet("fit", tmp_path / "run", "--trainer.max_epochs", "1", *settings)
    saved = ("--ckpt_path", str(last(tmp_path / "run")))
    other = {
        "lr": ("0.001", "lr=0.002 where lr=0.001"),  # the default, asked for
        "weight_decay": ("0.5", "weight_decay=0.01 where weight_decay=0.5"),
        "class_weights": ("[3,2,1]", r"class_weights=\[1\.0, 2\.0, 3\.0\] where class_weights=\[3\.0, 2\.0, 1\.0\]"),
        "aux_weight": ("1", "aux_weight=0.01 where aux_weight=1.0"),
        "depth": ("2", "another network: depth=1 where depth=2"),
    }
    for command, names in (("fit", other), ("validate", ["lr"]), ("test", ["class_weights", "depth"])):
        for name in names:
            value, complaint = other[name]
            with pytest.raises(ValueError, match=f"checkpoint: it holds .*{complaint} was asked for"):
                hqfnet(command, tmp_path / "no", *saved, f"--model.{name}", value)
    tested = hqfnet("test", tmp_path / "test", *saved, *settings)
    again = hqfnet("test", tmp_path / "again", *saved)
    assert again.model.lr == 0.002
    assert again.model.class_weights.tolist() == [1, 2, 3]
    assert tested.trainer.callback_metrics == again.trainer.callback_metrics
    with pytest.raises(ValueError, match="--seed_everything: got 4, but the checkpoint's training goes on with 0"):
        hqfnet("fit", tmp_path / "no", *saved, "--seed_everything", "4")
    assert not (tmp_path / "no").exists()

    # Without the command line nothing says what was asked for: the optimiser's settings must be the checkpoint's.
    task = SegmentationTask("hq_unet", 3, pretrained=False, depth=1, lr=0.001)
    trainer = lightning.Trainer(accelerator="cpu", logger=False, max_epochs=2, default_root_dir=tmp_path / "api")
    source = FolderData(str(tmp_path / "data"), 3, crop=32, workers=0)
    with pytest.raises(ValueError, match="lr=0.002 where lr=0.001 was asked for"):
        trainer.fit(task, source, ckpt_path=last(tmp_path / "run"), weights_only=True)


def test_scores_need_a_checkpoint(tmp_path: Path, hqfnet: Callable[..., HQFNetCLI]) -> None:
    for command in ("validate", "test"):
        with pytest.raises(ValueError, match=f"--ckpt_path: `hqfnet {command}` needs the checkpoint"):
            hqfnet(command, tmp_path / "no")


def test_a_longer_training_goes_on_on_its_own_curve(tmp_path: Path, hqfnet: Callable[..., HQFNetCLI]) -> None:
    hqfnet("fit", tmp_path / "two", "--trainer.max_epochs", "2", "--early_stopping.patience", "5")
    on = ("--ckpt_path", str(last(tmp_path / "two")), "--trainer.max_epochs", "4", "--early_stopping.patience", "1")
    longer = hqfnet("fit", tmp_path / "four", *on)
    (stopping,) = (
        callback
        for callback in longer.trainer.callbacks  # type: ignore[attr-defined]
        if isinstance(callback, EarlyStopping)
    )
    assert stopping.patience == 1
    rates = logged(tmp_path / "four", "train/lr")
    expected = [1e-3 * (1 + np.cos(np.pi * step / 16)) / 2 for step in range(8, 8 + len(rates))]
    assert rates == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("nothing", ["--trainer.max_steps", "--trainer.limit_train_batches"])
def test_nothing_to_be_trained(nothing: str, tmp_path: Path, hqfnet: Callable[..., HQFNetCLI]) -> None:
    assert hqfnet("fit", tmp_path / "run", "--trainer.max_epochs", "1", nothing, "0").trainer.global_step == 0


def test_data_without_a_length(tmp_path: Path) -> None:
    class Endless(IterableDataset[Sample]):
        def __iter__(self) -> Iterator[Sample]:
            while True:
                yield {"image": torch.rand(3, 32, 32), "mask": torch.randint(3, (32, 32))}

    task = SegmentationTask("hq_unet", 3, pretrained=False)
    trainer = lightning.Trainer(
        accelerator="cpu", logger=False, max_steps=2, default_root_dir=tmp_path, enable_checkpointing=False,
        enable_progress_bar=False,
    )  # fmt: skip
    trainer.fit(task, DataLoader(Endless(), batch_size=2))
    assert trainer.global_step == 2
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0)


def test_the_rate_goes_on_at_the_same_epoch() -> None:
    def schedule(steps: int, epoch_steps: int) -> CosineToZero:
        return CosineToZero(torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.5), steps, epoch_steps)

    before = schedule(12, 6)
    for _ in range(6):
        before.optimizer.step()
        before.step()
    assert before.get_last_lr() == [0.25]
    for steps, epoch_steps, rate in ((12, 6, 0.25), (8, 4, 0.25), (24, 6, 0.5 * (1 + 0.5**0.5) / 2), (6, 6, 0)):
        after = schedule(steps, epoch_steps)
        after.load_state_dict(before.state_dict())
        assert after.optimizer.param_groups[0]["lr"] == pytest.approx(rate)
    # Checkpoints of before have the state of torch's own.
    old = torch.optim.lr_scheduler.CosineAnnealingLR(before.optimizer, 12).state_dict() | {"last_epoch": 6}
    after = schedule(12, 6)
    after.load_state_dict(old)
    assert (after.last_epoch, after.steps) == (6, 12)


@pytest.mark.parametrize("batch", [1, 3, 5])
def test_another_batch_size_goes_on_with_the_samples_left(
    batch: int, tmp_path: Path, hqfnet: Callable[..., HQFNetCLI], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after two of four batches of two: three of the seven samples are left of the epoch."""
    step, seen = SegmentationTask.training_step, []

    def training_step(self: SegmentationTask, samples: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        seen.append((self.current_epoch, len(samples["mask"])))
        if self.global_step == 2 and not go_on:
            raise OSError("the disk is gone")
        return step(self, samples, batch_idx)

    monkeypatch.setattr(SegmentationTask, "training_step", training_step)
    go_on: tuple[str, ...] = ()
    with pytest.raises(OSError, match="the disk is gone"):
        hqfnet("fit", tmp_path / "a", "--trainer.max_epochs", "2", "--last_checkpoint.every_n_steps", "2")
    seen.clear()
    go_on = ("--ckpt_path", str(last(tmp_path / "a")), "--data.batch_size", str(batch))
    hqfnet("fit", tmp_path / "b", "--trainer.max_epochs", "2", "--last_checkpoint.every_n_steps", "1", *go_on)
    assert sum(samples for epoch, samples in seen if epoch == 0) == 3
    assert sum(samples for epoch, samples in seen if epoch == 1) == 7
    assert max(samples for _, samples in seen) == min(batch, 7)
    assert len(logged(tmp_path / "b", "val/miou")) == 2
    assert read_checkpoint(last(tmp_path / "b"))["resume"]["loader"] == {"served": 0, "seed": 0}


def test_the_scale_of_the_training(tmp_path: Path, hqfnet: Callable[..., HQFNetCLI]) -> None:
    trained = hqfnet("fit", tmp_path / "run", "--trainer.max_epochs", "1", "--data.scale", "100")
    saved = ("--ckpt_path", str(last(tmp_path / "run")))
    loss = trained.trainer.callback_metrics["val/loss"]
    for arguments in ((), ("--data.scale", "100")):
        tested = hqfnet("validate", tmp_path / "test", *saved, *arguments)
        torch.testing.assert_close(tested.trainer.callback_metrics["val/loss"], loss)
        assert tested.datamodule.scale == tested.model.hparams["scale"] == 100
    # Data to score may have units of their own, and say so; training goes on with the same.
    assert hqfnet("test", tmp_path / "other", *saved, "--data.scale", "255").datamodule.scale == 255
    for command, scale in (("fit", "255"), ("fit", "null"), ("test", "null")):
        with pytest.raises(ValueError, match="other settings: scale=100.0 where scale=.* was asked for"):
            hqfnet(command, tmp_path / "no", *saved, "--data.scale", scale, "--trainer.max_epochs", "2")
    task = SegmentationTask("hq_unet", 3, pretrained=False)
    trainer = lightning.Trainer(accelerator="cpu", logger=False, default_root_dir=tmp_path / "api")
    with pytest.raises(ValueError, match="scale=100.0 where scale=None"):
        trainer.test(task, FolderData(str(tmp_path / "data"), 3, crop=32, workers=0), ckpt_path=saved[1])


def test_the_classes_of_the_training(tmp_path: Path, hqfnet: Callable[..., HQFNetCLI]) -> None:
    def classes(*names: str) -> str:
        path = tmp_path / f"{''.join(names)}.json"
        entries = ", ".join(f'{{"name": "{name}", "colour": "#000000"}}' for name in names)
        path.write_text(f'{{"classes": [{entries}]}}')
        return str(path)

    hqfnet("fit", tmp_path / "run", "--trainer.max_epochs", "1", classes=classes("a", "b", "c"))
    saved = ("--ckpt_path", str(last(tmp_path / "run")), "--trainer.max_epochs", "2")
    for command in ("fit", "test"):
        with pytest.raises(ValueError, match=r"class_names=\['a', 'b', 'c'\] where class_names=\['b', 'a', 'c'\]"):
            hqfnet(command, tmp_path / "no", *saved, classes=classes("b", "a", "c"))
        with pytest.raises(ValueError, match="num_classes=3 where num_classes=4"):
            hqfnet(command, tmp_path / "no", *saved, classes="4")
    assert (
        "test/iou/a" in hqfnet("test", tmp_path / "x", *saved, classes=classes("a", "b", "c")).trainer.callback_metrics
    )
    # Numbered classes claim nothing about what they are.
    hqfnet("test", tmp_path / "y", *saved)


def test_the_bands_of_the_training(seasonet: Path) -> None:
    data = SeasoNetData(str(seasonet), bands=("10m_IR", "10m_RGB"))
    saved = {"hyper_parameters": {"num_classes": 33, "scale": 3000, "bands": data.bands}}
    check_data(saved, {"scale": 3000, "bands": ["10m_IR", "10m_RGB"]}, training=True)
    with pytest.raises(ValueError, match=r"bands=\['10m_IR', '10m_RGB'\] where bands=\['10m_RGB', '10m_IR'\]"):
        check_data(saved, {"scale": 3000, "bands": ["10m_RGB", "10m_IR"]}, training=False)
    check_data(saved, {"scale": 3000, "bands": None}, training=False)


def test_a_network_that_does_not_fit_the_run(tmp_path: Path, hqfnet: Callable[..., HQFNetCLI]) -> None:
    with pytest.raises(ValueError, match=r"model\.in_channels: the network takes 4 bands, but the data have 3"):
        hqfnet("fit", tmp_path / "no", "--model.in_channels", "4")
    for precision in ("16-true", "bf16-true"):
        with pytest.raises(NotImplementedError, match=rf"trainer\.precision: '{precision}' keeps .* in 16 bits"):
            hqfnet("fit", tmp_path / "no", "--trainer.precision", precision)


def test_goes_on_after_sigterm(
    tmp_path: Path, hqfnet: Callable[..., HQFNetCLI], monkeypatch: pytest.MonkeyPatch
) -> None:
    step, evaluate = SegmentationTask.training_step, SegmentationTask.validation_step
    stop: int | str | None = None

    def training_step(self: SegmentationTask, batch: Sample, batch_idx: int) -> torch.Tensor:
        if stop == self.global_step:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, batch, batch_idx)

    def validation_step(self: SegmentationTask, batch: Sample, batch_idx: int) -> None:
        if stop == "validation":
            os.kill(os.getpid(), signal.SIGTERM)
        evaluate(self, batch, batch_idx)

    monkeypatch.setattr(SegmentationTask, "training_step", training_step)
    monkeypatch.setattr(SegmentationTask, "validation_step", validation_step)
    epochs = ("--trainer.max_epochs", "2")
    whole = hqfnet("fit", tmp_path / "whole", *epochs)
    for stop, steps in ((5, 6), ("validation", 4)):
        with pytest.raises(SystemExit) as stopped:
            hqfnet("fit", tmp_path / f"{stop}", *epochs)
        assert stopped.value.code == 143
        assert read_checkpoint(last(tmp_path / f"{stop}"))["global_step"] == steps
        on, stop = tmp_path / f"on{steps}", None
        again = hqfnet("fit", on, *epochs, "--ckpt_path", str(last(tmp_path / ("5" if steps == 6 else "validation"))))
        assert logged(on, "train/loss") == logged(tmp_path / "whole", "train/loss")[steps:]
        for name, weight in whole.model.state_dict().items():
            assert torch.equal(weight, again.model.state_dict()[name]), name
    # Half a step is not kept: two batches make one here, and the signal comes in the first of them.
    stop = 1
    with pytest.raises(SystemExit):
        hqfnet("fit", tmp_path / "half", *epochs, "--trainer.accumulate_grad_batches", "2")
    assert not list((tmp_path / "half").rglob("last.ckpt"))


def test_scores_do_not_depend_on_the_number_of_processes(tmp_path: Path, hqfnet: Callable[..., HQFNetCLI]) -> None:
    """Three crops on two processes, as a batch for each and as one for both; also after an epoch of training."""
    script = tmp_path / "ranks.py"
    script.write_text(RANKS)
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script),
         *SETTINGS, "--data.root", str(tmp_path / "data"), "--data.classes", "3", "--trainer.devices", "2",
         "--trainer.strategy", "ddp", "--trainer.max_epochs", "1", "--trainer.default_root_dir", str(tmp_path / "run")],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        cwd=tmp_path, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    together = torch.load(tmp_path / "scores.pt")
    saved = ("--ckpt_path", str(last(tmp_path / "run")))
    for size in ("4", "2"):
        more = (*saved, "--data.batch_size", size)
        alone = hqfnet("validate", tmp_path / f"alone{size}", *more).trainer.callback_metrics
        for scores in together[size]:
            for name, value in alone.items():
                torch.testing.assert_close(scores[name.partition("/")[2]], value, rtol=1e-5, atol=0, equal_nan=True)
