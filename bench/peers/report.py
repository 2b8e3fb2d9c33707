"""Results of `bench.peers` as Markdown."""

from __future__ import annotations

import statistics
from typing import Any

import numpy as np

from bench import compare
from bench.cases import OURS


def _names(run: dict[str, Any]) -> list[str]:
    """Everybody, the fastest in the first case first; then those that have no number there."""

    def key(name: str) -> tuple[bool, float]:
        readings = run["cases"][0]["microseconds_per_circuit"].get(name)
        return name != OURS, statistics.median(readings) if readings else float("inf")

    return sorted(run["peers"], key=key)


def _cell(case: dict[str, Any], name: str) -> str:
    readings = case["microseconds_per_circuit"]
    if name not in readings:
        return case["failures"][name]["why"] if name in case["failures"] else "not installed"
    text = f"{statistics.median(readings[name]):.3g}"
    batch = case["how"][name]["batch"]
    if batch != case["batch"]:
        text += f" (B={batch})"
    if name == OURS:
        return text
    low, median, high = np.percentile(compare.ratios(readings, name), [25, 50, 75])
    return f"{text}: **{median:.3g}x** ±{(high - low) / 2 / median:.0%}"


def table(run: dict[str, Any]) -> str:
    """Median microseconds per circuit, forward and backward, and the ratio to hqfkernels.

    The ratio is the median of those taken within each round; after ± stands half of their interquartile range. A batch
    in brackets is one that was taken in place of the case's, so that a step keeps to the time budget.
    """
    cases = run["cases"]
    head = ["us per circuit", *(f"n={c['n']} L={c['layers']} B={c['batch']}" for c in cases)]
    return compare.table(head, [[name, *(_cell(case, name) for case in cases)] for name in _names(run)])


def memory_table(run: dict[str, Any]) -> str:
    """MiB at the peak of a step above what the process held after its imports."""
    cases = run["cases"]

    def cell(case: dict[str, Any], name: str) -> str:
        memory = case["how"].get(name, {}).get("memory")
        return "" if memory is None else f"{memory / 2**20:.0f}"

    head = ["MiB", *(f"n={c['n']} L={c['layers']} B={c['batch']}" for c in cases)]
    return compare.table(head, [[name, *(cell(case, name) for case in cases)] for name in _names(run)])


def versions_table(run: dict[str, Any]) -> str:
    """What each was measured with: versions, and the form that was the fastest in each case."""
    rows = []
    for name in _names(run):
        versions = run["peers"][name].get("versions", {})
        forms = [case["how"][name]["form"] for case in run["cases"] if name in case["how"]]
        rows.append(
            [name, ", ".join(f"{package} {v}" for package, v in versions.items()), ", ".join(dict.fromkeys(forms))]
        )
    return compare.table(["", "versions", "fastest form"], rows)


def messages(run: dict[str, Any]) -> list[str]:
    """Who has no number, and which forms could not be tried, with what they said."""
    lines = [f"{name} is not installed: {peer['error']}" for name, peer in run["peers"].items() if "error" in peer]
    for case in run["cases"]:
        where = f"n={case['n']} L={case['layers']} B={case['batch']}"
        lines += [f"{where}, {name} {f['why']}: {f['message']}" for name, f in case["failures"].items()]
        lines += [
            f"{where}, {name} without the form {form!r}: {message}"
            for name, how in case["how"].items()
            for form, message in how["refused"].items()
        ]
    return [line[:300] for line in lines]


def report(run: dict[str, Any]) -> str:
    """A run, as read from its JSON."""
    device, versions = run["device"], run["versions"]
    parts = [
        f"{run['date']}, commit {run['commit']}{' with changes' if run['modified'] else ''}, {device['cpu']} "
        f"({device['cores']} cores, {device['simd']}), {run['threads']} thread(s), torch {versions['torch']}",
        table(run),
        memory_table(run),
        versions_table(run),
        "\n".join(f"- {line}" for line in messages(run)),
    ]
    return "\n\n".join(part for part in parts if part)
