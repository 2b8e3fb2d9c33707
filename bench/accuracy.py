"""How exact the engines are on random circuits: ``python -m bench.accuracy`` runs the property tests at length.

It writes a result under bench/results and the table of it to docs/accuracy.md.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.compare import result_path, stamp

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "accuracy.md"
EXAMPLES = 16_500
"""Enough for 10^4 circuits for each engine: those that it refuses do not count, nor do empty batches."""

PAGE_TEXT = """# Accuracy

Written by `python -m bench.accuracy` from its newest result in `bench/results`: random circuits over all gates, on 1 to
4 qubits with up to 12 gates (more where parameters need them), amplitude encoding, re-uploaded inputs, affine angles,
any strings of Paulis, with batches, layouts and sets of weights of every kind (`tests/property`).

| engine | inputs | circuits | worst error of values | of gradients |
| --- | --- | --- | --- | --- |
{table}

In all: {totals}; none failed.{note}

Errors are those against the plain-torch reference in float64 on the same numbers; the reference's own, in float64,
against Kronecker products and, on a part of the circuits, parameter shift in numpy. An error is the largest difference,
over the largest entry of the result where that is above 1. Gradients of inputs have the inputs' dtype, whose rounding
is what float16 and bfloat16 show; values are computed and returned in float32.

{where}, {when}.
"""


def run_tests(examples: int) -> list[dict[str, Any]]:
    """What the property tests recorded; SystemExit if one fails."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "record.json"
        environment = {"HQF_PROPERTY_EXAMPLES": str(examples), "HQF_PROPERTY_RESULT": str(path)}
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "tests/property"]
        if subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}).returncode:
            raise SystemExit("bench.accuracy: a property test failed, see above")
        rows: list[dict[str, Any]] = json.loads(path.read_text())
    return rows


def report(result: dict[str, Any]) -> str:
    """The page, docs/accuracy.md."""
    totals = {row["engine"]: 0 for row in result["rows"]}
    for row in result["rows"]:
        totals[row["engine"]] += row["circuits"]
    device, versions = result["device"], result["versions"]
    table = [
        f"| {row['engine']} | {row['dtype']} | {row['circuits']} | {row['values']:.1e} | {row['gradients']:.1e} |"
        for row in result["rows"]
    ]
    return PAGE_TEXT.format(
        table="\n".join(table),
        totals=", ".join(f"{count} circuits by {engine}" for engine, count in totals.items()),
        note=f" {result['note']}" if "note" in result else "",
        where=f"{device['cpu']}, {device['simd']}, torch {versions['torch']}",
        when=f"{result['date'][:10]}, commit {result['commit']}",
    )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.accuracy", description=__doc__)
    parser.add_argument("--examples", type=int, default=EXAMPLES, help="circuits to draw (%(default)s)")
    parser.add_argument("--json", type=Path, help="file for the result; default: a new one under bench/results")
    parser.add_argument("--page", type=Path, default=PAGE, help="where the table goes (%(default)s)")
    parser.add_argument(
        "--record", type=Path, help="what the tests left at HQF_PROPERTY_RESULT, instead of running them"
    )
    options = parser.parse_args(arguments)
    if options.examples < 1:
        parser.error(f"--examples: must be at least 1, got {options.examples}")
    result = stamp() | {"rows": []}
    path = result_path(parser, options.json, result, "accuracy-")
    result["rows"] = json.loads(options.record.read_text()) if options.record else run_tests(options.examples)
    path.write_text(json.dumps(result, indent=1) + "\n")
    options.page.write_text(report(result))


if __name__ == "__main__":
    main()
