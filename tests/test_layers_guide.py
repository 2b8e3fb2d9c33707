"""What docs/layers.md shows runs, with the shapes that it tells."""

import re
from pathlib import Path
from typing import Any

import torch

GUIDE = Path(__file__).parents[1] / "docs" / "layers.md"


def test_examples():
    names: dict[str, Any] = {}
    for code in re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL):
        exec(code, names)
    assert names["values"].shape == (1000, 12)
    assert names["mixed"].shape == (1000, 4)
    assert names["every"].shape == (2, 3, 8, 64, 64)
    assert names["routed"].shape == (2, 8, 64, 64)
    few = torch.randn(5, 8, 64, 64)
    assert torch.equal(names["program"].module()(few), names["plain"](few))
