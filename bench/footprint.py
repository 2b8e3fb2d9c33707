"""Measures what hqfkernels costs before it computes anything: ``python -m bench.footprint dist/*.whl``.

The size of a wheel, and the times of imports in fresh interpreters, which take turns. All files have been read once
before, so that the disk has no part in it; of the time of a busy machine, the processor's shows what Python took.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from bench.compare import describe, progress, result_path, stamp, table

ROOT = Path(__file__).parent.parent
ADDED = "hqfkernels after torch"
IMPORTS: dict[str, tuple[str, str]] = {
    "torch": ("pass", "import torch"),
    "hqfkernels": ("pass", "import hqfkernels"),
    ADDED: ("import torch", "import hqfkernels"),
}
"""Name -> what a fresh interpreter runs first, and what is timed in it."""
TIMED = """
import sys, time
def packages(): return {{name.partition(".")[0] for name in sys.modules}}
{first}
before = packages()
clocks = [(time.perf_counter(), time.process_time())]
{timed}
clocks += [(time.perf_counter(), time.process_time())]
added = packages() - before - set(sys.stdlib_module_names)
import json
print(json.dumps([[end - start for start, end in zip(*clocks)], sorted(added)]))
"""


def import_once(first: str, timed: str) -> tuple[list[float], list[str]]:
    """Seconds and processor seconds of a statement in a fresh interpreter that ran another first; packages it added."""
    code = TIMED.format(first=first, timed=timed)
    told = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout
    times, packages = json.loads(told.splitlines()[-1])
    return times, packages


def measure_imports(rounds: int) -> dict[str, Any]:
    """Both times of every import, one reading per round, and the packages that it added."""
    found: dict[str, Any] = {}
    for name, statements in IMPORTS.items():
        _, packages = import_once(*statements)
        found[name] = {"seconds": [], "processor_seconds": [], "packages": packages}
    for r in range(rounds):
        progress(f"round {r + 1} of {rounds}")
        for name, statements in IMPORTS.items():
            (seconds, processor_seconds), _ = import_once(*statements)
            found[name]["seconds"].append(seconds)
            found[name]["processor_seconds"].append(processor_seconds)
    progress("")
    return found


def measure_wheel(path: Path) -> dict[str, Any]:
    """Bytes of a wheel, and of what it unpacks to."""
    with zipfile.ZipFile(path) as wheel:
        unpacked = sum(entry.file_size for entry in wheel.infolist())
    return {"name": path.name, "bytes": path.stat().st_size, "unpacked": unpacked}


def summary(run: dict[str, Any]) -> str:
    """The times of the imports with their spread."""
    rows = []
    for name, found in run["imports"].items():
        low, median, high = np.percentile(found["seconds"], [25, 50, 75])
        spread = f"{min(found['seconds']):.3g} .. {max(found['seconds']):.3g}"
        processor = f"{np.median(found['processor_seconds']):.3g}"
        rows.append([name, f"{median:.3g}", f"{low:.3g} .. {high:.3g}", spread, processor])
    return table(["import", "median (s)", "quartiles", "over the rounds", "median of processor time (s)"], rows)


def report(run: dict[str, Any]) -> str:
    """A run, as read from its JSON, in Markdown."""
    wheel, added = run["wheel"], run["imports"][ADDED]["packages"]
    return (
        f"{describe(run)}\n\n{summary(run)}\n\n{ADDED}, packages: {', '.join(added)}\n"
        f"{wheel['name']}: {wheel['bytes']} bytes, unpacked {wheel['unpacked']}"
    )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.footprint", description=__doc__)
    parser.add_argument("wheel", type=Path, help="the wheel, as `make wheel` leaves it in dist/")
    parser.add_argument("--rounds", type=int, default=15, help="readings of each import (%(default)s)")
    parser.add_argument("--json", type=Path, help="file for the result; default: a new one under bench/results")
    options = parser.parse_args(arguments)
    if options.rounds < 1:
        parser.error(f"--rounds: must be at least 1, got {options.rounds}")
    if not zipfile.is_zipfile(options.wheel):
        parser.error(f"wheel: {options.wheel} is no wheel")
    run = stamp()
    path = result_path(parser, options.json, run, "footprint-")
    run |= {"wheel": measure_wheel(options.wheel), "imports": measure_imports(options.rounds)}
    path.write_text(json.dumps(run, indent=1) + "\n")
    print(f"{report(run)}\nwritten to {path}")


if __name__ == "__main__":
    main()
