"""The seeds of ``texts.cpp``."""

from __future__ import annotations

from pathlib import Path

from fuzz.targets import seeds

KINDS = {"p": "program", "g": "program", "s": "series"}
"""First byte of an input, and what its rest is; that of a propagation is its number of weights."""


def write(folder: Path) -> None:
    """Writes them into ``folder``, a file for each."""
    folder.mkdir(parents=True, exist_ok=True)
    inputs = [letter.encode() + text for letter, name in KINDS.items() for text in seeds(name)]
    inputs += [text.split()[1] + text for text in seeds("propagation")]
    for k, content in enumerate(inputs):
        (folder / f"seed-{k}").write_bytes(content)
