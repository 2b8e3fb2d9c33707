"""Ablation, stability, zoo, and the benchmarks of the network."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from bench import scene, step
from hqfnet import ablation, stability, zoo
from hqfnet.layers import ResidualGate
from hqfnet.task import SegmentationTask

pytestmark = pytest.mark.usefixtures("threads")

SMALL = [
    "--config", "generated", "--data.train_scenes", "4", "--data.val_scenes", "2", "--data.size", "32",
    "--data.batch_size", "2", "--data.workers", "0", "--model.model", "hqfnet_tiny", "--trainer.accelerator", "cpu",
]  # fmt: skip


def test_variants_are_the_network_with_and_without_its_parts() -> None:
    switched_on = {
        name: {part for part in ("dmcaf", "qskip", "qmoe") if switches[part]}
        for name, switches in ablation.VARIANTS.items()
    }
    everything = {"dmcaf", "qskip", "qmoe"}
    assert switched_on == {
        "U-Net": set(), "+ DMCAF": {"dmcaf"}, "+ QSkip": {"qskip"}, "+ QMoE": {"qmoe"},
        "HQF-Net": everything, "classical twin": everything,
    }  # fmt: skip
    assert [name for name, switches in ablation.VARIANTS.items() if not switches["quantum"]] == ["classical twin"]


def test_ablation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--out", str(tmp_path), "--seeds", "2", "--threads", "1", *SMALL, "--trainer.max_epochs", "1"]
    chosen = ["--variants", "U-Net", "HQF-Net", "classical twin"]
    results = ablation.main([*chosen, *arguments])
    assert list(results) == ["U-Net", "HQF-Net", "classical twin"]
    assert all(len(runs) == 2 and all(run["steps"] == 2 for run in runs) for runs in results.values())
    parameters = [runs[0]["trained_parameters"] for runs in results.values()]
    assert parameters[0] < parameters[1] < parameters[2]
    assert results["U-Net"][0]["val/loss"] != results["U-Net"][1]["val/loss"]

    with (tmp_path / "ablation.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["variant"], row["seed"]) for row in rows] == [(name, seed) for name in results for seed in "01"]
    assert float(rows[3]["val/miou"]) == results["HQF-Net"][1]["val/miou"]
    text = (tmp_path / "ablation.md").read_text()
    scores = [run["val/miou"] for run in results["U-Net"]]
    mean, deviation = sum(scores) / 2, abs(scores[0] - scores[1]) / math.sqrt(2)
    assert f"| U-Net | {mean:.3f} ± {deviation:.3f} |" in text
    differences = [
        a["val/miou"] - b["val/miou"] for a, b in zip(results["HQF-Net"], results["classical twin"], strict=True)
    ]
    assert f"({differences[0]:+.3f}, {differences[1]:+.3f})" in text
    assert Image.open(tmp_path / "ablation.png").width > 500

    without = ["--out", str(tmp_path / "without"), *SMALL, "--model.model", "hq_unet"]
    with pytest.raises(SystemExit, match="hq_unet has no dmcaf and no qskip; choose --variants without it"):
        ablation.main(["--variants", "HQF-Net", *without])

    # Started again, nothing is trained twice; with other settings, nothing is mixed up.
    def refuse(*_: Any) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(ablation, "train_and_score", refuse)
    assert ablation.main([*chosen, *arguments]) == results
    with pytest.raises(SystemExit, match=r"U-Net-0\.json is of a study with other settings"):
        ablation.main([*chosen, *arguments, "--model.lr", "0.1"])
    for wrong in (["--seeds", "0"], ["--out", str(tmp_path / "ablation.md" / "x")]):
        with pytest.raises(SystemExit):
            ablation.main([*arguments, *wrong])
        assert wrong[0] in capsys.readouterr().err


def test_stability(tmp_path: Path) -> None:
    curves = stability.main(
        ["--out", str(tmp_path), "--seeds", "1", "--depths", "1", "3", "--steps", "4", "--threads", "1", *SMALL]
    )
    assert list(curves) == list(stability.STARTS)
    for start, by_depth in curves.items():
        assert list(by_depth) == [1, 3]
        for (run,) in by_depth.values():
            assert len(run["loss"]) == len(run["gradient"]) == 4
            assert all(math.isfinite(loss) for loss in run["loss"])
            assert (run["gradient"][0] == 0) == (start == "near identity")
            assert run["gradient"][1] > 0
    text = (tmp_path / "stability.md").read_text()
    assert f"| near identity | 3 | {curves['near identity'][3][0]['loss'][0]:.3f} |" in text
    assert Image.open(tmp_path / "stability.png").width > 500
    with pytest.raises(SystemExit, match="the network has no circuits"):
        stability.main(["--out", str(tmp_path / "twin"), *SMALL, "--model.quantum", "false"])


def test_a_run_that_rises_or_breaks_is_counted() -> None:
    good, bad, broken = ({"loss": [2.0, last], "gradient": [0.0, 1.0]} for last in (1.0, 3.0, math.nan))
    row = stability.table({"anywhere": {2: [good, bad, broken]}}).splitlines()[-1]
    assert "| 2 of 3 |" in row


def test_beginning_anywhere() -> None:
    torch.manual_seed(0)
    task = SegmentationTask("hqfnet_tiny", 3, pretrained=False, dmcaf=False)
    stability.begin_anywhere(task)
    angles = torch.cat([p.flatten() for circuit in task.circuits.values() for p in circuit.parameters()])
    assert 2.5 < angles.abs().max() < math.pi
    gates = [module.gate for module in task.modules() if isinstance(module, ResidualGate)]
    assert len(gates) == 4
    assert all((gate == 1).all() for gate in gates)


def test_zoo_names_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for wrong in ("--size=0", "--batch-size=0", "--rounds=-1", "--threads=0", f"--out={tmp_path}/no/zoo.md"):
        with pytest.raises(SystemExit):
            zoo.main(["--models", "hq_unet", wrong])
        assert f"error: {wrong.partition('=')[0]}: " in capsys.readouterr().err


def test_zoo(tmp_path: Path) -> None:
    text = zoo.main(
        ["--models", "hq_unet", "--size", "32", "--rounds", "1", "--threads", "1", "--out", str(tmp_path / "z")]
    )
    trained = sum(p.numel() for p in SegmentationTask("hq_unet", pretrained=False).parameters())
    lines = text.splitlines()
    assert lines[-2].startswith(f"| `hq_unet` | {trained:,} | 16 | 0 | ")
    assert lines[-1].startswith("| `hq_unet`, twin |")
    assert (tmp_path / "z").read_text() == text
    assert "ms per step" not in zoo.main(["--models", "hq_unet", "--rounds", "0"])


def test_step_benchmark(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "step.json"
    options = ["--model", "hq_unet", "--size", "32", "--batch-size", "1", "--rounds", "2", "--json", str(path)]
    step.main(options)
    readings = json.loads(path.read_text())["seconds_per_step"]
    assert all(len(values) == 2 and min(values) > 0 for values in readings.values())
    assert all(a < b for a, b in zip(readings["circuits"], readings["network with timer"], strict=True))
    assert step.quotients({"a": [1.0, 9.0], "b": [2.0, 3.0]}, "a", "b") == [0.5, 3.0]
    with pytest.raises(SystemExit):
        step.main(options)
    assert "not overwritten" in capsys.readouterr().err
    step.main(["--report", str(path)])
    assert "| circuits / step |" in capsys.readouterr().out


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads the peak from Linux's /proc")
def test_scene_benchmark(tmp_path: Path) -> None:
    path = tmp_path / "scene.json"
    scene.main(["--model", "hq_unet", "--side", "700", "--window", "256", "--probabilities", "--json", str(path)])
    run = json.loads(path.read_text())
    assert run["peak"] > 2**20
    assert run["side"] == 700
