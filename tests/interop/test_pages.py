"""What docs/interop.md shows runs and says what it says."""

import pytest
import torch

from tests import pages

pytest.importorskip("pennylane")
pytest.importorskip("qiskit")
pytest.importorskip("openqasm3")

PAGE = "docs/interop.md"


def test_examples(capsys):
    names = pages.run(PAGE)
    assert names["features"].shape == (1024, 4)
    assert (names["circuit"].n_inputs, names["circuit"].n_weights) == (4, 24)
    assert [str(o.paulis[0]) for o in names["observables"]] == ["IZ", "XX"]
    assert [p.name for p in names["trained"].parameters] == ["x[0]"]
    assert names["back"] == names["c"]
    (shown,) = pages.blocks(PAGE, "")
    assert capsys.readouterr().out.startswith(shown)
    assert names["weights_of"](names["layer"]).shape == (24,)
    assert torch.isfinite(names["features"]).all()
