"""The page about accuracy says what was measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import accuracy
from bench.compare import RESULTS


def test_the_page_is_the_newest_result() -> None:
    newest = max(RESULTS.glob("accuracy-*.json"))
    result = json.loads(newest.read_text())
    assert accuracy.PAGE.read_text() == accuracy.report(result)
    totals: dict[str, int] = {}
    for row in result["rows"]:
        totals[row["engine"]] = totals.get(row["engine"], 0) + row["circuits"]
    assert set(totals) == {"gate", "fourier", "unitary", "reference"}
    assert min(totals.values()) >= 10_000


def test_a_record_of_the_tests_becomes_a_result(tmp_path: Path) -> None:
    record = tmp_path / "record.json"
    row = {"engine": "gate", "dtype": "float64", "circuits": 3, "comparisons": 4, "values": 1e-15, "gradients": 2e-15}
    record.write_text(json.dumps([row]))
    options = ["--record", str(record), "--json", str(tmp_path / "result.json"), "--page", str(tmp_path / "page.md")]
    accuracy.main(options)
    assert json.loads((tmp_path / "result.json").read_text())["rows"] == [row]
    assert "| gate | float64 | 3 | 1.0e-15 | 2.0e-15 |" in (tmp_path / "page.md").read_text()
    with pytest.raises(SystemExit):
        accuracy.main(options)  # results are not overwritten
