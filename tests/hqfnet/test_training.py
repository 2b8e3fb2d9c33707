"""Training as a whole: logs, checkpoints, going on after kill -9, several processes, mixed precision."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hqfnet.callbacks import LastCheckpoint, PredictionPictures, WholeCheckpoints
from hqfnet.checkpoint import check_architecture, read_checkpoint
from hqfnet.cli import HQFNetCLI, main
from hqfnet.data.crops import Sample
from hqfnet.task import SegmentationTask, load_task

ROOT = Path(__file__).parents[2]
STEPS_PER_EPOCH = 6
SETTINGS = [
    "--config", "generated", "--data.train_scenes", "12", "--data.val_scenes", "3", "--data.size", "32",
    "--data.batch_size", "2", "--data.workers", "0", "--trainer.accelerator", "cpu", "--trainer.log_every_n_steps", "1",
    "--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false", "--seed_everything", "3",
]  # fmt: skip
RESUMED = [
    *SETTINGS, "--trainer.max_epochs", "3", "--last_checkpoint.every_n_steps", "4", "--model.model", "hq_unet",
    "--pictures.every_n_epochs", "9", "--data.train_scenes", "16",
    "--trainer.limit_train_batches", str(STEPS_PER_EPOCH),
]  # fmt: skip

DYING = """
import os, signal, sys
import torch
from hqfnet.cli import main
from hqfnet.task import SegmentationTask

step = SegmentationTask.training_step
def dying(self, batch, batch_idx):
    batch["image"] = batch["image"] + 0.1 * torch.rand(())
    loss = step(self, batch, batch_idx)
    if self.global_step == 9:
        os.kill(os.getpid(), signal.SIGKILL)
    return loss
SegmentationTask.training_step = dying
torch.set_num_threads(1)
main()
"""

RANK = """
import os, sys
import torch
from hqfnet.cli import main
from hqfnet.task import SegmentationTask

step = SegmentationTask.training_step
def recording(self, batch, batch_idx):
    self.seen = {"batch": batch, "weights": {k: v.clone() for k, v in self.state_dict().items()}}
    return step(self, batch, batch_idx)
def saving(self, optimizer):
    self.seen["gradients"] = {k: p.grad.clone() for k, p in self.named_parameters() if p.grad is not None}
    torch.save(self.seen, os.path.join(os.environ["SEEN"], f"{self.global_rank}.pt"))
SegmentationTask.training_step = recording
SegmentationTask.on_before_optimizer_step = saving
torch.set_num_threads(1)
main()
"""

pytestmark = pytest.mark.usefixtures("threads")


@pytest.fixture
def fit(monkeypatch: pytest.MonkeyPatch) -> Callable[..., HQFNetCLI]:
    """``hqfnet fit`` in a folder of its own."""

    def run(root: Path, *arguments: str) -> HQFNetCLI:
        monkeypatch.setattr(sys, "argv", ["hqfnet", "fit", *arguments, "--trainer.default_root_dir", str(root)])
        return main()

    return run


def environment(**variables: str) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | variables


def logged(root: Path) -> dict[tuple[int, str], str]:
    """(step, name) -> value as written."""
    (path,) = root.rglob("metrics.csv")
    with path.open() as file:
        rows = list(csv.DictReader(file))
    return {
        (int(row["step"]), name): value
        for row in rows
        for name, value in row.items()
        if value and name not in ("step", "epoch")
    }


def assert_same_course(whole: HQFNetCLI, resumed: HQFNetCLI, start: int) -> None:
    """From step ``start`` on, everything that was logged is equal to the last digit, and so are the final weights."""
    assert resumed.trainer.global_step == 3 * STEPS_PER_EPOCH
    curve, again = (logged(Path(run.trainer.default_root_dir)) for run in (whole, resumed))
    assert {step for step, name in again if name == "train/loss"} == set(range(start, 3 * STEPS_PER_EPOCH))
    assert {name for _, name in again} >= {"train/loss", "train/lr", "val/loss", "val/miou", "grad_norm/quantum"}
    assert again == {key: value for key, value in curve.items() if key[0] >= start}
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(weight, resumed.model.state_dict()[name]), name


def test_goes_on_bit_for_bit(tmp_path: Path, fit: Callable[..., HQFNetCLI], monkeypatch: pytest.MonkeyPatch) -> None:
    """After kill -9 in mid-epoch, and after an error when the latest checkpoint is that of a whole epoch.

    Training draws on the global generator as well, besides order and augmentation.
    """
    training_step = SegmentationTask.training_step
    fails_at = -1

    def noisy(self: SegmentationTask, batch: Sample, batch_idx: int) -> torch.Tensor:
        if self.global_step == fails_at:
            raise OSError("the disk is gone")
        return training_step(self, {**batch, "image": batch["image"] + 0.1 * torch.rand(())}, batch_idx)

    monkeypatch.setattr(SegmentationTask, "training_step", noisy)
    whole = fit(tmp_path / "whole", *RESUMED)
    killed = subprocess.run(
        [sys.executable, "-c", DYING, "fit", *RESUMED, "--trainer.default_root_dir", str(tmp_path / "killed")],
        env=environment(), cwd=tmp_path, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-3000:]
    (last,) = (tmp_path / "killed").rglob("last.ckpt")
    start = read_checkpoint(last)["global_step"]
    assert start == 8
    assert start % STEPS_PER_EPOCH
    assert_same_course(whole, fit(tmp_path / "resumed", *RESUMED, "--ckpt_path", str(last)), start)

    fails_at = 7
    with pytest.raises(OSError, match="the disk is gone"):
        fit(tmp_path / "failed", *RESUMED)
    fails_at = -1
    (last,) = (tmp_path / "failed").rglob("last.ckpt")
    assert read_checkpoint(last)["global_step"] == STEPS_PER_EPOCH
    assert_same_course(whole, fit(tmp_path / "again", *RESUMED, "--ckpt_path", str(last)), STEPS_PER_EPOCH)


def test_what_a_training_leaves(tmp_path: Path, fit: Callable[..., HQFNetCLI]) -> None:
    trained = fit(tmp_path, *SETTINGS, "--trainer.max_epochs", "2")
    assert isinstance(trained.trainer.strategy.checkpoint_io, WholeCheckpoints)
    (folder,) = tmp_path.iterdir()
    assert folder.name == "version_0"
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    assert {path.name for path in (folder / "predictions").iterdir()} == {"step-000006.png", "step-000012.png"}
    (events,) = folder.glob("events.out.tfevents.*")
    assert b"predictions" in events.read_bytes()
    values = logged(tmp_path)
    rates = [float(values[step, "train/lr"]) for step in range(12)]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] == pytest.approx(1e-3)
    assert rates[6] == pytest.approx(5e-4)
    # Closed gates let nothing through in the first step; then every circuit learns.
    circuits = {name for _, name in values if name.startswith("grad_norm/") and name.endswith("circuit")}
    assert len(circuits) == 3
    for name in (*circuits, "grad_norm/quantum"):
        assert float(values[0, name]) == 0
        assert float(values[1, name]) > 0
    assert float(values[1, "grad_norm/model"]) > float(values[1, "grad_norm/quantum"])
    assert 1 <= float(values[1, "train/load_balance"]) <= 3

    last, features = str(folder / "checkpoints" / "last.ckpt"), tmp_path / "features"
    again = ("--ckpt_path", last, "--trainer.max_epochs", "2", "--model.feature_cache", str(features))
    assert fit(tmp_path / "again", *SETTINGS, *again).model.model.backbone.cache.folder == features


def test_a_checkpoint_that_is_not_finished_leaves_the_previous_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half(checkpoint: Any, path: Path) -> None:
        path.write_bytes(b"half a checkpoint")
        raise OSError("no space left on device")

    path = tmp_path / "checkpoints" / "last.ckpt"
    WholeCheckpoints().save_checkpoint({"step": 1}, path)
    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(OSError, match="no space left"):
        WholeCheckpoints().save_checkpoint({"step": 2}, path)
    assert torch.load(path) == {"step": 1}


def test_a_trial_run_leaves_nothing(tmp_path: Path, fit: Callable[..., HQFNetCLI]) -> None:
    fit(tmp_path, *SETTINGS, "--model.model", "hq_unet", "--trainer.fast_dev_run", "true")
    assert not list(tmp_path.iterdir())


def test_gradient_norms_are_of_unclipped_gradients() -> None:
    torch.manual_seed(0)
    task = SegmentationTask("hqfnet_tiny", 3, pretrained=False, dmcaf=False)
    logged_values: dict[str, Any] = {}
    task.log_dict = logged_values.update  # type: ignore[method-assign, assignment]
    for parameter in task.parameters():
        parameter.grad = torch.full_like(parameter, 2.0)
    task.on_before_optimizer_step(torch.optim.SGD(task.parameters()))
    weights = sum(p.numel() for p in task.parameters())
    circuits = sum(p.numel() for circuit in task.circuits.values() for p in circuit.parameters())
    assert float(logged_values["grad_norm/model"]) == pytest.approx(2 * weights**0.5, rel=1e-5)
    assert float(logged_values["grad_norm/quantum"]) == pytest.approx(2 * circuits**0.5, rel=1e-5)
    assert len(logged_values) == 2 + len(task.circuits)


def test_early_stopping(tmp_path: Path, fit: Callable[..., HQFNetCLI]) -> None:
    stopping = ("--early_stopping.patience", "1", "--early_stopping.min_delta", "2", "--trainer.max_epochs", "9")
    stopped = fit(tmp_path, *SETTINGS, *stopping, "--model.model", "hq_unet")
    assert stopped.trainer.current_epoch == 2


def test_mixed_precision_and_accumulated_gradients(tmp_path: Path, fit: Callable[..., HQFNetCLI]) -> None:
    """bfloat16 loses digits, not the way; the latest checkpoint is never taken between gradients that add up."""
    full = fit(tmp_path / "full", *SETTINGS, "--trainer.max_epochs", "1")
    assert full.trainer.gradient_clip_val == 1.0
    settings = ("--trainer.precision", "bf16-mixed", "--trainer.max_epochs", "1")
    fit(tmp_path / "mixed", *SETTINGS, *settings)
    losses = [[float(logged(tmp_path / name)[step, "train/loss"]) for step in range(6)] for name in ("full", "mixed")]
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)


def test_a_few_batches_may_be_overfitted(tmp_path: Path, fit: Callable[..., HQFNetCLI]) -> None:
    settings = ("--model.model", "hq_unet", "--trainer.overfit_batches", "1", "--trainer.max_steps", "2")
    assert fit(tmp_path, *SETTINGS, *settings).trainer.global_step == 2


def test_last_checkpoint_waits_for_whole_steps(tmp_path: Path) -> None:
    class Trainer:
        global_step, is_last_batch, log_dir, saved, fast_dev_run = 0, False, str(tmp_path), 0, False

        def save_checkpoint(self, path: Path, weights_only: bool) -> None:
            assert not weights_only
            assert path == tmp_path / "checkpoints" / "last.ckpt"
            self.saved += 1

    trainer: Any = Trainer()
    callback = LastCheckpoint(every_n_steps=2)
    for step, last, saved in ((0, False, 0), (1, False, 0), (2, False, 1), (2, False, 1), (3, False, 1), (4, True, 1)):
        trainer.global_step, trainer.is_last_batch = step, last
        callback.on_train_batch_end(trainer, None, None, None, 0)  # type: ignore[arg-type]
        assert trainer.saved == saved
    callback.on_train_epoch_end(trainer, None)  # type: ignore[arg-type]
    assert trainer.saved == 2
    with pytest.raises(ValueError, match="every_n_steps: expected at least 1 step, got 0"):
        LastCheckpoint(0)
    with pytest.raises(ValueError, match="tiles, every_n_epochs: expected at least 1 of each, got 4 and 0"):
        PredictionPictures(every_n_epochs=0)


def test_two_processes_give_the_gradients_of_one(tmp_path: Path) -> None:
    """DDP on gloo, started by torchrun as documented: the mean of the gradients of both processes' batches."""
    settings = [*SETTINGS, "--trainer.devices", "2", "--trainer.strategy", "ddp", "--trainer.max_epochs", "1"]
    script = tmp_path / "rank.py"
    script.write_text(RANK)
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script), "fit",
         *settings, "--trainer.default_root_dir", str(tmp_path / "run"), "--data.train_scenes", "4"],
        env=environment(SEEN=str(tmp_path)), cwd=tmp_path, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(list((tmp_path / "run" / "version_0").rglob("step-000001.png"))) == 1
    assert (tmp_path / "run" / "version_0" / "checkpoints" / "last.ckpt").is_file()
    ranks: list[dict[str, Any]] = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    assert not torch.equal(ranks[0]["batch"]["image"], ranks[1]["batch"]["image"])

    task = SegmentationTask("hqfnet_tiny", 5, pretrained=False)
    total: dict[str, torch.Tensor] = {}
    for rank in ranks:
        task.load_state_dict(rank["weights"])
        task.zero_grad()
        batch: Sample = rank["batch"]
        task.train().loss(batch)[0].backward()
        for name, parameter in task.named_parameters():
            if parameter.grad is not None:
                total[name] = total.get(name, torch.zeros(())) + parameter.grad / 2
    for rank in ranks:
        assert rank["gradients"].keys() == total.keys()
        for name, gradient in total.items():
            torch.testing.assert_close(rank["gradients"][name], gradient, rtol=1e-5, atol=1e-8, msg=name)


@pytest.fixture
def trained(tmp_path: Path, fit: Callable[..., HQFNetCLI]) -> Path:
    fit(tmp_path / "trained", *SETTINGS, "--trainer.max_epochs", "1", "--model.model", "hq_unet")
    (last,) = (tmp_path / "trained").rglob("last.ckpt")
    return last


def test_checkpoints_that_do_not_fit(
    trained: Path, tmp_path: Path, fit: Callable[..., HQFNetCLI], monkeypatch: pytest.MonkeyPatch
) -> None:
    task = load_task(trained)
    assert not task.training
    assert task.classes.names[0] == "field"
    with pytest.raises(ValueError, match=r"another network: model=hq_unet, .* where model=hqfnet_tiny, .* was asked"):
        fit(tmp_path / "no", *SETTINGS, "--ckpt_path", str(trained), "--model.qskip", "false")
    with pytest.raises(ValueError, match="max_epochs, max_steps: the learning rate needs an end to fall to"):
        fit(tmp_path / "endless", *SETTINGS, "--model.model", "hq_unet", "--trainer.max_epochs", "-1")
    with pytest.raises(ValueError, match="checkpoint: there is no file .*no.ckpt"):
        fit(tmp_path / "no", *SETTINGS, "--ckpt_path", str(tmp_path / "no.ckpt"))
    content = read_checkpoint(trained)
    other = SegmentationTask("hq_unet", 4, pretrained=False, depth=3)
    before = {name: weight.clone() for name, weight in other.state_dict().items()}
    with pytest.raises(ValueError, match="num_classes=5, depth=None where num_classes=4, depth=3 was asked for"):
        other.on_load_checkpoint(content)
    assert all(torch.equal(weight, before[name]) for name, weight in other.state_dict().items())
    check_architecture(content, task.hparams)

    torch.save(content | {"hqfnet": {"format": 2, "version": "9.1"}}, tmp_path / "newer.ckpt")
    with pytest.raises(ValueError, match=r"newer\.ckpt has format 2 \(hqfnet 9\.1\), but this is .* reads format 1"):
        load_task(tmp_path / "newer.ckpt")
    (tmp_path / "half.ckpt").write_bytes(trained.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"half\.ckpt cannot be read as one"):
        load_task(tmp_path / "half.ckpt")
    assert not (tmp_path / "no").exists()
