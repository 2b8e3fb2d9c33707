"""The regression gate: its statistics, its verdicts, and how it talks to workers."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from bench import kernels, regress

THRESHOLD = 0.05
FAKE = """
import json, random, sys
random.seed({seed})
for line in sys.stdin:
    request = json.loads(line)
    if "where" in request:
        reply = {{"file": {file!r}}}
    elif "prepare" in request:
        reply = {{"error": "no such engine"}} if "unitary" in request["prepare"] else {{"repeats": 3}}
    elif "time" in request:
        assert request["repeats"] == 3
        reply = {{"ns": {ns} * random.uniform(0.99, 1.01)}}
    print(json.dumps(reply), flush=True)
"""
"""A worker that answers at once."""


def _ratios(centre: float, noise: float = 0.03, launches: int = 5, rounds: int = 7) -> list[list[float]]:
    rng = np.random.default_rng(1)
    return [list(centre * np.exp(noise * rng.standard_normal(rounds))) for _ in range(launches)]


@pytest.mark.parametrize("centre", [0.8, 1.0, 1.2])
def test_the_interval_holds_the_ratio(centre: float) -> None:
    low, median, high = regress.interval(_ratios(centre))
    assert low < centre < high
    assert low <= median <= high
    assert high / low < 1.08


def test_the_interval_covers_as_often_as_it_says() -> None:
    rng = np.random.default_rng(2)
    covered = 0
    for _ in range(40):
        # Processes differ by 5 %, rounds within them by 1 %: a bootstrap of rounds alone would be far too sure.
        launches = [np.exp(0.05 * rng.standard_normal() + 0.01 * rng.standard_normal(7)) for _ in range(5)]
        low, _, high = regress.interval([list(rounds) for rounds in launches])
        covered += low < 1 < high
    assert covered >= 36


def test_processes_that_differ_widen_the_interval() -> None:
    low, _, high = regress.interval([[1.0] * 20, [1.3] * 20])
    assert low == pytest.approx(1.0)
    assert high == pytest.approx(1.3)


@pytest.mark.parametrize(
    ("low", "high", "instructions", "expected"),
    [
        (1.06, 1.2, None, "slower"),
        (1.06, 1.2, 0.9, "slower"),  # what is measured beyond doubt needs no counts
        (1.04, 1.2, None, "unclear"),
        (1.04, 1.2, 1.06, "slower"),
        (1.04, 1.2, 1.0, "same"),
        (0.98, 1.02, 1.5, "same"),  # more instructions in the same time
        (0.7, 0.9, 1.5, "faster"),
        (0.7, 1.02, 1.5, "unclear"),
        (0.7, 1.02, 0.5, "unclear"),
    ],
)
def test_verdict(low: float, high: float, instructions: float | None, expected: str) -> None:
    assert regress.verdict(low, high, instructions, THRESHOLD) == expected


def test_instructions_of_the_library_alone_are_summed() -> None:
    text = """version: 1
events: Ir
desc: Trigger: Client Request: gate
ob=(1) /usr/lib/python
fn=(1) eval
0 1000
cob=(2) /site/hqfkernels/_C.so
cfn=(2) forward
calls=1 0
0 600
ob=(2)
fn=(2)
0 500
+3 50
cob=(1)
cfn=(3) malloc
calls=2 0
* 40
0 10
totals: 1600
"""
    assert regress.instructions_in(text, "/hqfkernels/_C.") == 560


def _sites(folder: Path, base: float, head: float) -> dict[str, Path]:
    sites = {}
    for seed, (name, ns) in enumerate({"base": base, "head": head}.items()):
        site = sites[name] = folder / f"{name}.site"
        (site / "bench").mkdir(parents=True)
        (site / "bench" / "__init__.py").touch()
        file = str(site / "hqfkernels" / "__init__.py")
        (site / "bench" / "kernels.py").write_text(FAKE.format(seed=seed, file=file, ns=ns))
    return sites


@pytest.mark.parametrize(("base", "head", "status"), [(100.0, 100.0, 0), (100.0, 120.0, 1), (120.0, 100.0, 0)])
def test_the_gate_closes_when_something_is_slower(
    base: float,
    head: float,
    status: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    sites = _sites(tmp_path, base, head)
    monkeypatch.setattr(regress, "git", lambda *arguments: b"abc\n")
    for name in ("export_commit", "export_working_tree", "build"):
        monkeypatch.setattr(regress, name, lambda *arguments: None)
    monkeypatch.setattr(regress, "site", lambda tree: sites[tree.name])
    path = tmp_path / "run.json"
    arguments = ["main", "--launches", "2", "--rounds", "3", "--no-counts", "--json", str(path)]
    if status:
        with pytest.raises(SystemExit, match="1"):
            regress.main([*arguments, "--kernels", "fourier", "unitary"])
    else:
        regress.main([*arguments, "--kernels", "fourier", "unitary"])
    run = json.loads(path.read_text())
    assert set(run["ratios"]) == {name for name in kernels.KERNELS if "fourier" in name}
    assert all(len(launches) == 2 and len(launches[0]) == 3 for launches in run["ratios"].values())
    printed = capsys.readouterr().out
    assert {100.0 / 100: "same", 120 / 100: "**slower**", 100 / 120: "**faster**"}[head / base] in printed
    assert (
        "| unitary n=6 L=12 B=2048 |  |  |  | cannot run: base: no such engine; working tree: no such engine |"
        in printed
    )


def test_a_worker_that_imports_another_library_is_refused(tmp_path: Path) -> None:
    site = _sites(tmp_path, 1.0, 1.0)["base"]
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "bench").symlink_to(site / "bench")
    with pytest.raises(RuntimeError, match=f"imported hqfkernels from {site}"):
        regress.Worker(elsewhere)


def test_kernels_answer_and_say_what_fails() -> None:
    steps: dict[str, kernels.Step] = {}
    name = "propagation n=8 L=2 B=16"
    assert kernels.answer({"prepare": name}, steps)["repeats"] >= 1
    assert kernels.answer({"time": name, "repeats": 1}, steps)["ns"] > 0
    with pytest.raises(ValueError, match="engine"):
        kernels._circuit("abacus", 2, 2, 4)()


def test_the_working_tree_is_taken_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "root"
    (root / "csrc").mkdir(parents=True)
    for name, text in {".gitignore": "built", "csrc/a.cpp": "1", "built": "x", "setup.py": "", "gone": ""}.items():
        (root / name).write_text(text)
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run([*git, *command], cwd=root, check=True)
    (root / "csrc" / "a.cpp").write_text("2")
    (root / "fresh").write_text("")
    (root / "gone").unlink()
    monkeypatch.setattr(regress, "ROOT", root)
    monkeypatch.setattr(regress, "NATIVE", ("setup.py",))
    base, head = tmp_path / "base", tmp_path / "head"
    regress.export_commit("HEAD", base)
    regress.export_working_tree(head)
    assert {path.name for path in base.iterdir()} == {".gitignore", "csrc", "setup.py", "gone"}
    assert {path.name for path in head.iterdir()} == {".gitignore", "csrc", "setup.py", "fresh"}
    assert (head / "csrc" / "a.cpp").read_text() == "2"
    assert regress.key(base) != regress.key(head)
    (head / "csrc" / "a.cpp").write_text("1")
    assert regress.key(base) == regress.key(head)
