"""How cost grows and how much of the machine is used: what the benchmarks measure and count."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

import hqfkernels as hqf
from bench import roofline, scaling
from bench.cases import Case
from bench.scaling import Curve, Point
from hqfkernels.engines.fourier import recipe
from hqfkernels.program import Program, lower

needs_proc = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads memory from Linux's /proc")


def test_a_point_runs_its_circuits_with_weights_of_their_own() -> None:
    point = Point(Case(3, 2, 20), experts=2)
    inputs, weights = point.tensors()
    values = point.form()(inputs, weights)
    alone = [hqf.expval(point.case.circuit(), inputs, w) for w in weights]
    torch.testing.assert_close(values, torch.cat(alone, -1))
    assert not torch.allclose(alone[0], alone[1])
    single = Point(point.case)
    torch.testing.assert_close(single.form()(*single.tensors()), alone[0])


@pytest.mark.parametrize("case", [Case(4, 2, 10), Case(4, 2, 100_000), Case(8, 6, 1000)])
def test_the_engine_on_record_is_the_one_that_runs(case: Case) -> None:
    assert Point(case).engine() == hqf.explain(case.circuit(), *case.tensors()).engine


def test_curves_grow_as_they_say() -> None:
    for curve in [*scaling.curves(quick=True), *scaling.curves(quick=False)]:
        values = [point.sizes()[curve.grows] for point in curve.points[:2]]
        values += [point.sizes()[curve.grows] for point in curve.points[-1:]]
        assert values == sorted(values)
    full = {curve.grows: curve.points for curve in scaling.curves(quick=False)}
    assert (full["batch"][0].case.batch, full["batch"][-1].case.batch) == (10**2, 10**7)
    assert (full["qubits"][0].case.n, full["qubits"][-1].case.n) == (2, 14)
    assert (full["depth"][0].case.layers, full["depth"][-1].case.layers) == (1, 32)
    assert [point.experts for point in full["experts"]] == list(range(1, 9))


@needs_proc
def test_peak_memory_has_the_tensors_and_little_more() -> None:
    point = Point(Case(4, 2, 2**19), threads=torch.get_num_threads())
    peak, tensors = scaling.peak_memory(point)
    assert tensors == 4 * 4 * 4 * 2**19
    assert 0.95 < peak / tensors < 1.5


@needs_proc
def test_scaling_writes_a_result_that_can_be_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    points = [Point(Case(2, 2, batch)) for batch in (8, 16, 10**12)]  # the last is too large for any machine
    monkeypatch.setattr(scaling, "curves", lambda quick: [Curve("batch", "2 qubits", points)])
    monkeypatch.setattr(scaling, "peaks", lambda points: [(2**20, 2**19)] * len(points))
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    path = tmp_path / "scaling.json"
    scaling.main(["--rounds", "2", "--json", str(path)])
    (curve,) = json.loads(path.read_text())["curves"]
    assert [(point["batch"], point["engine"], point["peak"]) for point in curve["points"]] == [
        (8, "gate", 2**20),
        (16, "gate", 2**20),
    ]
    assert all(len(point["microseconds"]) == 2 and min(point["microseconds"]) > 0 for point in curve["points"])
    scaling.main(["--report", str(path)])
    assert "| 16 | gate |" in capsys.readouterr().out


def test_operations_of_the_contraction() -> None:
    """By hand, for <ZZ> = cos x0 cos x1, and for <ZZZ>, which has a product of features more and a third wave."""
    waves = 2 * (1 + 17 + 4) + 5  # made forward and backward; the input's gradient

    def count(n: int) -> int:
        circuit = hqf.Circuit(n)
        for q in range(n):
            circuit.ry(hqf.Input(q), q)
        return roofline.fourier_operations(recipe(lower(circuit.measure("Z" * n).text, "expval")).polynomials)

    term_and_run = 1 + 1 + 3 + 2
    assert count(2) == 2 * waves + term_and_run
    assert count(3) == 3 * waves + term_and_run + 2 + 2


def test_operations_of_the_simulation() -> None:
    """By hand: one qubit, then a shared phase and a rotation that mixes the amplitudes."""
    circuit = hqf.Circuit(1).ry(hqf.Input(0), 0)
    angle, grow, back = 17 + 6, 2, 7
    measure, start = 2 + 6, 4 + 2
    assert roofline.gate_operations(Program.from_text(lower(circuit.text, "expval"))) == (
        2 * (angle + grow) + back + measure + start
    )
    circuit.rz(hqf.Weight(0), 0).ry(hqf.Weight(1), 0)
    table, table_back, pair, pair_back = 2 * 2, 2 * 7, 2 * 2, 2 * 6
    assert roofline.gate_operations(Program.from_text(lower(circuit.text, "expval"))) == (
        2 * (angle + grow + table + pair) + back + table_back + pair_back + (4 + 6) + (4 + 4)
    )


@pytest.mark.skipif(not shutil.which("c++"), reason="compiles the loop of multiply-adds")
def test_roofline_writes_a_result_that_can_be_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(roofline, "CASES", [Case(4, 2, 64)])
    monkeypatch.setattr(roofline, "COPIED", 2**12)
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    path = tmp_path / "roofline.json"
    roofline.main(["--rounds", "2", "--json", str(path)])
    run = json.loads(path.read_text())
    assert all(len(values) == 2 and min(values) > 0 for values in run["peaks"].values())
    (case,) = run["cases"]
    assert (case["engine"], case["bytes"]) == ("gate", 4 * (3 * 4 + 2 * 4))
    assert case["operations"] == roofline.operations(Case(4, 2, 64), "gate")
    assert "| n=4 L=2 B=64 | gate |" in capsys.readouterr().out


def test_shares_are_taken_within_a_round() -> None:
    run = {"peaks": {"operations_per_ns": [10.0, 20.0], "bytes_per_ns": [1.0, 2.0]}}
    case = {"operations": 100, "bytes": 5, "nanoseconds": [20.0, 10.0]}
    assert roofline.shares(run, case) == ([0.5, 0.5], [0.25, 0.25])
