"""`bench.peers`: no number without agreement, no peer stops the others, and results that can be read."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import TextIO

import numpy as np
import pytest
import torch

from bench.cases import OURS, Case, Step
from bench.peers import __main__ as driver
from bench.peers import environments, report
from bench.peers.adapters import handwritten, hqfkernels
from bench.peers.client import Client, PeerError
from bench.peers.measure import Settings, measure
from bench.peers.registry import PEERS, Peer
from tests import fake_peers

CASE = Case(2, 2, 32)


def fake(name: str, batched: bool = True) -> Peer:
    return Peer(name, f"tests.fake_peers:{name}", None, batched)


def settings(folder: Path, budget: float = 10, rounds: int = 2) -> Settings:
    return Settings(rounds, 1, budget, 20, folder)


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> dict:
    names = ("right", "wrong_weight_gradients", "one_value_for_all", "refuses", "ends", "ends_later", "several")
    return measure(CASE, [fake(name) for name in names], settings(tmp_path_factory.mktemp("peers"), rounds=4))


def test_only_those_that_agree_have_numbers(result: dict) -> None:
    assert {name for name, f in result["failures"].items() if f["why"] == "disagrees"} == {
        "wrong_weight_gradients",
        "one_value_for_all",
    }
    assert "weight gradients differ" in result["failures"]["wrong_weight_gradients"]["message"]
    assert "values have shape (1, 2) instead of (32, 2)" in result["failures"]["one_value_for_all"]["message"]
    assert set(result["microseconds_per_circuit"]) == set(result["how"]) == {"right", "several"}
    assert all(len(values) == 4 and min(values) > 0 for values in result["microseconds_per_circuit"].values())


def test_a_peer_that_fails_is_reported_with_its_message(result: dict) -> None:
    messages = {name: f["message"] for name, f in result["failures"].items() if f["why"] == "refused"}
    assert messages["refuses"] == "NotImplementedError: no circuits on 2 qubits"
    assert "exit status 7" in messages["ends"]
    assert "SIGABRT" in messages["ends_later"]
    assert set(messages) == {"refuses", "ends", "ends_later"}


def test_the_fastest_form_is_measured(result: dict) -> None:
    how = result["how"]["several"]
    assert how["form"] == "fast"
    assert how["refused"].keys() == {"compiled", "end"}
    assert how["refused"]["compiled"] == "RuntimeError: no compiler"
    assert "exit status 7" in how["refused"]["end"]


def test_a_slow_peer_gets_the_batch_that_the_budget_allows(tmp_path: Path) -> None:
    case = Case(2, 2, 4096)
    for batched, first in ((False, "a few circuits are tried first"), (True, "the whole batch is tried first")):
        peer = fake("slow", batched)
        start = time.monotonic()
        result = measure(Case(2, 2, 256) if batched else case, [peer], settings(tmp_path, 0.1, rounds=1))
        assert time.monotonic() - start < fake_peers.SLOW * case.batch, first
        batch = result["how"]["slow"]["batch"]
        assert 1 < batch <= 0.1 / fake_peers.SLOW
        assert batch.bit_count() == 1
        (reading,) = result["microseconds_per_circuit"]["slow"]
        assert reading >= fake_peers.SLOW * 1e6


def test_a_worker_that_does_not_answer_is_ended(tmp_path: Path) -> None:
    for name in ("inputs", "weights"):
        np.save(tmp_path / f"{name}.npy", np.zeros((1, 2), "float32"))
    with Client(Path(sys.executable), 1) as client:
        files = {name: str(tmp_path / f"{name}.npy") for name in ("inputs", "weights")}
        assert client.ask("build", 20, adapter="tests.fake_peers:sleeps", **files) == {"forms": ["sleep"]}
        with pytest.raises(PeerError, match=r"no answer to 'run' in 0.1 s"):
            client.ask("run", 0.1, form="sleep", folder=str(tmp_path))
        assert client.ended
        assert client.process.returncode is not None


def refuse_to_install(environment: str, folder: Path) -> None:
    raise PeerError("no such package")


def test_environments_are_installed_once_and_pip_says_what_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "some.txt").write_text("# why\nfirst==1.0\n")
    (tmp_path / "some.no-deps.txt").write_text("second[extra]==2.0\n")
    monkeypatch.setattr(environments, "REQUIREMENTS", tmp_path)
    assert environments.packages("some") == ["first", "second"]
    home = tmp_path / "environments" / "some"
    commands: list[str] = []

    def run(command: list, stdout: TextIO, stderr: int) -> subprocess.CompletedProcess:
        home.mkdir(exist_ok=True)
        commands.append(" ".join(str(part) for part in command))
        stdout.write("Collecting first\nERROR: no first\nlast words\n")
        stdout.flush()
        return subprocess.CompletedProcess(command, "first" in reason and "-r" in command)

    monkeypatch.setattr(subprocess, "run", run)
    reason = "first is missing"
    for _ in range(2):
        with pytest.raises(PeerError, match="^ERROR: no first"):
            environments.install("some", tmp_path / "environments")
    assert [" -m venv" in command for command in commands] == [True, False] * 2
    reason = ""
    commands.clear()
    for _ in range(2):
        environments.install("some", tmp_path / "environments")
    assert len(commands) == 3
    assert [command.endswith("--no-deps") for command in commands] == [False, False, True]
    (tmp_path / "some.txt").write_text("first==1.1\n")
    environments.install("some", tmp_path / "environments")
    assert len(commands) == 6


def test_run_writes_a_result_that_can_be_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(driver, "HQFKERNELS", Peer(OURS, "tests.fake_peers:right", None))
    fakes = {"refuses": fake("refuses"), "slow": fake("slow", batched=False)}
    fakes["missing"] = Peer("missing", "tests.fake_peers:right", "missing")
    fakes["wrong"] = fake("wrong_weight_gradients")
    for name, value in fakes.items():
        monkeypatch.setitem(PEERS, name, value)
    monkeypatch.setattr(environments, "install", refuse_to_install)
    path = tmp_path / "result.json"
    common = ["--cases", "2,2,64", "--rounds", "2", "--threads", str(torch.get_num_threads()), "--budget", "0.05"]
    common += ["--environments", str(tmp_path), "--json"]

    driver.main([*common, str(path), "--peers", "refuses", "slow", "missing"])
    run = json.loads(path.read_text())
    assert run["budget"] == 0.05
    assert run["peers"][OURS]["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert run["peers"]["missing"] == {"error": "no such package"}
    capsys.readouterr()
    driver.main(["--report", str(path)])
    output = capsys.readouterr().out
    assert report.table(run) in output
    assert re.search(rf"^\| {OURS} \| [\d.e+]+ \|$", output, re.MULTILINE)
    assert re.search(r"^\| slow \| [\d.e+]+ \(B=\d+\): \*\*[\d.e+]+x\*\* ±\d+% \|$", output, re.MULTILINE)
    assert "| refuses | refused |" in output
    assert "| missing | not installed |" in output
    assert "missing is not installed: no such package" in output
    assert "refuses refused: NotImplementedError: no circuits on 2 qubits" in output

    with pytest.raises(SystemExit):
        driver.main([*common, str(path), "--peers", "refuses"])
    assert "not overwritten" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="disagrees"):
        driver.main([*common, str(tmp_path / "other.json"), "--peers", "wrong"])
    assert "| wrong_weight_gradients | disagrees |" in capsys.readouterr().out


def test_adapters_of_the_project_agree_with_the_reference() -> None:
    case = Case(4, 2, 70)
    step = Step.of(case)
    x, w = step.inputs.detach().numpy(), step.weights.detach().numpy().reshape(case.layers, case.n, 2)
    forms = hqfkernels.expval(x, w) | handwritten.eager(x, w)
    assert set(forms) == {"expval", "halves", "unitary"}
    for name, form in forms.items():
        y, input_grads, weight_grads = map(torch.as_tensor, form())
        step.check_results(name, (y, input_grads, weight_grads.flatten()))
    with pytest.raises(ValueError, match="two layers on at least 6 qubits"):
        handwritten.low_rank(x, w)


def test_every_peer_is_pinned() -> None:
    for peer in PEERS.values():
        if peer.environment:
            files = list(environments.REQUIREMENTS.glob(f"{peer.environment}.*"))
            lines = [line for path in files for line in path.read_text().splitlines() if not line.startswith("#")]
            assert len(lines) >= len(environments.packages(peer.environment)) > 0
            assert all("==" in line for line in lines), lines
