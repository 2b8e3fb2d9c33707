"""Text diagrams and matplotlib figures."""

import io
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest

from hqfkernels import ansatz, drawing
from hqfkernels.circuit import GATES, Circuit, Input, Weight
from tests import oracles

EXAMPLE = (
    Circuit(3).ry(2 * Input(0), 0).rz(Weight(0), 1).cx(0, 2).cz(0, 1).swap(1, 2).crz(0.25, 2, 0).measure("ZII", "XIY")
)
DIAGRAM = """\
    ┌─────────┐           ┌──────────┐  ┌────────┐  ┌────────┐
q0 ─┤ RY(2x0) ├──●──●─────┤ RZ(0.25) ├──┤ Z → y0 ├──┤ X → y1 ├─
    └─────────┘  │  │     └─────┬────┘  └────────┘  └────┬───┘
    ┌────────┐   │  │           │                        │
q1 ─┤ RZ(w0) ├───┼──●──×────────┼────────────────────────┼─────
    └────────┘   │     │        │                        │
                 │     │        │                   ┌────┴───┐
q2 ──────────────⊕─────×────────●───────────────────┤ Y → y1 ├─
                                                    └────────┘"""


def lines_of(circuit, width=10**6):
    return drawing.draw_text(circuit, width).split("\n")


def test_text_diagram():
    assert EXAMPLE.draw() == DIAGRAM


def test_long_circuits_wrap_at_the_width():
    circuit = ansatz.local_circuit((2, 2), depth=4)
    for width in (40, 60, 100):
        lines = lines_of(circuit, width)
        assert max(map(len, lines)) <= width
        # Every piece of the unbroken wires is there, in order.
        whole = lines_of(circuit)[1].removeprefix("q0 ")
        assert "".join(line.removeprefix("q0 ") for line in lines if line.startswith("q0 ")) == whole


def test_a_gate_wider_than_the_width_has_a_line_of_its_own():
    text = drawing.draw_text(Circuit(1).x(0).rot(Input(0), Weight(0), Weight(1), 0).x(0), width=10)
    assert [line for line in text.split("\n") if line.startswith("q0")] == [
        "q0 ─┤ X ├─",
        "q0 ─┤ Rot(x0, w0, w1) ├─",
        "q0 ─┤ X ├─",
        "q0 ─┤ Z → y0 ├─",
    ]


@pytest.mark.parametrize("name", [*GATES, "unitary", "amplitudes"])
def test_every_gate_shows_on_its_qubits_and_only_there(name):
    if name == "unitary":
        circuit, qubits = Circuit(3).unitary(np.eye(4), [2, 0]), [2, 0]
    elif name == "amplitudes":
        circuit, qubits = Circuit(3).amplitudes(), [0, 1, 2]
    else:
        n_angles, size = GATES[name]
        qubits = [2, 0][:size]
        circuit = Circuit(3).append(name, [Weight(k) for k in range(n_angles)], qubits)
    measured = len("─┤ I → y0 ├─")
    lines = lines_of(circuit.measure("III"))
    for q in range(3):
        symbols = set(lines[3 * q + 1][len("q0 ") : -measured]) - {"─", " "}
        assert bool(symbols - {"┼"}) == (q in qubits)
        assert ("┼" in symbols) == (q == 1 and len(qubits) == 2)


def test_vertical_lines_are_unbroken():
    for seed in range(10):
        circuit = oracles.random_circuit(np.random.default_rng(seed), 5, 40, 3, 4)
        lines = lines_of(circuit)
        width = max(map(len, lines))
        rows = [line.ljust(width) for line in lines]
        for upper, lower in pairwise(rows):
            for a, b in zip(upper, lower, strict=True):
                assert a not in "│┬" or b in "│┴┼●⊕×", (upper, lower)
                assert b not in "│┴" or a in "│┬┼●⊕×", (upper, lower)


def test_gates_on_free_wires_share_a_column():
    assert lines_of(Circuit(2).x(0).x(1))[1] == "q0 ─┤ X ├──┤ Z → y0 ├─"
    assert lines_of(Circuit(2).x(0).x(1).x(0))[4] == "q1 ─┤ X ├─────────┤ Z → y1 ├─"


def test_an_empty_circuit_shows_what_is_measured():
    assert lines_of(Circuit(1))[1] == "q0 ─┤ Z → y0 ├─"
    assert lines_of(Circuit(1).measure("I"))[1] == "q0 ─┤ I → y0 ├─"


def figure_texts(figure):
    return [text.get_text() for text in figure.axes[0].texts]


def test_figure_shows_every_gate_and_renders():
    figure = drawing.draw_mpl(EXAMPLE)
    texts = figure_texts(figure)
    assert {"RY(2$x_{0}$)", "RZ($w_{0}$)", "RZ(0.25)", "Z → $y_{0}$", "Y → $y_{1}$"} <= set(texts)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    assert buffer.getvalue().startswith(b"\x89PNG")


def test_figure_wraps_at_its_width():
    circuit = ansatz.local_circuit((2, 2), depth=4)
    one = drawing.draw_mpl(circuit, width=100).get_size_inches()
    many = drawing.draw_mpl(circuit, width=6)
    assert many.get_size_inches()[0] <= 6 < one[0]
    assert many.get_size_inches()[1] > 2 * one[1]
    assert figure_texts(many).count("$q_{0}$") > 2


def test_every_box_keeps_its_text_inside():
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.patches import FancyBboxPatch

    figure = drawing.draw_mpl(oracles.random_circuit(np.random.default_rng(2), 4, 40, 3, 4))
    renderer = FigureCanvasAgg(figure).get_renderer()
    boxes = [p.get_window_extent(renderer) for p in figure.axes[0].patches if isinstance(p, FancyBboxPatch)]
    labels = [t.get_window_extent(renderer) for t in figure.axes[0].texts if not t.get_text().startswith("$q")]
    assert len(boxes) == len(labels)
    for box, label in zip(boxes, labels, strict=True):
        assert box.x0 <= label.x0
        assert label.x1 <= box.x1
        assert box.y0 <= label.y0
        assert label.y1 <= box.y1


def test_figures_leave_pyplot_alone():
    code = (
        "import sys; from hqfkernels import Circuit; c = Circuit(1).x(0);"
        "c.draw(); assert 'matplotlib' not in sys.modules;"
        "c.draw('mpl'); assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match="needs matplotlib"):
        EXAMPLE.draw("mpl")
