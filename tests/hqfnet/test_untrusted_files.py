"""Files from outside: checkpoints, features, archives and results of studies are data, which nothing runs."""

from __future__ import annotations

import os
import pickle
import shutil
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from hqfnet import checkpoint as ckpt
from hqfnet.cli import main
from hqfnet.data.published import OpenEarthMapData
from hqfnet.feature_cache import FeatureCache
from hqfnet.study import kept
from hqfnet.task import SegmentationTask, load_task

REFUSED = "it is damaged, or holds other objects than tensors and settings, which are refused because they could run"


class Trap:
    """A pickle of this makes a folder when it is read."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        return os.mkdir, (str(self.mark),)


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """What the trap makes; the trap works."""
    pickle.loads(pickle.dumps(Trap(tmp_path / "sprung")))
    (tmp_path / "sprung").rmdir()
    return tmp_path / "sprung"


@pytest.fixture(scope="module")
def content() -> dict[str, Any]:
    """What a checkpoint holds, apart from the state of the training."""
    task = SegmentationTask("hq_unet", 3, pretrained=False)
    return {ckpt.KEY: ckpt.stamp(), "hyper_parameters": dict(task.hparams), "state_dict": task.state_dict()}


@pytest.mark.parametrize(
    ("command", "form"),
    [
        ("predict", "zip"),
        ("predict", "legacy"),
        ("predict", "pickle"),
        ("fit", "zip"),
        ("validate", "zip"),
        ("test", "zip"),
    ],
)
def test_checkpoints_run_no_code(
    command: str,
    form: str,
    content: dict[str, Any],
    mark: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    evil = tmp_path / "evil.ckpt"
    if form == "pickle":
        evil.write_bytes(pickle.dumps(content | {"callbacks": Trap(mark)}))
    else:
        torch.save(content | {"callbacks": Trap(mark)}, evil, _use_new_zipfile_serialization=form == "zip")
    runs = ["--config", "generated", "--ckpt_path", str(evil), "--trainer.default_root_dir", str(tmp_path / "runs")]
    scene = [str(tmp_path / "scene.tif"), "-o", str(tmp_path / "ids.tif"), "--checkpoint", str(evil)]
    (tmp_path / "scene.tif").touch()
    monkeypatch.setattr(sys, "argv", ["hqfnet", command, *(scene if command == "predict" else runs)])
    with pytest.raises((SystemExit, ValueError)) as refusal:
        main()
    said = capsys.readouterr().err + str(refusal.value)
    assert f"checkpoint: {evil} cannot be read as one: {REFUSED}" in said
    assert not mark.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["evil.ckpt", "scene.tif"]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"hyper_parameters": {"pretrained": True}}, "asks for files"),
        ({"hyper_parameters": {"feature_cache": "features"}}, "asks for files"),
        ({"hyper_parameters": {"evil": 1}}, "cannot be made again: .*evil"),
        ({"hyper_parameters": {"model": "../other"}}, "cannot be made again: .*other"),
        ({"hyper_parameters": None}, "was not written by hqfnet"),
        ({"state_dict": {}}, "cannot be made again: .*Missing key"),
        ({ckpt.KEY: 7}, "was not written by hqfnet"),
        ({ckpt.KEY: {}}, "was not written by hqfnet"),
    ],
)
def test_forged_checkpoints_are_refused(
    change: dict[str, Any], complaint: str, content: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    forged = content | change
    if change.get("hyper_parameters"):
        forged["hyper_parameters"] = content["hyper_parameters"] | change["hyper_parameters"]
    torch.save(forged, "forged.ckpt")
    with pytest.raises(ValueError, match=rf"(?s)checkpoint: .*forged\.ckpt.*{complaint}"):
        load_task("forged.ckpt")
    assert os.listdir() == ["forged.ckpt"]


def test_lightning_instantiators_are_not_called(content: dict[str, Any], tmp_path: Path) -> None:
    settings = content["hyper_parameters"] | {"_instantiator": "os.mkdir"}
    torch.save(content | {"hyper_parameters": settings}, tmp_path / "named.ckpt")
    assert isinstance(load_task(tmp_path / "named.ckpt"), SegmentationTask)


def test_features_run_no_code(mark: Path, tmp_path: Path) -> None:
    cache, key = FeatureCache(tmp_path / "features"), "ab" * 32
    cache.store(key, [torch.zeros(2)])
    (entry,) = (path for path in cache.folder.rglob("*") if path.is_file())
    torch.save({"0": Trap(mark)}, entry)
    with pytest.warns(UserWarning, match="damaged and removed"):
        assert cache.load(key) is None
    assert not mark.exists()
    assert not entry.exists()


def test_archives_stay_in_their_folder(openearthmap: Path, tmp_path: Path) -> None:
    root = tmp_path / "deep" / "data"
    root.mkdir(parents=True)
    shutil.make_archive(str(root / "OpenEarthMap"), "zip", openearthmap)
    with zipfile.ZipFile(root / "OpenEarthMap.zip", "a") as archive:
        archive.writestr("../../outside.txt", "")
        archive.writestr(str(tmp_path / "absolute.txt"), "")
    OpenEarthMapData(str(root)).prepare_data()
    assert (root / "OpenEarthMap_wo_xBD" / "train.txt").is_file()
    assert all(root in path.parents for path in tmp_path.rglob("*.txt") if openearthmap not in path.parents)


@pytest.mark.parametrize("text", ['{"settings": {"seed": 1}, "resu', '{"settings": {"seed": 1}}', "[]"])
def test_damaged_results_of_studies_are_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(SystemExit, match=r"--out: .*run\.json is damaged; delete it"):
        kept(tmp_path / "run.json", {"seed": 1}, lambda: {"miou": 0.5})
    for score in (0.5, 0.7):  # the second time it is read
        assert kept(tmp_path / "new.json", {"seed": 1}, lambda s=score: {"miou": s}) == {"miou": 0.5}  # type: ignore[misc]
