"""Times hqfkernels against the hand-written forms, alternating in one process: ``python -m bench.compare``."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

import hqfkernels
from bench.cases import CASES, COMPILED, LOW_RANK, OURS, Case, Step, implementations
from bench.handwritten import Form

RESULTS = Path(__file__).parent / "results"
SHORTEST = 0.02
"""Seconds that one reading lasts at least: shorter steps are repeated."""


def stamp() -> dict[str, Any]:
    """Where and with what the run was made."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    root = Path(__file__).parent.parent

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True).stdout.strip()

    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": git("rev-parse", "--short", "HEAD"),
        "modified": bool(git("status", "--porcelain", "--untracked-files=no")),
        "device": {
            "cpu": models[0] if models else platform.processor(),
            "cores": os.cpu_count(),
            "simd": torch.backends.cpu.get_cpu_capability(),
        },
        "threads": torch.get_num_threads(),
        "versions": {
            "hqfkernels": hqfkernels.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
    }


def result_path(parser: argparse.ArgumentParser, asked: Path | None, run: dict[str, Any], kind: str = "") -> Path:
    """The file that was asked for, or a new one under bench/results; an error if it exists."""
    stem = f"{run['date'].replace(':', '').removesuffix('+0000')}-{run['commit']}"
    path = asked or RESULTS / f"{kind}{stem}.json"
    if path.exists():
        parser.error(f"--json: {path} exists, and results are not overwritten")
    return path


def describe(run: dict[str, Any]) -> str:
    """Where, with what and when a run was made, in one line."""
    device, versions = run["device"], run["versions"]
    used = [f"{name} {version}" for name, version in versions.items() if name not in ("hqfkernels", "python")]
    return ", ".join(
        [
            f"{device['cpu']} ({device['cores']} cores, {device['simd']})",
            f"{run['threads']} thread" + "s" * (run["threads"] > 1),
            *used,
            run["date"][:10],
            f"commit {run['commit']}" + " with changes" * run["modified"],
        ]
    )


def seconds(step: Step, form: Form, repeats: int) -> float:
    """Wall-clock time of one step, the mean of ``repeats``."""
    start = time.perf_counter()
    for _ in range(repeats):
        step.run(form)
    return (time.perf_counter() - start) / repeats


def measure(case: Case, rounds: int, compiled: bool) -> dict[str, list[float]]:
    """Microseconds per circuit of every implementation in each round, after a check of its results."""
    step, forms = Step.of(case), implementations(case, compiled)
    repeats = {}
    for name, form in forms.items():
        progress(f"{case}: checking {name}")
        step.check(name, form)
        repeats[name] = max(1, round(SHORTEST / seconds(step, form, 1)))
    readings: dict[str, list[float]] = {name: [] for name in forms}
    for r in range(rounds):
        progress(f"{case}: round {r + 1} of {rounds}")
        for name, form in forms.items():
            readings[name].append(seconds(step, form, repeats[name]) / case.batch * 1e6)
    progress("")
    return readings


def progress(text: str) -> None:
    print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def number(value: float) -> str:
    """Three significant digits, without an exponent."""
    return f"{float(f'{value:.3g}'):.12g}"


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows])


def ratios(readings: dict[str, list[float]], name: str) -> list[float]:
    """How many times faster than ``name`` hqfkernels is, in each round."""
    return [theirs / ours for theirs, ours in zip(readings[name], readings[OURS], strict=True)]


def details(readings: dict[str, list[float]]) -> str:
    """One case: every implementation's time and its ratio to hqfkernels."""
    rows = []
    for name, values in readings.items():
        low, median, high = np.percentile(values, [25, 50, 75])
        ratio = ratios(readings, name)
        rows.append(
            [
                name,
                f"{median:.3g}",
                f"{low:.3g} .. {high:.3g}",
                f"{min(values):.3g}",
                f"{statistics.median(ratio):.2f}",
                f"{min(ratio):.2f} .. {max(ratio):.2f}",
            ]
        )
    return table(["implementation", "median (us)", "quartiles", "minimum", "ratio", "over the rounds"], rows)


def _fastest(readings: dict[str, list[float]]) -> tuple[str | None, str | None, str | None]:
    """By their medians the fastest forms: state vector, the same compiled, low rank; None where there is none."""
    names = [name for name in readings if name != OURS]
    kinds = (
        [name for name in names if LOW_RANK not in name and COMPILED not in name],
        [name for name in names if LOW_RANK not in name and COMPILED in name],
        [name for name in names if LOW_RANK in name],
    )
    plain, compiled, low_rank = (
        min(kind, key=lambda name: statistics.median(readings[name]), default=None) for kind in kinds
    )
    return plain, compiled, low_rank


def _against(readings: dict[str, list[float]], name: str | None) -> str:
    """The time of an implementation, and how many times that of hqfkernels it is."""
    if name is None:
        return ""
    return f"{statistics.median(readings[name]):.3g}: **{statistics.median(ratios(readings, name)):.1f}x**"


def summary(results: list[dict[str, Any]]) -> str:
    """Every case: hqfkernels against the fastest form of each kind."""
    rows = []
    for result in results:
        readings = result["microseconds_per_circuit"]
        cells = [
            f"{name.removesuffix(COMPILED)} {_against(readings, name)}" if name else "" for name in _fastest(readings)
        ]
        case = f"n={result['n']} L={result['layers']} B={result['batch']}"
        rows.append([case, f"{statistics.median(readings[OURS]):.3g}", *cells])
    return table(["us per circuit", OURS, "state vector", "state vector, compiled", "low rank, fastest"], rows)


def short_summary(results: list[dict[str, Any]]) -> str:
    """As `summary`, without the names of the forms and without low rank."""
    rows = []
    for result in results:
        readings = result["microseconds_per_circuit"]
        plain, compiled, _ = _fastest(readings)
        case = f"{result['n']} qubits, L={result['layers']}, batch {result['batch']}"
        ours = f"{statistics.median(readings[OURS]):.3g}"
        rows.append([case, ours, _against(readings, plain), _against(readings, compiled)])
    return table(["", OURS, "best plain torch", "best plain torch, compiled"], rows)


def low_rank_ratio(result: dict[str, Any]) -> float:
    """How many times as long as hqfkernels the fastest low-rank form takes."""
    readings = result["microseconds_per_circuit"]
    name = _fastest(readings)[2]
    if name is None:
        raise ValueError(f"case: {result['n']},{result['layers']},{result['batch']} has no low-rank form")
    return statistics.median(ratios(readings, name))


def memory() -> list[dict[str, Any]]:
    """Peak memory of a million circuits, each implementation in a process of its own."""
    results = []
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    for name in (OURS, "unitary"):
        progress(f"peak memory of {name}")
        process = subprocess.run(
            [sys.executable, "-m", "bench.memory", name],
            capture_output=True,
            text=True,
            cwd=RESULTS.parent.parent,
            env=os.environ | threads,
        )
        if process.returncode:
            raise RuntimeError(f"bench.memory {name} failed:\n{process.stderr}")
        results.append(json.loads(process.stdout))
    progress("")
    return results


def memory_table(results: list[dict[str, Any]]) -> str:
    """Peak memory against what has to be there: inputs, outputs and their gradients."""
    rows = [
        [r["name"], f"{r['peak'] / 2**20:.0f}", f"{r['tensors'] / 2**20:.0f}", f"{r['peak'] / r['tensors']:.2f}"]
        for r in results
    ]
    return table(["n=4 L=2 B=1000000", "peak (MiB)", "inputs, outputs, gradients (MiB)", "ratio"], rows)


def report(run: dict[str, Any]) -> str:
    """A run, as read from its JSON, in Markdown."""
    parts = [describe(run), summary(run["cases"])]
    if run["memory"]:
        parts.append(memory_table(run["memory"]))
    return "\n\n".join(parts)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.compare", description=__doc__)
    parser.add_argument("--cases", nargs="+", type=Case.parse, default=CASES, help="n,layers,batch ...; default: all")
    parser.add_argument("--rounds", type=int, default=15, help="readings of each implementation (%(default)s)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="torch threads (%(default)s)")
    parser.add_argument("--json", type=Path, help="file for the result; default: a new one under bench/results")
    parser.add_argument("--no-compile", action="store_true", help="leave out the torch.compile forms, slow to build")
    parser.add_argument("--no-memory", action="store_true", help="leave out the peak-memory run")
    parser.add_argument("--report", type=Path, help="print the tables of an earlier result instead of measuring")
    options = parser.parse_args(arguments)
    for option in ("rounds", "threads"):
        if getattr(options, option) < 1:
            parser.error(f"--{option}: must be at least 1, got {getattr(options, option)}")
    if options.report:
        print(report(json.loads(options.report.read_text())))
        return
    torch.set_num_threads(options.threads)
    run = stamp() | {"cases": [], "memory": []}
    path = result_path(parser, options.json, run)
    for case in options.cases:
        readings = measure(case, options.rounds, not options.no_compile)
        run["cases"].append(vars(case) | {"microseconds_per_circuit": readings})
        print(f"\n{case}\n\n{details(readings)}", flush=True)
    if not options.no_memory:
        run["memory"] = memory()
    path.write_text(json.dumps(run, indent=1) + "\n")
    print(f"\n{report(run)}\n\nwritten to {path}")


if __name__ == "__main__":
    main()
