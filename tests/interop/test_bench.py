"""The benchmark of the one-line changes compares equal things and writes what it measured."""

import json

import pytest
import torch

pytest.importorskip("pennylane")
from bench import interop
from bench.cases import OURS, Case


def test_implementations_agree():
    for steps in (interop.layers(Case(2, 2, 3)), interop.devices(Case(2, 2, 3))):
        assert next(iter(steps)) == OURS
        expected, *others = (step() for step in steps.values())
        for results in others:
            for actual, want in zip(results, expected, strict=True):
                torch.testing.assert_close(actual.double(), want.double(), rtol=1e-4, atol=1e-5)


def test_results_that_differ_are_refused():
    right, wrong = (lambda: (torch.ones(3),)), (lambda: (torch.tensor([1.0, 1.0, 1.001]),))
    swap = interop.Swap("a swap", 3, lambda: {OURS: right, "theirs": wrong})
    with pytest.raises(AssertionError, match="a swap: theirs differs"):
        interop.measure(swap, 1)


def test_a_run_is_written_and_can_be_reported(tmp_path, capsys):
    path = tmp_path / "result.json"
    options = ["--swaps", "layer", "--rounds", "2", "--json", str(path)]
    interop.main(options)
    (case,) = json.loads(path.read_text())["cases"]
    readings = case["microseconds_per_circuit"]
    assert set(readings) == {OURS, "qml.qnn.TorchLayer"}
    assert all(len(values) == 2 and min(values) > 0 for values in readings.values())
    capsys.readouterr()
    interop.main(["--report", str(path)])
    assert "| TorchLayer, n=4 L=2 B=1024 | qml.qnn.TorchLayer |" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        interop.main(options)
    assert "not overwritten" in capsys.readouterr().err
