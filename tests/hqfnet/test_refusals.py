"""What a user sees of wrong input: one line with exit status 2, whatever the command; of a bug, its traceback."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.exceptions import SIGTERMException

from hqfnet import cli
from hqfnet.refusals import in_one_line, refusal
from hqfnet.task import SegmentationTask
from hqfnet.twin import patch_experts

pytestmark = pytest.mark.usefixtures("threads")


@pytest.fixture
def refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """What ``hqfnet`` says last when it ends with status 2."""

    def run(command: str, *arguments: str) -> str:
        common = (
            "--config=folder", "--data.root", str(folder), "--data.classes", "3", "--data.ignore_ids", "[9,255]",
            "--data.crop", "32", "--data.batch_size", "2", "--data.workers", "0", "--model.model", "hq_unet",
            "--trainer.accelerator", "cpu", "--trainer.max_epochs", "1", "--trainer.logger", "false",
            "--trainer.num_sanity_val_steps", "0",
            "--trainer.enable_progress_bar", "false", "--trainer.default_root_dir", str(tmp_path / "runs"),
        )  # fmt: skip
        own = () if command == "predict" else common
        monkeypatch.setattr(sys, "argv", ["hqfnet", *command.split(), *own, *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.console()
        assert ended.value.code == 2
        said = capsys.readouterr().err
        assert "Traceback" not in said
        lines = said.rstrip().splitlines()
        if command == "predict":  # a training tells more
            assert len(lines) == 1
        return lines[-1]

    return run


def test_wrong_data(folder: Path, tmp_path: Path, refused: Callable[..., str]) -> None:
    studies = (f"ablation --out {tmp_path}/a --seeds 1 --variants U-Net", f"stability --out {tmp_path}/s --depths 1")
    (folder / "val.txt").write_text("c\nd\n")
    for command in ("fit", studies[0]):
        assert refused(command) == f"error: {folder}/val.txt: 'd' has no image in {folder}/images"
    (folder / "val.txt").write_text("c\n")
    wrong = f"error: {folder}/masks/a.png: class id(s) [9] are out of range: expected 0 to 2, or an ignored id"
    (folder / "train.txt").write_text("a\n")
    for command, workers in (("fit", "0"), ("fit", "1"), (studies[1], "0")):
        assert refused(command, "--data.ignore_ids", "[255]", "--data.workers", workers) == wrong
    for setting, value, said in (
        ("data.root", str(tmp_path / "no"), f"{tmp_path}/no: there is no such folder"),
        ("data.classes", "no.json", "classes: 'no.json' is neither a file nor the name of a shipped class list"),
        ("data.crop", "0", "crop: expected at least 1 pixel, got 0"),
        ("data.batch_size", "0", "batch_size, workers: expected at least 1 sample and 0 processes, got 0 and 0"),
        ("model.model", "unet", "name: unknown model 'unet', expected one of hqfnet_tiny, hqfnet_small, hqfnet_base"),
        ("model.lr", "-1", "lr: expected a number of at least 0, got -1.0"),
        ("trainer.precision", "16-true", "trainer.precision: '16-true' keeps weights and statistics in 16 bits"),
        ("trainer.devices", "0", "`Trainer(devices='0')` value is not a valid input"),
        ("trainer.strategy", "no", "You selected an invalid strategy name: `strategy='no'`"),
        ("seed_everything", "-1", "-1 is not in bounds"),
        ("ckpt_path", str(tmp_path / "no.ckpt"), f"checkpoint: there is no file {tmp_path}/no.ckpt"),
        ("model.rate", "1", "unrecognized arguments: --model.rate 1"),
    ):
        assert refused("fit", f"--{setting}", value).startswith(f"error: {said}")
    for command in ("validate", "test"):
        assert refused(command) == f"error: --ckpt_path: `hqfnet {command}` needs the checkpoint of a training to score"
    predict = ("predict", str(folder / "images" / "a.png"), "-o", str(tmp_path / "a.png"), "--checkpoint")
    assert refused(*predict, "no.ckpt") == "error: checkpoint: there is no file no.ckpt"


def test_a_full_disk(refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(content: object, path: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(torch, "save", full)
    assert refused("fit").startswith("error: [Errno 28] No space left on device: ")


@pytest.mark.parametrize("error", [ValueError("wrong"), KeyError("wrong"), RuntimeError("wrong")])
def test_a_bug_keeps_its_traceback(
    error: Exception, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, refused: Callable[..., str]
) -> None:
    def training_step(self: SegmentationTask, batch: object, batch_idx: int) -> None:
        raise error

    monkeypatch.setattr(SegmentationTask, "training_step", training_step)
    with pytest.raises(type(error), match="wrong"):
        refused("fit")


def test_what_is_a_refusal() -> None:
    def caught(work: Callable[[], object]) -> Exception:
        with pytest.raises(Exception) as error:  # noqa: PT011 - any
            work()
        return error.value

    assert refusal(caught(lambda: SegmentationTask("no"))) is not None
    assert refusal(MisconfigurationException("no such device")) == "no such device"
    # Made in our code, but not on purpose; and by torch, of whatever it was given.
    assert refusal(caught(lambda: patch_experts(3, 1, 2, 1, True))) is None  # type: ignore[arg-type]
    assert refusal(caught(lambda: torch.nn.BatchNorm2d(2)(torch.zeros(1, 2, 1, 1)))) is None
    assert refusal(caught(lambda: torch.zeros(2) @ torch.zeros(3))) is None
    worker = "Caught ValueError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n"
    of_torch = f'  File "{torch.__file__}", line 1, in f\n    x\nValueError: no'
    assert refusal(ValueError(worker + of_torch)) is None


def test_other_ends_stay_what_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    for error, code in ((SystemExit(3), 3), (SIGTERMException(), None), (SystemExit("--out:  a  b\n  no"), 2)):
        with pytest.raises(SystemExit) as ended, in_one_line():
            raise error
        assert ended.value.code == code
    assert capsys.readouterr().err == "error: --out:  a  b no\n"
    with in_one_line():
        pass
