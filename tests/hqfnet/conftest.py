"""Fixtures of the hqfnet tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data folder: two training images, one for validation, 3 classes, id 9 to be ignored."""
    rng = np.random.default_rng(0)
    root = tmp_path / "data"
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True)
    for stem, (height, width) in {"a": (70, 100), "b": (64, 64), "c": (50, 90)}.items():
        pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "images" / f"{stem}.png")
        mask = Image.fromarray(rng.choice([0, 1, 2, 9], (height, width)).astype(np.uint8), mode="P")
        mask.putpalette([k for i in range(10) for k in (10 * i, 0, 255 - i)])
        mask.save(root / "masks" / f"{stem}.png")
    (root / "train.txt").write_text("a\nb\n")
    (root / "val.txt").write_text("c\n")
    return root
