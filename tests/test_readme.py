"""What the README shows runs, and gives the numbers that PennyLane gives."""

import re
from pathlib import Path

import pytest
import torch

README = Path(__file__).parents[1] / "README.md"


def test_first_example():
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, torch.Tensor] = {}
    exec(code, names)
    assert names["y"].shape == (100_000, 4)
    assert names["inputs"].grad is not None
    assert names["weights"].grad is not None
    assert names["maps"].shape == (2, 8, 64, 64)

    qml = pytest.importorskip("pennylane")

    @qml.qnode(qml.device("default.qubit", wires=4))
    def node(x, w):
        for q in range(4):
            qml.RY(x[:, q], q)
            qml.RY(w[q], q)
        for q in range(4):
            qml.CNOT([q, (q + 1) % 4])
        return [qml.expval(qml.PauliZ(q)) for q in range(4)]

    few = names["inputs"].detach()[:50]
    expected = torch.stack(node(few.double(), names["weights"].detach().double()), -1)
    torch.testing.assert_close(names["y"][:50].detach().double(), expected, atol=1e-6, rtol=0)
