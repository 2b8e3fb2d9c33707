"""Writes what the documentation quotes of results, from the result files: ``python -m bench.docs``.

In README.md, docs and fuzz/README.md, what stands between a marker and ``<!-- end -->`` is generated:

    <!-- table: KIND FILE -->   a table under a line that says where, when and how it was measured; see `TABLES`
    <!-- chart: KIND FILE n,layers,batch ... -->   a chart with such a line, drawn to docs/images/KIND.png; see
                                `bench.plot.CHARTS` (the cases are for the kind speed, which draws all without them)
    <!-- value: KIND FILE ARGUMENT ... -->   a figure in a sentence; see `VALUES`

FILE is a name in bench/results. To quote another run, change the name and run this again; ``--latest`` changes all
names to those of the newest runs of the same kind. ``--check`` writes nothing and fails where a page differs from its
results, or a chart was drawn from another file.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import re
import statistics
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from bench import compare, footprint, planner, plot
from bench.cases import Case
from bench.compare import RESULTS, describe, number

ROOT = Path(__file__).parent.parent
OPENING = re.compile("<!-- (table|chart|value): ")
END = "<!-- end -->"
MARKED = re.compile(
    rf"{OPENING.pattern}([^\s<>]+) ([^\s<>]+)((?: [^\s<>]+)*) -->(?:(?!{OPENING.pattern}).)*?{END}", re.DOTALL
)

Run = dict[str, Any]

TABLES: dict[str, tuple[str, Callable[[Any, Run], str]]] = {
    "compare": ("bench.compare", lambda module, run: module.summary(run["cases"])),
    "compare-short": ("bench.compare", lambda module, run: module.short_summary(run["cases"])),
    "memory": ("bench.compare", lambda module, run: module.memory_table(run["memory"])),
    "planner": ("bench.planner", lambda module, run: module.choices(run)),
    "interop": ("bench.interop", lambda module, run: module.summary(run)),
    "step": ("bench.step", lambda module, run: module.summary(run)),
    "roofline": ("bench.roofline", lambda module, run: module.summary(run)),
    "footprint": ("bench.footprint", lambda module, run: module.summary(run)),
    "peers": ("bench.peers.report", lambda module, run: module.table(run)),
    "fuzz": ("fuzz.__main__", lambda module, run: module.summary(run)),
}
"""Kind -> the module that measures it, and what makes the table, given that module (imported when needed) and a run."""


def _case(run: Run, text: str) -> Run:
    case = Case.parse(text)
    for found in run["cases"]:
        if (found["n"], found["layers"], found["batch"]) == (case.n, case.layers, case.batch):
            return found
    raise ValueError(f"case: the run has no {case}")


def _memory(run: Run, name: str) -> str:
    (found,) = [entry for entry in run["memory"] if entry["name"] == name]
    return f"{found['peak'] / found['tensors']:.1f}"


def _swap(run: Run, key: str, name: str) -> str:
    (found,) = [case for case in run["cases"] if case["swap"] == key]
    (full,) = [known for known in found["microseconds_per_circuit"] if known.startswith(name)]
    return number(statistics.median(compare.ratios(found["microseconds_per_circuit"], full)))


VALUES: dict[str, Callable[..., str]] = {
    "low-rank": lambda run, case: f"{compare.low_rank_ratio(_case(run, case)):.1f}",
    "memory": _memory,
    "swap": _swap,
    "worst-choice": lambda run: f"{planner.worst_choice(run):.2f}",
    "scene-peak": lambda run: f"{run['peak'] / 2**30:.1f}",
    "import-packages": lambda run: ", ".join(f"`{name}`" for name in run["imports"][footprint.ADDED]["packages"]),
    "wheel-size": lambda run, key: number(run["wheel"][key] / 1e6),
}
"""Kind -> a figure of a run, as text; further arguments are those of the marker."""

CHARTS = {
    "speed": ("bench.compare", "Microseconds per circuit of hqfkernels and others, forward and backward"),
    "scaling": ("bench.scaling", "Time and memory against batch, qubits, depth, threads and experts"),
    "roofline": ("bench.roofline", "Operations per nanosecond under the machine's peaks"),
    "growth": ("bench.growth", "Microseconds per circuit of each engine against depth, batch and qubits"),
}
"""Kind of `bench.plot.CHARTS` -> the module that measures it, and what the chart shows."""


def rounds(run: Run) -> set[int]:
    """How many readings the medians of a run are of."""
    found = set()
    pending: list[Any] = [run]
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            pending += value.values()
        elif isinstance(value, list) and value and all(isinstance(entry, float) for entry in value):
            found.add(len(value))
        elif isinstance(value, list):
            pending += value
    return found


def source(run: Run, file: str, module: str, page: Path) -> str:
    """Where, when and how a run was made, with a link to its file from ``page``."""
    link = os.path.relpath(RESULTS / file, page.parent)
    taken = rounds(run)
    count = f"medians of {max(taken)} rounds, " if len(taken) == 1 else ""
    return f"{count}{describe(run)}, `python -m {re.sub(r'[.](report|__main__)$', '', module)}` ([result]({link}))"


def generated(what: str, kind: str, file: str, arguments: list[str], page: Path) -> str:
    """What stands between a marker of ``page`` and its end.

    Raises:
        ValueError: if the marker cannot be understood.
    """
    run = json.loads((RESULTS / file).read_text(encoding="utf-8"))
    try:
        if what == "value":
            return VALUES[kind](run, *arguments)
        if what == "table":
            module, table = TABLES[kind]
            body = table(importlib.import_module(module), run)
            return f"\n\n{_sentence(source(run, file, module, page))}:\n\n{body}\n\n"
        module, shown = CHARTS[kind]
        if file.startswith("peers-"):
            module = "bench.peers"
        image = os.path.relpath(picture(kind), page.parent)
        return f"\n\n![{shown}]({image})\n\n{_sentence(source(run, file, module, page))}.\n\n"
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{page.name}: <!-- {what}: {kind} {file} ... --> cannot be written: {error!r}") from error


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def picture(kind: str) -> Path:
    """Where the chart of a kind lies."""
    return ROOT / "docs" / "images" / f"{kind}.png"


def render(text: str, page: Path) -> str:
    """The text of ``page`` with everything between markers written anew."""

    def write(match: re.Match[str]) -> str:
        what, kind, file, arguments = match.groups()[:4]
        opening = match.group(0).split("-->", 1)[0] + "-->"
        return f"{opening}{generated(what, kind, file, arguments.split(), page)}{END}"

    return MARKED.sub(write, text)


def charts(text: str) -> Iterator[tuple[str, str, list[str]]]:
    """Kind, file and arguments of the charts of a page."""
    for what, kind, file, arguments in (match.groups()[:4] for match in MARKED.finditer(text)):
        if what == "chart":
            yield kind, file, arguments.split()


def drawn_from(path: Path) -> str:
    """The result files and arguments that a chart was drawn from; empty if there is no such chart."""
    if not path.exists():
        return ""
    with Image.open(path) as image:
        return str(image.info.get("Source", ""))


def pages() -> list[Path]:
    """README.md, the pages under docs, and that of fuzzing."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), ROOT / "fuzz" / "README.md"]


def latest(file: str) -> str:
    """The newest result of the same kind: names start with the kind and go on with the date."""
    kind = re.split(r"\d{4}-", file, maxsplit=1)[0]
    return max(path.name for path in RESULTS.glob(f"{kind}[0-9]*.json"))


def use_latest() -> None:
    """Makes every marker name the newest result of its kind."""
    for page in pages():
        text = page.read_text(encoding="utf-8")
        named = {match[3] for match in MARKED.finditer(text)}
        for file in named:
            text = re.sub(rf"({OPENING.pattern}\S+ ){re.escape(file)}(?= )", rf"\g<1>{latest(file)}", text)
        page.write_text(text, encoding="utf-8")


def outdated() -> list[str]:
    """What of the documentation differs from its results."""
    found = []
    for page in pages():
        text = page.read_text(encoding="utf-8")
        if not len(OPENING.findall(text)) == text.count(END) == len(MARKED.findall(text)):
            found.append(f"{page.relative_to(ROOT)}: a marker or its end is missing")
        elif re.search(r"^<!-- value", text, re.MULTILINE):
            found.append(f"{page.relative_to(ROOT)}: a value starts a line, where a comment ends the paragraph")
        elif render(text, page) != text:
            found.append(f"{page.relative_to(ROOT)} differs from its results")
        for kind, file, arguments in charts(text):
            if drawn_from(picture(kind)) != " ".join([file, *arguments]):
                found.append(f"{picture(kind).relative_to(ROOT)} was not drawn from {' '.join([file, *arguments])}")
    return found


def write() -> None:
    """Writes all pages and charts anew."""
    for page in pages():
        text = page.read_text(encoding="utf-8")
        for kind, file, arguments in charts(text):
            run = json.loads((RESULTS / file).read_text(encoding="utf-8"))
            cases = [[Case.parse(argument) for argument in arguments]] if arguments else []
            plot.CHARTS[kind](run, picture(kind), " ".join([file, *arguments]), *cases)
        page.write_text(render(text, page), encoding="utf-8")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.docs", description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail where something would change")
    parser.add_argument("--latest", action="store_true", help="quote the newest run of each kind")
    options = parser.parse_args(arguments)
    if options.latest:
        use_latest()
    if not options.check:
        write()
    differences = outdated()
    if differences:
        sys.exit("\n".join([*differences, "run python -m bench.docs"]))


if __name__ == "__main__":
    main()
