"""The benchmarks' opponents compute the right thing, and the comparison writes what it measured."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest
import torch

from bench import compare, footprint, handwritten, memory
from bench.cases import CASES, OURS, Case, Step, implementations


@pytest.mark.parametrize("layers", [2, 3])
@pytest.mark.parametrize("n", range(2, 7))
def test_handwritten_forms_agree_with_the_reference(n: int, layers: int) -> None:
    case = Case(n, layers, 70)
    step = Step.of(case)
    for form in (handwritten.Halves, handwritten.Unitary, *([handwritten.LowRank] if layers == 2 else [])):
        step.check(form.__name__, form(n, layers))


def test_slices_of_a_batch_are_put_together_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handwritten, "SLICE", 2**7)
    case = Case(6, 2, 70)
    step = Step.of(case)
    forms = implementations(case, compiled=False)
    assert set(forms) == {OURS, "halves", "unitary", "low rank"}
    for name, form in forms.items():
        step.check(name, form)


def test_check_refuses_wrong_results() -> None:
    case = Case(3, 2, 8)
    step = Step.of(case)
    right = implementations(case, compiled=False)["unitary"]
    with pytest.raises(AssertionError, match="wrong: values"):
        step.check("wrong", lambda x, w: right(x, w) * 1.001)
    with pytest.raises(AssertionError, match="wrong: weight gradients"):
        step.check("wrong", lambda x, w: right(x, w) + 0 * w.sum() + 1e-3 * (w[0] - w[0].detach()))


def test_low_rank_is_for_two_layers() -> None:
    with pytest.raises(ValueError, match=r"layers: .* got 3"):
        handwritten.LowRank(4, 3)


@pytest.mark.parametrize("text", ["4,2", "4,2,x", "1,2,8", "4,1,8", "4,2,0"])
def test_case_names_what_is_wrong(text: str) -> None:
    with pytest.raises(ValueError, match=f"case: .*{text}"):
        Case.parse(text)


def test_compare_writes_a_result_that_can_be_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "result.json"
    options = ["--cases", "3,2,16", "--rounds", "2", "--no-compile", "--no-memory", "--json", str(path)]
    compare.main(options)
    run = json.loads(path.read_text())
    (case,) = run["cases"]
    assert (case["n"], case["layers"], case["batch"]) == (3, 2, 16)
    readings = case["microseconds_per_circuit"]
    assert set(readings) == {OURS, "halves", "unitary"}
    assert all(len(values) == 2 and min(values) > 0 for values in readings.values())
    assert run["threads"] == torch.get_num_threads()
    assert run["versions"]["torch"] == torch.__version__
    table = capsys.readouterr().out
    assert "| unitary |" in table

    compare.main(["--report", str(path)])
    assert "n=3 L=2 B=16" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        compare.main(options)
    assert "not overwritten" in capsys.readouterr().err


def test_ratio_is_taken_within_a_round() -> None:
    readings = {OURS: [1.0, 2.0, 4.0], "unitary": [3.0, 4.0, 16.0], "halves": [9.0, 9.0, 9.0]}
    assert compare.ratios(readings, "unitary") == [3.0, 2.0, 4.0]
    row = compare.summary([{"n": 4, "layers": 6, "batch": 8, "microseconds_per_circuit": readings}]).splitlines()[-1]
    assert row == "| n=4 L=6 B=8 | 2 | unitary 4: **3.0x** |  |  |"


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads the peak from Linux's /proc")
def test_peak_memory_counts_what_a_form_allocates() -> None:
    # Tensors too large for memory that earlier tests have given back to the allocator.
    case = Case(4, 2, 2**22)

    def hungry(inputs: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        scratch = torch.ones(3 * inputs.numel())
        return inputs * weights[0] * scratch[0]

    peak, tensors = memory.peak(hungry, case.tensors)
    assert tensors == 4 * case.batch * case.n * 4
    assert peak > 0.9 * (3 * case.batch * case.n * 4 + 2 * case.batch * case.n * 4)


def test_cases_are_those_of_the_family() -> None:
    assert len(set(CASES)) == len(CASES) == 8
    circuit = Case(4, 2, 1).circuit()
    assert (circuit.n_inputs, circuit.n_weights, len(circuit)) == (4, 16, 4 + 2 * 12)


def test_footprint_times_imports_in_fresh_interpreters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    statements = {"slow": ("pass", "import time; time.sleep(0.1)"), footprint.ADDED: ("import fuzz", "import bench")}
    monkeypatch.setattr(footprint, "IMPORTS", statements)
    wheel, path = tmp_path / "some.whl", tmp_path / "result.json"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("zeros", bytes(10_000))
    footprint.main([str(wheel), "--rounds", "2", "--json", str(path)])
    run = json.loads(path.read_text())
    assert run["wheel"] == {"name": "some.whl", "bytes": wheel.stat().st_size, "unpacked": 10_000}
    slow, added = run["imports"]["slow"], run["imports"][footprint.ADDED]
    assert len(slow["seconds"]) == len(slow["processor_seconds"]) == 2
    assert min(slow["seconds"]) >= 0.1 > max(slow["processor_seconds"])
    assert (slow["packages"], added["packages"]) == ([], ["bench"])
    assert "| slow | 0.1" in capsys.readouterr().out

    with pytest.raises(SystemExit):
        footprint.main([str(path)])
    assert "result.json is no wheel" in capsys.readouterr().err
