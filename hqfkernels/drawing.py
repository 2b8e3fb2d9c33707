"""Circuit diagrams, as text and as matplotlib figures.

Both show time from left to right and qubit 0 on top. Gates are packed to the left where their wires are free; measured
Pauli strings follow, each with the output it becomes (``X → y2`` belongs to output 2). Angles are in radians, with
``x`` for inputs and ``w`` for weights.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import starmap
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from hqfkernels.circuit import Circuit, Gate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

T = TypeVar("T")

_CONTROL, _NOT, _CROSS = "●", "⊕", "×"
_MARKS = (_CONTROL, _NOT, _CROSS)
_NAMES = {"sdg": "S†", "tdg": "T†", "sx": "√X", "rot": "Rot"}
_COLOURS = {"inputs": "#cfe3f7", "weights": "#fde3b8", "constant": "#ececec", "measured": "#d5edd3"}

_FONT = 10  # points
_PITCH = 0.5  # inches from wire to wire
_MARGIN = 0.45  # inches left of the wires


class _Item(NamedTuple):
    """One gate or observable: a mark or the text of a box for each of its qubits, joined by a vertical line."""

    cells: dict[int, str]
    kind: str

    @property
    def span(self) -> range:
        return range(min(self.cells), max(self.cells) + 1)


def draw_text(circuit: Circuit, width: int = 100) -> str:
    """Draws ``circuit`` in unicode characters.

    Args:
        circuit: what to draw.
        width: length of a line; longer circuits go on below (a line is longer only if a single gate is).

    Returns:
        Lines without trailing spaces, joined by newlines: three for each qubit, with a blank one between blocks.
    """
    label_width = len(f"q{circuit.n_qubits - 1} ")
    columns = [_text_column(column, circuit.n_qubits) for column in _columns(circuit)]
    blocks = _wrap(columns, [len(column[0]) for column in columns], width - label_width)
    text = []
    for block in blocks:
        for row in range(3 * circuit.n_qubits):
            label = f"q{row // 3} " if row % 3 == 1 else ""
            text.append((label.rjust(label_width) + "".join(column[row] for column in block)).rstrip())
        text.append("")
    return "\n".join(text[:-1])


def _text_column(items: Iterable[_Item], n_qubits: int) -> list[str]:
    """The 3 * n_qubits rows of one column, all of one width, with a piece of wire on its left and right."""
    items = list(items)
    width = max(len(_text_cell(text, False, False)[0]) for item in items for text in item.cells.values()) + 2
    rows = [" " * width, "─" * width, " " * width] * n_qubits
    for item in items:
        for q in item.span:
            cell = _text_cell(item.cells.get(q, "┼"), q > item.span[0], q < item.span[-1])
            # Vertical lines run through the middle of cells; this brings all middles into one line.
            left = width // 2 - len(cell[0]) // 2
            for k, piece in enumerate(cell):
                row = rows[3 * q + k]
                rows[3 * q + k] = row[:left] + piece + row[left + len(piece) :]
    return rows


def _text_cell(text: str, up: bool, down: bool) -> tuple[str, str, str]:
    """Top, wire and bottom row of a mark, a crossing or a box, with vertical lines to the qubits on either side."""
    if text in (*_MARKS, "┼"):
        return "│" if up else " ", text, "│" if down else " "
    bar = "─" * (len(text) + 2)
    middle = (len(text) + 4) // 2 - 1
    top = bar[:middle] + ("┴" if up else "─") + bar[middle + 1 :]
    bottom = bar[:middle] + ("┬" if down else "─") + bar[middle + 1 :]
    return f"┌{top}┐", f"┤ {text} ├", f"└{bottom}┘"


def draw_mpl(circuit: Circuit, width: float = 12.0) -> Figure:
    """Draws ``circuit`` as a matplotlib figure, free of pyplot's global state; ``figure.savefig(path)`` writes it.

    Boxes are coloured by what their angles depend on: inputs (perhaps with weights), weights, or nothing.

    Args:
        circuit: what to draw.
        width: of the figure in inches; longer circuits go on below (it is wider only if a single gate is).

    Raises:
        ImportError: if matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
        from matplotlib.patches import Patch
        from matplotlib.textpath import TextPath
    except ImportError as error:
        raise ImportError('a figure needs matplotlib: pip install "hqfkernels[draw]"') from error

    def text_width(text: str) -> float:
        return 0 if text in _MARKS else float(TextPath((0, 0), _math(text), size=_FONT).get_extents().width) / 72

    n = circuit.n_qubits
    columns = _columns(circuit)
    widths = [max(0.22, *(text_width(t) + 0.16 for item in c for t in item.cells.values())) + 0.2 for c in columns]
    blocks = _wrap(list(zip(columns, widths, strict=True)), widths, width - _MARGIN - 0.2)
    present = {item.kind for column in columns for item in column if not set(item.cells.values()) <= set(_MARKS)}
    length = _MARGIN + 0.2 + max(sum(w for _, w in block) for block in blocks)
    length = max(length, len(present))  # an inch for each entry of the legend
    height = len(blocks) * n * _PITCH + (len(blocks) - 1) * _PITCH / 2 + 0.35

    # Axes in inches over the whole figure, so that sizes are what they say.
    figure = Figure(figsize=(length, height), facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, length), ylim=(height, 0))
    axes.set_axis_off()
    top = 0.0
    for block in blocks:
        wires = [top + (q + 0.5) * _PITCH for q in range(n)]
        end = _MARGIN + sum(w for _, w in block)
        for q, y in enumerate(wires):
            axes.plot([_MARGIN, end], [y, y], color="#555555", linewidth=1, zorder=0)
            axes.text(_MARGIN - 0.08, y, f"$q_{{{q}}}$", ha="right", va="center", fontsize=_FONT + 1)
        x = _MARGIN
        for items, w in block:
            for item in items:
                _mpl_item(axes, item, x + w / 2, wires, [text_width(t) for t in item.cells.values()])
            x += w
        top += (n + 0.5) * _PITCH
    handles = [Patch(facecolor=c, edgecolor="#444444", label=k) for k, c in _COLOURS.items() if k in present]
    axes.legend(handles=handles, ncols=len(handles), loc="lower left", fontsize=_FONT - 2, frameon=False)
    return figure


def _mpl_item(axes: Axes, item: _Item, x: float, wires: Sequence[float], text_widths: Sequence[float]) -> None:
    from matplotlib.patches import Circle, FancyBboxPatch

    ink = "#222222"
    axes.plot([x, x], [wires[item.span[0]], wires[item.span[-1]]], color=ink, linewidth=1.2, zorder=1)
    for (q, text), text_width in zip(item.cells.items(), text_widths, strict=True):
        y = wires[q]
        if text == _CONTROL:
            axes.add_patch(Circle((x, y), 0.05, color=ink, zorder=2))
        elif text == _NOT:
            axes.add_patch(Circle((x, y), 0.11, facecolor="white", edgecolor=ink, linewidth=1.2, zorder=2))
            axes.plot([x - 0.11, x + 0.11], [y, y], color=ink, linewidth=1.2, zorder=3)
            axes.plot([x, x], [y - 0.11, y + 0.11], color=ink, linewidth=1.2, zorder=3)
        elif text == _CROSS:
            axes.plot([x - 0.07, x + 0.07], [y - 0.07, y + 0.07], color=ink, linewidth=1.5, zorder=2)
            axes.plot([x - 0.07, x + 0.07], [y + 0.07, y - 0.07], color=ink, linewidth=1.5, zorder=2)
        else:
            half, tall = max(0.22, text_width + 0.16) / 2, 0.32
            axes.add_patch(
                FancyBboxPatch(
                    (x - half, y - tall / 2),
                    2 * half,
                    tall,
                    boxstyle="round,pad=0,rounding_size=0.04",
                    facecolor=_COLOURS[item.kind],
                    edgecolor="#444444",
                    zorder=2,
                )
            )
            axes.text(x, y, _math(text), ha="center", va="center", fontsize=_FONT, zorder=3)


def _math(text: str) -> str:
    """Parameters as matplotlib's mathtext, with their index below the line."""
    return re.sub(r"([xwy])(\d+)", r"$\1_{\2}$", text)


def _columns(circuit: Circuit) -> list[list[_Item]]:
    """Gates, then observables, each in the first column in which its wires are free."""
    return _pack(map(_gate_item, circuit.gates)) + _pack(starmap(_observable_item, enumerate(circuit.observables)))


def _pack(items: Iterable[_Item]) -> list[list[_Item]]:
    columns: list[list[_Item]] = []
    free: dict[int, int] = {}
    for item in items:
        place = max(free.get(q, 0) for q in item.span)
        if place == len(columns):
            columns.append([])
        columns[place].append(item)
        free.update(dict.fromkeys(item.span, place + 1))
    return columns


def _gate_item(gate: Gate) -> _Item:
    depends = (("inputs", any(a.inputs for a in gate.angles)), ("weights", any(a.weights for a in gate.angles)))
    kind = next((kind for kind, does in depends if does), "constant")
    angles = ", ".join(str(a).replace("*", "") for a in gate.angles)
    name = gate.name
    if name == "amplitudes":
        texts = [f"|{gate.angles[0]}…{gate.angles[-1]}⟩"] * len(gate.qubits)
    elif name == "unitary":
        texts = ["U"] if len(gate.qubits) == 1 else ["U₀", "U₁"]
    elif name == "swap":
        texts = [_CROSS, _CROSS]
    elif name == "cx":
        texts = [_CONTROL, _NOT]
    elif name == "cz":
        texts = [_CONTROL, _CONTROL]
    else:
        controls = [_CONTROL] if name.startswith("c") else []
        name = name[len(controls) :]
        text = _NAMES.get(name, name.upper()) + (f"({angles})" if angles else "")
        texts = controls + [text] * (len(gate.qubits) - len(controls))
    return _Item(dict(zip(gate.qubits, texts, strict=True)), kind)


def _observable_item(index: int, paulis: str) -> _Item:
    cells = {q: f"{pauli} → y{index}" for q, pauli in enumerate(paulis) if pauli != "I"}
    return _Item(cells or {0: f"I → y{index}"}, "measured")


def _wrap(parts: Sequence[T], lengths: Sequence[float], limit: float) -> list[list[T]]:
    """Breaks ``parts`` into blocks of at most ``limit`` in total length, of one part at least."""
    blocks: list[list[T]] = []
    room = 0.0
    for part, length in zip(parts, lengths, strict=True):
        if not blocks or length > room:
            blocks.append([])
            room = limit
        blocks[-1].append(part)
        room -= length
    return blocks
