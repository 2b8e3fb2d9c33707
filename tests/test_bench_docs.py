"""The documentation quotes its results, and charts are drawn from results alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from bench import docs, plot
from bench.cases import OURS, Case

STAMP: dict[str, Any] = {
    "date": "2030-01-02T03:04:05+00:00",
    "commit": "abc1234",
    "modified": False,
    "device": {"cpu": "Abacus", "cores": 2, "simd": "beads"},
    "threads": 1,
    "versions": {"hqfkernels": "1", "torch": "2", "python": "3"},
}
CASE = {"n": 4, "layers": 2, "batch": 8}
COMPARE = STAMP | {
    "cases": [CASE | {"microseconds_per_circuit": {OURS: [1.0, 2.0], "halves": [3.0, 8.0], "unitary": [9.0, 9.0]}}],
    "memory": [],
}
PEERS = STAMP | {
    "cases": [
        CASE | {"microseconds_per_circuit": {OURS: [1.0, 2.0], "Simulator": [300.0, 800.0], "Other": [50.0, 60.0]}},
        CASE | {"layers": 6, "microseconds_per_circuit": {OURS: [1.0, 2.0], "Simulator": [300.0, 800.0]}},
    ]
}


def _point(**sizes: Any) -> dict[str, Any]:
    point = {"qubits": 4, "depth": 2, "batch": 100, "threads": 1, "experts": 1, "engine": "gate"}
    return point | {"microseconds": [1.0, 1.5, 1.2], "peak": 2**20, "tensors": 2**19} | sizes


SCALING = STAMP | {
    "curves": [
        {"grows": grows, "fixed": "this, that", "points": [_point(**{grows: k, "engine": e}) for k, e in points]}
        for grows, points in (
            ("batch", [(100, "gate"), (1000, "fourier")]),
            ("qubits", [(2, "gate"), (3, "gate")]),
            ("depth", [(1, "fourier"), (2, "gate"), (4, "unitary")]),
            ("threads", [(1, "gate"), (2, "gate")]),
            ("experts", [(1, "fourier"), (2, "fourier")]),
        )
    ]
}
ROOFLINE = STAMP | {
    "peaks": {"operations_per_ns": [50.0, 55.0], "bytes_per_ns": [20.0, 21.0]},
    "cases": [
        {
            "qubits": 4,
            "depth": k,
            "batch": 8,
            "engine": "gate",
            "operations": 300 * k,
            "bytes": 80,
            "nanoseconds": [30.0],
        }
        for k in (2, 6)
    ],
}
GROWTH = STAMP | {
    "axes": {
        "layers": {"fixed": "a", "points": [{"layers": 2, "gate": 1.0, "fourier": 2.0, "unitary": 3.0}]},
        "qubits": {"fixed": "b", "points": [{"qubits": 2, "gate": 1.0, "fourier": 2.0, "unitary": 3.0}]},
    }
}


def test_documentation_is_what_the_results_give() -> None:
    for package in ("pennylane", "timm"):
        pytest.importorskip(package, reason="modules that measure make the tables as well, and need it")
    assert docs.outdated() == []


def test_tables_of_results_stand_between_markers() -> None:
    quoted = {match[2] for page in docs.pages() for match in docs.MARKED.finditer(page.read_text(encoding="utf-8"))}
    assert quoted >= {"compare", "compare-short", "memory", "planner", "interop", "step", "speed", "growth", "fuzz"}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with one page and one result, for `bench.docs`."""
    for folder in ("docs/images", "bench/results", "fuzz"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "bench" / "results" / "run.json").write_text(json.dumps(COMPARE))
    (tmp_path / "bench" / "results" / "peers.json").write_text(json.dumps(PEERS))
    for page in ("README.md", "fuzz/README.md"):
        (tmp_path / page).write_text("Nothing to quote.\n")
    monkeypatch.setattr(docs, "ROOT", tmp_path)
    monkeypatch.setattr(docs, "RESULTS", tmp_path / "bench" / "results")
    return tmp_path


def test_pages_and_charts_are_written_and_checked(project: Path) -> None:
    page = project / "docs" / "page.md"
    page.write_text(
        "Before.\n\n<!-- table: compare-short run.json -->\nold\n<!-- end -->\n\n"
        "<!-- chart: speed peers.json 4,6,8 4,2,8 --><!-- end -->\n\nAfter.\n"
    )
    assert len(docs.outdated()) == 2
    docs.main([])
    text = page.read_text()
    assert text.startswith(
        "Before.\n\n<!-- table: compare-short run.json -->\n\nMedians of 2 rounds, Abacus (2 cores, beads)"
    )
    assert "2030-01-02, commit abc1234, `python -m bench.compare` ([result](../bench/results/run.json)):" in text
    assert "| 4 qubits, L=2, batch 8 | 1.5 | 5.5: **3.5x** |  |" in text
    assert "old" not in text
    assert text.endswith("<!-- end -->\n\nAfter.\n")
    assert docs.drawn_from(docs.picture("speed")) == "peers.json 4,6,8 4,2,8"
    docs.main(["--check"])

    page.write_text(text.replace("**3.5x**", "**9.5x**"))
    with pytest.raises(SystemExit, match="docs/page.md differs"):
        docs.main(["--check"])
    page.write_text(text.replace("4,6,8 4,2,8", "4,2,8"))
    with pytest.raises(SystemExit, match=r"speed.png was not drawn from peers.json 4,2,8"):
        docs.main(["--check"])
    page.write_text(text.replace("<!-- end -->\n\nAfter", "After"))
    with pytest.raises(SystemExit, match="a marker or its end is missing"):
        docs.main(["--check"])


def test_a_value_stands_in_a_sentence(project: Path) -> None:
    page = project / "docs" / "page.md"
    run = COMPARE | {"memory": [{"name": OURS, "peak": 30, "tensors": 20}]}
    (project / "bench" / "results" / "memory.json").write_text(json.dumps(run))
    page.write_text(f"It takes <!-- value: memory memory.json {OURS} -->?<!-- end --> times, not <!-- value: memory\n")
    assert docs.render(page.read_text(), page).startswith(
        f"It takes <!-- value: memory memory.json {OURS} -->1.5<!-- end --> times, not"
    )
    page.write_text(f"<!-- value: memory memory.json {OURS} -->1.5<!-- end --> times\n")
    assert "a value starts a line" in docs.outdated()[0]


def test_markers_that_cannot_be_understood_are_named(project: Path) -> None:
    page = project / "docs" / "page.md"
    for marker in ("table: nonsense run.json", "value: low-rank run.json 4,2,8", "value: low-rank run.json 4,3,8"):
        with pytest.raises(ValueError, match=f"page.md: <!-- {marker.rsplit(' ', 1)[0][:20]}"):
            docs.render(f"<!-- {marker} --><!-- end -->", page)


@pytest.mark.parametrize(
    ("kind", "run"),
    [("speed", COMPARE), ("speed", PEERS), ("scaling", SCALING), ("roofline", ROOFLINE), ("growth", GROWTH)],
)
def test_charts_are_drawn(kind: str, run: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps(run))
    plot.main([kind, str(tmp_path / "run.json"), str(tmp_path / "chart.png")])
    with Image.open(tmp_path / "chart.png") as image:
        assert image.info["Source"] == "run.json"
        assert image.width > 600
        assert image.convert("RGB").getpixel((0, 0)) == (255, 255, 255)  # readable on a dark page
        assert len(image.convert("RGB").getcolors(2**24) or []) > 50


def test_a_speed_chart_orders_by_ratio_and_shows_the_best_hand_written_form() -> None:
    readings = plot._readings(COMPARE["cases"][0])
    assert readings == {OURS: [1.0, 2.0], "hand-written torch": [3.0, 8.0]}
    assert plot._order([plot._readings(case) for case in PEERS["cases"]]) == [OURS, "Other", "Simulator"]


def test_a_speed_chart_refuses_cases_that_were_not_run(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"cases: run has no n=9 L=2 B=8"):
        plot.speed(COMPARE, tmp_path / "chart.png", "run", [Case(9, 2, 8)])


def test_markers_move_to_the_newest_run_of_their_kind(project: Path) -> None:
    results = project / "bench" / "results"
    for name in ("2030-01-01T0-a.json", "2030-01-02T0-b.json", "planner-2031-01-01T0-c.json"):
        (results / name).write_text(json.dumps(COMPARE))
    page = project / "docs" / "page.md"
    page.write_text("<!-- table: compare 2030-01-01T0-a.json --><!-- end -->\n")
    docs.main(["--latest"])
    assert page.read_text().startswith("<!-- table: compare 2030-01-02T0-b.json -->\n\nMedians of 2 rounds")
