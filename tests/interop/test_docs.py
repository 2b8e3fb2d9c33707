"""What docs/interop.md shows runs and says what it says."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("pennylane")
pytest.importorskip("qiskit")
pytest.importorskip("openqasm3")

PAGE = (Path(__file__).parents[2] / "docs" / "interop.md").read_text(encoding="utf-8")


def test_examples(capsys):
    names: dict[str, Any] = {}
    for code in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        exec(code, names)
    assert names["features"].shape == (1024, 4)
    assert (names["circuit"].n_inputs, names["circuit"].n_weights) == (4, 24)
    assert [str(o.paulis[0]) for o in names["observables"]] == ["IZ", "XX"]
    assert [p.name for p in names["trained"].parameters] == ["x[0]"]
    assert names["back"] == names["c"]
    (shown,) = re.findall(r"```\n(OPENQASM.*?)```", PAGE, re.DOTALL)
    assert capsys.readouterr().out.startswith(shown)
    assert names["weights_of"](names["layer"]).shape == (24,)
    assert torch.isfinite(names["features"]).all()
