"""Charts of results, as PNG: drawn from result files only, by `bench.docs` or on their own.

``python -m bench.plot speed FILE.json chart.png`` draws one: speed, scaling, roofline or growth. What a chart was drawn
from stands in the picture's ``Source`` entry.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Annotation
from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator
from matplotlib.transforms import Bbox

from bench.cases import COMPILED, LOW_RANK, OURS, Case
from bench.compare import number, ratios

Run = dict[str, Any]
Readings = dict[str, list[float]]
"""Implementation -> a reading for each round."""

# The palette of Okabe and Ito, which colour-blind readers tell apart.
BLUE, ORANGE, GREEN, GREY, INK = "#0072B2", "#D55E00", "#009E73", "#8A8A8A", "#222222"
ENGINES = {"fourier": (BLUE, "o"), "gate": (ORANGE, "s"), "unitary": (GREEN, "^")}
STYLE: Any = {
    "figure.facecolor": "white",  # also on pages with a dark background
    "axes.facecolor": "white",
    "axes.edgecolor": "#BBBBBB",
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.7,
    "xtick.color": "#555555",
    "ytick.color": "#555555",
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "text.color": INK,
    "font.family": "DejaVu Sans",  # comes with matplotlib, so that charts look the same everywhere
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
    "savefig.dpi": 160,
}


@contextmanager
def page(path: Path, source: str, width: float, height: float) -> Iterator[Figure]:
    """A figure in the common style, saved to ``path`` at the end."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure
        figure.savefig(path, format="png", metadata={"Source": source, "Software": None})


def plain_numbers(panel: Axes, axis: str) -> None:
    """Ticks of a logarithmic axis at powers of ten, written out while they are short."""

    def write(value: float, _: int) -> str:
        if 0.001 <= value < 10_000:
            return f"{value:g}"
        return f"$10^{{{round(math.log10(value))}}}$"

    which = panel.xaxis if axis == "x" else panel.yaxis
    which.set_major_formatter(FuncFormatter(write))
    which.set_minor_formatter(NullFormatter())


# --- who is how fast --------------------------------------------------------------------------------------------------


def _readings(case: dict[str, Any]) -> Readings:
    """Of the implementations that a chart shows: of `bench.compare`'s hand-written forms the best of each kind."""
    readings: Readings = case["microseconds_per_circuit"]
    forms = [name for name in readings if name.removesuffix(COMPILED) in ("halves", "unitary", LOW_RANK)]
    shown = {name: values for name, values in readings.items() if name not in forms}
    for label, kind in (
        ("hand-written torch", [name for name in forms if COMPILED not in name and LOW_RANK not in name]),
        ("hand-written torch, compiled", [name for name in forms if COMPILED in name and LOW_RANK not in name]),
    ):
        if kind:
            shown[label] = readings[min(kind, key=lambda name: statistics.median(readings[name]))]
    return shown


def _order(cases: list[Readings]) -> list[str]:
    """Names from the fastest to the slowest: by their ratios to hqfkernels, in the geometric mean; it is the first."""
    logs: dict[str, list[float]] = {}
    for readings in cases:
        for name in readings:
            logs.setdefault(name, []).append(math.log(statistics.median(ratios(readings, name))))
    return sorted(logs, key=lambda name: (name != OURS, statistics.mean(logs[name])))


def speed(run: Run, path: Path, source: str, cases: Sequence[Case] = ()) -> None:
    """A panel for each case, a row for each implementation, from results of `bench.compare` or `bench.peers`.

    Args:
        run: has ``cases``, each with ``n``, ``layers``, ``batch`` and ``microseconds_per_circuit`` (name -> a reading
            for each round).
        path: where the PNG goes.
        source: the name of the result file.
        cases: which cases, in this order; all by default.

    Raises:
        ValueError: if the run lacks one of the cases.
    """
    found = {Case(case["n"], case["layers"], case["batch"]): case for case in run["cases"]}
    missing = [str(case) for case in cases if case not in found]
    if missing:
        raise ValueError(f"cases: {source} has no {', '.join(missing)}")
    panels = [(case, _readings(found[case])) for case in cases or found]
    names = _order([readings for _, readings in panels])
    columns = min(len(panels), 4)
    lines = math.ceil(len(panels) / columns)
    longest = max(map(len, names))
    size = 0.075 * longest + 2.55 * columns, lines * (0.85 + 0.3 * len(names))
    with page(path, source, *size) as figure:
        grid = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
        medians = [statistics.median(values) for _, readings in panels for values in readings.values()]
        for axes, (case, readings) in zip(grid.flat, panels, strict=False):
            _speed_panel(axes, case, readings, names)
        for axes in grid.flat[len(panels) :]:
            axes.set_visible(False)
        first = grid[0, 0]
        first.set_xlim(min(medians) / 2, max(medians) * 12)  # to the right, room for labels
        first.set_xscale("log")
        plain_numbers(first, "x")
        first.set_ylim(len(names) - 0.4, -0.6)
        first.set_yticks(range(len(names)), names)
        for line in grid:
            label = line[0].get_yticklabels()[0]
            label.set_color(BLUE)
            label.set_fontweight("bold")
        figure.supxlabel("microseconds per circuit, forward + backward (log scale)", fontsize=9.5)


def _colour(name: str) -> str:
    return BLUE if name == OURS else ORANGE if name.startswith("hand-written") else GREY


def _speed_panel(axes: Axes, case: Case, readings: Readings, names: list[str]) -> None:
    axes.set_title(f"{case.n} qubits, {case.layers} layers", pad=14)
    batch = f"batch {case.batch}"
    axes.annotate(
        batch, (0, 1), (0, 3), xycoords="axes fraction", textcoords="offset points", fontsize=8, color="#555555"
    )
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0, labelsize=9.5, labelcolor=INK)
    ours = statistics.median(readings[OURS])
    for row, name in enumerate(names):
        if name not in readings:
            axes.text(ours, row, "  no result", va="center", fontsize=8, color=GREY)
            continue
        low, median, high = np.percentile(readings[name], [25, 50, 75])
        colour = _colour(name)
        axes.plot([ours, median], [row, row], color=colour, alpha=0.3, linewidth=3, solid_capstyle="butt")
        axes.plot([low, high], [row, row], color=colour, linewidth=1.4)
        axes.plot(median, row, "o", color=colour, markersize=8 if name == OURS else 6)
        ratio = statistics.median(ratios(readings, name))
        text = f"{number(median)} µs" if name == OURS else f"{ratio:.1f}×" if ratio < 100 else f"{number(ratio)}×"
        place = (max(high, median), row)
        axes.annotate(
            text,
            place,
            (7, 0),
            textcoords="offset points",
            va="center",
            fontsize=8.5,
            color=colour if name == OURS else INK,
            fontweight="bold" if name == OURS else "normal",
        )


# --- how cost grows ---------------------------------------------------------------------------------------------------


def _curve(axes: Axes, points: list[dict[str, Any]], grows: str, scale: float = 1) -> list[tuple[float, float]]:
    """Medians with quartiles, each point in the look of its engine; returns where they are."""
    xs = [point[grows] for point in points]
    low, median, high = (
        [np.percentile(point["microseconds"], share) * scale for point in points] for share in (25, 50, 75)
    )
    axes.plot(xs, median, color="#AAAAAA", linewidth=1.2, zorder=1.5)
    axes.vlines(xs, low, high, color="#777777", linewidth=1.2, zorder=1.6)
    for engine, (colour, marker) in ENGINES.items():
        chosen = [(x, y) for x, y, point in zip(xs, median, points, strict=True) if point["engine"] == engine]
        if chosen:
            axes.plot(*zip(*chosen, strict=True), marker, color=colour, label=engine)
    return list(zip(xs, median, strict=True))


def _label_end(axes: Axes, place: tuple[float, float], text: str) -> None:
    """To the right of the end of a curve."""
    axes.annotate(text, place, (9, 0), textcoords="offset points", va="center", fontsize=8.5)


def scaling(run: Run, path: Path, source: str) -> None:
    """Time against batch, qubits and depth; memory against batch; threads and experts. From `bench.scaling`."""
    by: dict[str, list[dict[str, Any]]] = {}
    for curve in run["curves"]:
        by.setdefault(curve["grows"], []).append(curve)
    with page(path, source, 11, 6.8) as figure:
        (batch, qubits, depth), (memory, threads, experts) = figure.subplots(2, 3)

        for axes, grows in ((batch, "batch"), (qubits, "qubits")):
            (curve,) = by[grows]
            _curve(axes, curve["points"], grows)
            axes.set(title=f"{grows.capitalize()} ({curve['fixed']})", yscale="log")
        batch.set(xlabel="circuits (log scale)", xscale="log", ylabel="µs per circuit, one thread (log scale)")
        qubits.set(xlabel="qubits")
        qubits.set_xticks([point["qubits"] for point in by["qubits"][0]["points"]][::2])
        for curve in by["depth"]:
            _label_end(depth, _curve(depth, curve["points"], "depth")[-1], curve["fixed"].replace(", ", ",\n"))
        depth.set(title="Depth", xlabel="layers (log scale)", xscale="log", yscale="log")
        layers = [point["depth"] for point in by["depth"][0]["points"]]
        ticks = [2**k for k in range(math.floor(math.log2(layers[-1])) + 1)]
        depth.set_xticks(ticks, [str(tick) for tick in ticks])
        depth.xaxis.set_minor_locator(NullLocator())
        depth.set_xlim(right=layers[-1] * 6)  # room for labels, as below

        (curve,) = by["batch"]
        sizes = [point["batch"] for point in curve["points"]]
        peak, tensors = ([point[key] / 2**20 for point in curve["points"]] for key in ("peak", "tensors"))
        memory.plot(sizes, peak, "o-", color=INK)
        memory.plot(sizes, tensors, color=GREY, linewidth=1, linestyle="--")
        memory.set(title=f"Memory ({curve['fixed']})", xlabel="circuits (log scale)", xscale="log", yscale="log")
        memory.set_ylabel("MiB at the peak (log scale)")
        memory.text(
            0.05,
            0.9,
            "dashed: inputs, outputs and\ntheir gradients alone",
            transform=memory.transAxes,
            va="top",
            fontsize=8.5,
        )

        for axes, grows in ((threads, "threads"), (experts, "experts")):
            for curve in by[grows]:
                base = statistics.median(curve["points"][0]["microseconds"])
                points = [
                    point
                    | {"microseconds": [base / x if grows == "threads" else x / base for x in point["microseconds"]]}
                    for point in curve["points"]
                ]
                _label_end(axes, _curve(axes, points, grows)[-1], ",\n".join(curve["fixed"].split(", ")[:2]))
            most = by[grows][0]["points"][-1][grows]
            axes.plot([1, most], [1, most], color=GREY, linewidth=1, linestyle="--", zorder=1)
            axes.set_xticks(range(1, most + 1))
            axes.set_xlim(1 - 0.08 * most, most + 0.45 * (most - 0.5))
            axes.set_ylim(bottom=0)
        threads.set(title="Threads", xlabel="threads (dashed: ideal)", ylabel="times as fast as one thread")
        experts.set(title="Experts (batch 65536)", xlabel="circuits (dashed: one by one)")
        experts.set_ylabel("times the cost of one circuit")

        for axes in (batch, qubits, depth, memory):
            plain_numbers(axes, "y")
        for axes in (batch, memory):
            plain_numbers(axes, "x")
        _engine_legend(figure, {point["engine"] for curve in run["curves"] for point in curve["points"]})


def _engine_legend(figure: Figure, engines: set[str]) -> None:
    """The looks of the engines, above all panels."""
    handles = [
        Line2D([], [], color=colour, marker=marker, linestyle="", label=f"{engine} engine")
        for engine, (colour, marker) in ENGINES.items()
        if engine in engines
    ]
    figure.legend(handles=handles, loc="outside upper left", ncols=3, frameon=False, fontsize=9.5, handletextpad=0.2)


def growth(run: Run, path: Path, source: str) -> None:
    """Microseconds per circuit of each engine against depth, batch and qubits, from `bench.growth`."""
    with page(path, source, 11, 3.9) as figure:
        panels = figure.subplots(1, len(run["axes"]))
        for axes, (grows, data) in zip(panels, run["axes"].items(), strict=True):
            for engine, (colour, marker) in ENGINES.items():
                points = [(p[grows], p[engine]) for p in data["points"] if engine in p]
                axes.plot(*zip(*points, strict=True), color=colour, marker=marker)
            axes.set(title=data["fixed"], xlabel=grows if grows == "qubits" else f"{grows} (log scale)", yscale="log")
            if grows != "qubits":
                axes.set_xscale("log")
                plain_numbers(axes, "x")
            plain_numbers(axes, "y")
            if grows == "layers":
                axes.set_xticks([2, 4, 8, 16, 32], ["2", "4", "8", "16", "32"])
                axes.xaxis.set_minor_locator(NullLocator())
        panels[0].set_ylabel("µs per circuit, one thread")
        _engine_legend(figure, set(ENGINES))


# --- how much of the machine is used ----------------------------------------------------------------------------------


def roofline(run: Run, path: Path, source: str) -> None:
    """Operations per nanosecond against operations per byte, under what the machine reaches. From `bench.roofline`."""
    fma, bandwidth = (statistics.median(run["peaks"][name]) for name in ("operations_per_ns", "bytes_per_ns"))
    points = [
        (case["operations"] / case["bytes"], case["operations"] / statistics.median(case["nanoseconds"]), case)
        for case in run["cases"]
    ]
    with page(path, source, 8, 4.8) as figure:
        axes = figure.subplots()
        left, right = 0.5 * min(x for x, _, _ in points), 3 * max(x for x, _, _ in points)
        left = min(left, fma / bandwidth / 3)
        ridge = fma / bandwidth
        axes.plot([left, ridge, right], [left * bandwidth, fma, fma], color=INK, linewidth=2)
        axes.fill_between([left, ridge, right], [left * bandwidth, fma, fma], fma * 3, color="#F3F3F3", linewidth=0)
        axes.set(xscale="log", yscale="log", xlim=(left, right), ylim=(min(y for _, y, _ in points) / 2.5, fma * 2.2))
        axes.annotate(
            f"multiply-adds: {number(fma)} per ns",
            (right, fma),
            (-4, 5),
            textcoords="offset points",
            ha="right",
            fontsize=9,
        )
        axes.annotate(
            f"copying: {number(bandwidth)} bytes per ns",
            (math.sqrt(left * ridge), math.sqrt(left * ridge) * bandwidth),
            (8, -4),
            textcoords="offset points",
            fontsize=9,
        )
        labels = []
        for x, y, case in points:
            colour, marker = ENGINES[case["engine"]]
            axes.plot(x, y, marker, color=colour, markersize=8)
            text = f"{case['qubits']} qubits, {case['depth']} layers: {y / min(fma, x * bandwidth):.0%}"
            labels.append(axes.annotate(text, (x, y), (0, 0), textcoords="offset points", fontsize=8.5))
        axes.set(
            xlabel="operations per byte of inputs, outputs and gradients (log scale)",
            ylabel="operations per ns, one thread (log scale)",
        )
        plain_numbers(axes, "x")
        plain_numbers(axes, "y")
        _engine_legend(figure, {case["engine"] for case in run["cases"]})
        _spread(figure, axes, labels)


def _spread(figure: Figure, axes: Axes, labels: list[Annotation]) -> None:
    """Puts each label beside its point where it covers no other label or point, if there is such a place."""
    figure.draw_without_rendering()  # settles where points are in the picture
    points = [axes.transData.transform(label.xy) for label in labels]
    radius = 7 * figure.dpi / 72
    taken = [Bbox.from_extents(*(point - radius), *(point + radius)) for point in points]
    sides = [
        (10, 0, "left", "center"),
        (-10, 0, "right", "center"),
        (0, -9, "center", "top"),
        (0, 9, "center", "bottom"),
    ]
    for label in labels:
        for right, up, horizontal, vertical in sides:
            label.set(position=(right, up), ha=horizontal, va=vertical)
            box = label.get_window_extent()
            inside = axes.bbox.x0 <= box.x0 and box.x1 <= axes.bbox.x1
            if inside and not any(box.overlaps(other) for other in taken):
                break
        taken.append(label.get_window_extent())


CHARTS: dict[str, Callable[..., None]] = {"speed": speed, "scaling": scaling, "roofline": roofline, "growth": growth}
"""Functions of a run, the path of the PNG and the name of the result; `speed` takes cases as well."""


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.plot", description=__doc__)
    parser.add_argument("chart", choices=CHARTS)
    parser.add_argument("result", type=Path, help="a JSON file of bench/results")
    parser.add_argument("png", type=Path, help="where the chart goes")
    options = parser.parse_args(arguments)
    CHARTS[options.chart](json.loads(options.result.read_text()), options.png, options.result.name)


if __name__ == "__main__":
    main()
